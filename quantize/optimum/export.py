"""Exports checkpoints of architectures without a graph writer with optimum.

The model classes are those of transformers, taken by the name in config.json: code in a
checkpoint is never run, and nothing is downloaded.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from quantize.checkpoint.files import Checkpoint
from quantize.errors import QuantizeError

TASK = "text-classification"
EXPORT_OPSET = 20  # the highest that torch's tracing exporter writes


def export(checkpoint: Checkpoint, architecture: str, scratch: Path) -> Path:
    """Export a classifier with one label; return the graph's path.

    The graph takes ``input_ids``, ``attention_mask`` and perhaps more, int64 [B, L] each, and puts
    out ``logits`` float32 [B, 1]. Weights keep their names in the checkpoint.

    :param architecture: the class of transformers that config.json names
    :param scratch: a directory to write in
    :raises QuantizeError: the libraries are missing, or the checkpoint cannot be exported
    """
    try:
        import torch  # noqa: F401  # or the error would be about a name that transformers lacks
        import transformers
        from optimum.exporters.onnx import export as write
        from optimum.exporters.tasks import TasksManager
    except ImportError as error:
        raise QuantizeError(
            f"{checkpoint.directory}: {architecture} is exported through optimum, and"
            f" {error.name or 'a part of it'} is missing: pip install 'edgerank[export]'"
        ) from error
    supported = TasksManager.get_supported_model_type_for_task(TASK, exporter="onnx")
    model_class = getattr(transformers, architecture, None)
    if model_class is None:
        raise _refused(checkpoint, architecture, "it needs code that transformers lacks", supported)
    model_type = model_class.config_class.model_type
    if model_type not in supported:
        raise _refused(checkpoint, architecture, f"optimum exports no {model_type}", supported)
    with _quiet(transformers.logging):
        try:
            model = _load(checkpoint, model_class)
            describe = TasksManager.get_exporter_config_constructor(
                "onnx", model=model, task=TASK, library_name="transformers"
            )
            path = scratch / "exported" / "model.onnx"
            # Folding would rename the weights.
            write(model, describe(model.config), path, EXPORT_OPSET, do_constant_folding=False)
        except QuantizeError:
            raise
        except Exception as error:  # the libraries raise all kinds of errors
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise _refused(checkpoint, architecture, reason, supported) from error
    return path


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Hide the libraries' warnings and progress bars on stderr."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(verbosity)


def _load(checkpoint: Checkpoint, model_class: Any) -> Any:
    """Load a model in float32, and check that it is complete and has one label."""
    directory = checkpoint.directory
    options = {"local_files_only": True}
    config = model_class.config_class.from_pretrained(directory, **options)
    if config.num_labels != 1:
        raise QuantizeError(
            f"{directory}: the classifier has {config.num_labels} labels; a reranker needs exactly"
            " one"
        )
    model, info = model_class.from_pretrained(
        directory,
        config=config,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # they are in the info
        output_loading_info=True,
        **options,
    )
    mismatched = (key if isinstance(key, str) else key[0] for key in info["mismatched_keys"])
    absent = [*info["missing_keys"], *mismatched]  # a version of transformers adds the shapes
    if absent:
        raise QuantizeError(
            f"{directory}: the checkpoint lacks {absent[0]!r} in the shape that config.json"
            f" implies, and {len(absent) - 1} other tensors; is it complete, and is config.json the"
            " one it came with?"
        )
    for name, parameter in model.named_parameters():
        if not parameter.isfinite().all():
            raise QuantizeError(
                f"{directory}: tensor {name!r} holds NaN or infinity; the checkpoint is damaged"
            )
    return model.float().eval()


def _refused(
    checkpoint: Checkpoint, architecture: str, reason: str, supported: list[str]
) -> QuantizeError:
    return QuantizeError(
        f"{checkpoint.directory / 'config.json'}: {architecture} cannot be exported: {reason};"
        f" optimum exports classifiers of model type {', '.join(sorted(supported))}"
    )
