"""A checkpoint becomes a bundle: recognise the family, write the graph, measure, describe."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
from tokenizers import Tokenizer
from tqdm import tqdm

from edgerank.bundle import Bundle, describe_files, read_bundle, write_manifest
from edgerank.manifest import (
    CPU_PROVIDER,
    FORMAT_VERSION,
    MANIFEST_NAME,
    MIN_LENGTH,
    Fidelity,
    File,
    Manifest,
    Needs,
    PrecisionName,
    Source,
    Variant,
)
from quantize.checkpoint.files import Checkpoint, open_checkpoint
from quantize.checkpoint.hub import locate
from quantize.errors import QuantizeError
from quantize.families.recognition import ModelSpec, RecognizedModel, recognize
from quantize.families.templates import read_template
from quantize.measure.calibration import Draft, read_calibration
from quantize.measure.report import check_report, write_report
from quantize.rounding.sensitivity import KeepFp32
from quantize.writer import RecipeStep, write_exported, write_model

STEPS: dict[RecipeStep, str] = {
    "rotate": "rotated",
    "smooth": "channels smoothed",
    "gptq": "rounding errors compensated",
}
PRECISIONS: dict[PrecisionName, str] = {
    "int8": "int8 weights per output channel, no neighbouring pair above 128; uint8 activations"
    " per token; int8 embedding per block of a row",
    "int4": "int4 weights per block of an output channel; int8 embedding per block of a row",
    "fp32": "float32 weights and activations",
}
OUTLIER_BATCHES = 2  # micro-batches that show which channels stand out


def quantize(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precision: PrecisionName = "int8",
    calibrate: str | os.PathLike[str] | None = None,
    keep_fp32: KeepFp32 = (),
    min_tau: float | None = None,
    report: str | os.PathLike[str] | None = None,
    family: str | None = None,
    template: str | os.PathLike[str] | None = None,
    steps: Sequence[RecipeStep] | None = None,
    show_progress: bool = False,
) -> Bundle:
    """Turn a Hugging Face checkpoint into a bundle, and measure what that cost.

    :param checkpoint: a directory with config.json, tokenizer.json and safetensors, or a hub id
    :param bundle: the directory to create; an existing bundle there is replaced
    :param precision: "int8", "int4" or "fp32", which is not measured
    :param calibrate: JSON Lines of {"query": ..., "document": ..., "id": ...} to choose scales by
        and to measure on; a small text of edgerank's own by default
    :param keep_fp32: matrices that stay in float32: patterns of names, how many of those that
        lose most, or "auto" for those that stand out; takes twice the time, to show the trade
    :param min_tau: the least mean Kendall tau against the original to accept
    :param report: a directory for report.json and report.html
    :param family: the name of the checkpoint's family, one of ``quantize.families``; recognised
        from its files by default
    :param template: JSON of a ``quantize.families.templates.Template`` to ask a decoder with
        instead of its family's
    :param steps: parts of the recipe: all of ``STEPS`` by default, none for fp32
    :param show_progress: draw a progress bar on stderr
    :raises QuantizeError: the checkpoint or the calibration text is unusable, the bundle cannot be
        written, or it misses ``min_tau``; nothing is left behind but the report
    """
    if precision not in PRECISIONS:
        raise QuantizeError(f"precision {precision!r} is unknown; choose {', '.join(PRECISIONS)}")
    is_rounded = precision != "fp32"
    if not is_rounded and (keep_fp32 or min_tau is not None or report is not None):
        raise QuantizeError(
            "precision 'fp32' is the original and is not measured: leave out keep_fp32, min_tau and"
            " report"
        )
    keep_fp32 = keep_fp32 or ()
    if report is not None:
        check_report(Path(report))
    calibration = read_calibration(None if calibrate is None else Path(calibrate))
    source, directory = locate(checkpoint)
    opened = open_checkpoint(directory)
    recognized = recognize(
        opened,
        _load_tokenizer(opened),
        family,
        None if template is None else read_template(Path(template)),
    )
    if steps is None:
        steps = tuple(STEPS) if is_rounded and isinstance(recognized, RecognizedModel) else ()
    if steps and not isinstance(recognized, RecognizedModel):
        raise QuantizeError(
            f"{directory}: steps of the recipe: not for an architecture that is exported by optimum"
        )
    if recognized.max_length < MIN_LENGTH:
        raise QuantizeError(
            f"{directory}: config.json's max_position_embeddings and the tokenizer's settings leave"
            f" {recognized.max_length} tokens for the texts; at least {MIN_LENGTH} are needed"
        )
    with (
        _atomic_directory(Path(bundle)) as staging,
        tqdm(desc=recognized.family, unit=" layers", disable=not show_progress) as bar,
    ):
        shutil.copyfile(opened.tokenizer_path, staging / "tokenizer.json")
        draft = Draft.of(Bundle(staging, _manifest(source, recognized, precision, steps), ""))
        draft.scratch.mkdir()
        if isinstance(recognized, RecognizedModel):
            made = write_model(draft, recognized.model, steps, calibration, keep_fp32, bar)
        else:
            made = write_exported(draft, opened, recognized, calibration, keep_fp32)
        if made is not None:
            if report is not None:
                write_report(Path(report), made)
            _check_tau(bundle, made.fidelity, min_tau)
        bar.total = bar.n  # fewer if no matrix was found worth keeping
        shutil.rmtree(draft.scratch)
        write_manifest(
            staging,
            msgspec.structs.replace(
                draft.bundle.manifest,
                variants=(
                    msgspec.structs.replace(
                        draft.variant,
                        fidelity=made.fidelity if made else None,
                        kept=made.kept if made else None,
                    ),
                ),
                files=describe_files(staging),
            ),
        )
    return read_bundle(bundle)


def _manifest(
    source: Source, spec: ModelSpec, precision: PrecisionName, steps: Sequence[RecipeStep]
) -> Manifest:
    """Describe the bundle as far as it is known before it is written."""
    graph = f"model.{precision}.onnx"
    weights = f"{graph}.data"
    variant = Variant(
        name=precision,
        precision=precision,
        provider=CPU_PROVIDER,
        recipe="; ".join([PRECISIONS[precision], *(STEPS[step] for step in steps)]),
        graph=graph,
        weights=(weights,),
        needs=Needs(),
        fidelity=None,
        kept=None,
    )
    unknown = File(size=0, sha256="")  # until the files are written
    return Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        family=spec.family,
        architecture=spec.architecture,
        max_length=spec.max_length,
        max_length_limit=spec.max_length_limit,
        prompt=spec.prompt,
        truncation=spec.truncation,
        scoring=spec.scoring,
        tokenizer="tokenizer.json",
        variants=(variant,),
        files=dict.fromkeys(("tokenizer.json", graph, weights), unknown),
    )


def _check_tau(bundle: str | os.PathLike[str], fidelity: Fidelity, min_tau: float | None) -> None:
    if min_tau is None or fidelity.kendall_tau >= min_tau:
        return
    raise QuantizeError(
        f"{os.fspath(bundle)}: refused: Kendall tau is {fidelity.kendall_tau:.4f}, below {min_tau};"
        f" the mean score error is {fidelity.mean_error:.4g} at a spread of {fidelity.spread:.4g};"
        " calibrating with text of your own or --keep-fp32 auto may help"
    )


def _load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    try:
        tokenizer = Tokenizer.from_file(str(checkpoint.tokenizer_path))
    except Exception as error:  # the library raises bare Exception
        raise QuantizeError(
            f"{checkpoint.tokenizer_path}: not a fast tokenizer: {error}"
        ) from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@contextmanager
def _atomic_directory(target: Path) -> Iterator[Path]:
    """Yield a directory beside ``target`` that takes its place if all goes well.

    :raises QuantizeError: ``target`` is something else than a bundle, or cannot be written
    """
    staging: Path | None = None
    made: list[Path] = []
    try:
        if target.exists() and not (target / MANIFEST_NAME).exists():
            raise QuantizeError(f"{target}: exists and is not a bundle; choose another name")
        made += [parent for parent in target.parents if not parent.exists()]
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        staging.chmod(0o755)
        yield staging
        if target.exists():
            shutil.rmtree(target)
        staging.rename(target)
    except OSError as error:
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise QuantizeError(f"{target}: cannot write the bundle: {what}") from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
        with suppress(OSError):  # they are not empty if all went well
            for parent in made:
                parent.rmdir()
