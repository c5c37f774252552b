"""A checkpoint becomes a bundle: recognise the family, write the graph, measure, describe."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from edgerank.bundle import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MIN_LENGTH,
    Bundle,
    Fidelity,
    Kept,
    Manifest,
    Source,
    describe_files,
    read_bundle,
    write_manifest,
)
from edgerank.packing import Batch
from quantize.calibration import (
    Calibration,
    batches_of,
    read_calibration,
    reranker_with,
    thinned,
)
from quantize.checkpoint import Checkpoint, open_checkpoint
from quantize.equalisation import outlier_channels
from quantize.errors import QuantizeError
from quantize.export import export
from quantize.families import Description, Family, Imported, recognize
from quantize.fidelity import Reference, compare, measure, open_engine, run_reference, score
from quantize.graph import Graph
from quantize.hub import locate
from quantize.imported import fold, write_imported
from quantize.layerwise import Layerwise
from quantize.model import Layer, Model
from quantize.precision import Float32, Int4, Int8, Precision
from quantize.report import Report, ScoredPair, check_plotting, write_report
from quantize.sensitivity import KeepFp32, Sensitivity, choose, measure_sensitivities
from quantize.weights import Floats

Step = Literal["rotate", "balance", "compensate"]

STEPS: dict[Step, str] = {
    "rotate": "rotated",
    "balance": "channels balanced",
    "compensate": "rounding errors compensated",
}
PRECISIONS = {
    "int8": "int8 weights per output channel, no neighbouring pair above 128; uint8 activations"
    " per token; int8 embedding per block of a row",
    "int4": "int4 weights per block of an output channel; int8 embedding per block of a row",
    "fp32": "float32 weights and activations",
}
ROUNDED = {"int8": Int8, "int4": Int4}
SCRATCH = "scratch"  # a directory beside what is being written
OUTLIER_BATCHES = 2  # micro-batches that show which channels stand out
SENSITIVITY_BATCHES = 2  # and which matrices lose most


def quantize(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precision: str = "int8",
    calibrate: str | os.PathLike[str] | None = None,
    keep_fp32: KeepFp32 = (),
    min_tau: float | None = None,
    report: str | os.PathLike[str] | None = None,
    steps: Sequence[Step] | None = None,
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
    if report is not None:
        check_plotting()
    calibration = read_calibration(None if calibrate is None else Path(calibrate))
    source, directory = locate(checkpoint)
    opened = open_checkpoint(directory)
    family = recognize(opened, _load_tokenizer(opened))
    if steps is None:
        steps = tuple(STEPS) if is_rounded and isinstance(family, Family) else ()
    if isinstance(family, Imported):
        _check_imported(opened, steps, keep_fp32)
    if family.max_length < MIN_LENGTH:
        raise QuantizeError(
            f"{directory}: config.json's max_position_embeddings and the tokenizer's settings leave"
            f" {family.max_length} tokens for the texts; at least {MIN_LENGTH} are needed"
        )
    with (
        _atomic_directory(Path(bundle)) as staging,
        tqdm(desc=family.name, unit=" layers", disable=not show_progress) as bar,
    ):
        shutil.copyfile(opened.tokenizer_path, staging / "tokenizer.json")
        scratch = staging / SCRATCH
        scratch.mkdir()
        draft = Bundle(staging, _manifest(source, family, precision, steps))
        if isinstance(family, Family):
            made = _make(draft, family, steps, calibration, keep_fp32, bar)
        else:
            made = _make_imported(draft, opened, family, calibration, keep_fp32, bar)
        if made is not None:
            if report is not None:
                write_report(Path(report), made)
            _check_tau(bundle, made.fidelity, min_tau)
        bar.total = bar.n  # fewer if no matrix was found worth keeping
        shutil.rmtree(scratch)
        write_manifest(
            staging,
            msgspec.structs.replace(
                draft.manifest,
                fidelity=made.fidelity if made else None,
                kept=made.kept if made else None,
                files=describe_files(staging),
            ),
        )
    return read_bundle(bundle)


def _make(
    draft: Bundle,
    family: Family,
    steps: Sequence[Step],
    calibration: Calibration,
    keep_fp32: KeepFp32,
    bar: tqdm,
) -> Report | None:
    """Write the graph layer by layer; measure it unless it is in float32."""
    precision, scratch = draft.manifest.precision, draft.directory / SCRATCH
    is_rounded = precision != "fp32"
    original = Layerwise(family.model, scratch, bar)
    texts = thinned(draft, original, calibration)
    batches = batches_of(draft, original, texts.pairs)
    model = family.model
    if "rotate" in steps:
        model = model.rotated(_outliers(original, batches[:OUTLIER_BATCHES]))
    passes = 1 + is_rounded + 2 * bool(keep_fp32)
    bar.total = bar.n + passes * model.num_layers
    writer = _Writer(model, precision, steps, Layerwise(model, scratch, bar), batches, bar)
    if not is_rounded:
        writer.write(draft.model_path, ())
        return None
    reference = run_reference(draft, family.model, texts, scratch, bar)
    return _write_and_measure(draft, writer, reference, keep_fp32)


def _check_imported(checkpoint: Checkpoint, steps: Sequence[Step], keep_fp32: KeepFp32) -> None:
    """Refuse what takes a model that can be run layer by layer."""
    for option, is_used in (
        ("steps of the recipe", bool(steps)),
        ("keep_fp32 'auto' or a number", keep_fp32 == "auto" or isinstance(keep_fp32, int)),
    ):
        if is_used:
            raise QuantizeError(
                f"{checkpoint.directory}: {option}: not for an architecture that is exported by"
                " optimum; leave it out, or name the matrices to keep"
            )


def _make_imported(
    draft: Bundle,
    checkpoint: Checkpoint,
    family: Imported,
    calibration: Calibration,
    keep_fp32: KeepFp32,
    bar: tqdm,
) -> Report | None:
    """Export the checkpoint and rewrite its graph; measure it unless it is in float32."""
    scratch = draft.directory / SCRATCH
    exported = fold(export(checkpoint, family.exported_class, scratch), scratch)
    if draft.manifest.precision == "fp32":
        write_imported(exported, draft.model_path, Float32(), family.pad_token_id)
        return None
    original = replace(draft, directory=scratch)
    write_imported(exported, original.model_path, Float32(), family.pad_token_id)
    engine = open_engine(original)
    texts = thinned(draft, engine, calibration)
    scores = score(reranker_with(draft, engine), texts.held_out)
    reference = Reference(texts.name, texts.held_out, scores, batches=(), streams=())
    del engine

    def attempt(keep: Sequence[str]) -> tuple[Fidelity, Floats, Graph]:
        precision = ROUNDED[draft.manifest.precision](keep=keep)
        g = write_imported(exported, draft.model_path, precision, family.pad_token_id)
        scores = score(reranker_with(draft, open_engine(draft)), reference.pairs)
        return measure(reference, scores, layers=()), scores, g

    return _report_on(draft, reference, attempt, _named(keep_fp32))


def _manifest(
    source: Source, family: Description, precision: str, steps: Sequence[Step]
) -> Manifest:
    """Describe the bundle as far as it is known before it is written."""
    return Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        family=family.name,
        architecture=family.architecture,
        precision=precision,
        recipe="; ".join([PRECISIONS[precision], *(STEPS[step] for step in steps)]),
        max_length=family.max_length,
        max_length_limit=family.max_length_limit,
        prompt=family.prompt,
        truncation=family.truncation,
        scoring=family.scoring,
        model=f"model.{precision}.onnx",
        tokenizer="tokenizer.json",
        files={},
        fidelity=None,
        kept=None,
    )


def _outliers(engine: Layerwise, batches: Sequence[Batch]) -> list[int]:
    """Find the channels of the stream that stand out after some layer."""
    prominence = np.float32(0)
    for step in engine.steps(batches):
        rms = np.sqrt(np.square(np.concatenate(step.after)).mean(axis=0))
        prominence = np.maximum(prominence, rms / np.median(rms))
    return outlier_channels(prominence)


@dataclass(frozen=True)
class _Writer:
    """How a model's layers become those of a graph."""

    model: Model[Any]
    precision: str
    steps: Sequence[Step]
    engine: Layerwise
    batches: Sequence[Batch]  # of calibration text
    bar: tqdm  # advances by one a layer

    def write(self, path: Path, keep: Sequence[str]) -> tuple[Graph, list[str]]:
        """Write the graph; return it with the names of the streams after each layer."""
        g = Graph(path)
        try:
            inputs = self.model.declare(g)
            x = self.model.embed(g, self._precision({}, keep), inputs)
            streams = []
            for layer, rows in self._layers():
                x = layer.write(g, self._precision(rows, keep), inputs, x)
                streams.append(x)
                del layer, rows
            self.model.finish(g, self._precision({}, keep), inputs, x)
            g.save()
        finally:
            g.close()
        return g, streams

    def _layers(self) -> Iterator[tuple[Layer[Any], Mapping[str, Floats]]]:
        """Yield each layer, equalised, with what its matrices read of the calibration text."""
        if not {"balance", "compensate"}.intersection(self.steps):
            for index in range(self.model.num_layers):
                yield self.model.layer(index), {}
                self.bar.update()
            return
        for step in self.engine.steps(self.batches, observe=True):
            layer, rows = step.layer, step.rows
            if "balance" in self.steps:
                layer, rows = layer.balanced(rows)
            yield layer, rows if "compensate" in self.steps else {}
            del step, layer, rows  # before the next layer's take their place

    def _precision(self, rows: Mapping[str, Floats], keep: Sequence[str]) -> Precision:
        if self.precision == "fp32":
            return Float32()
        return ROUNDED[self.precision](rows, keep)


def _write_and_measure(
    draft: Bundle, writer: _Writer, reference: Reference, keep_fp32: KeepFp32
) -> Report:
    """Write the graph and measure it, with the matrices that are to be kept if any."""

    def attempt(keep: Sequence[str]) -> tuple[Fidelity, Floats, Graph]:
        g, streams = writer.write(draft.model_path, keep)
        g.save(extra_outputs=streams)
        fidelity, scores = compare(draft, streams, writer.model, reference)
        g.save()
        return fidelity, scores, g

    keep: Sequence[str] | None
    sensitivities: Sequence[Sensitivity] = ()
    if keep_fp32 == "auto" or (keep_fp32 and isinstance(keep_fp32, int)):
        batches = writer.batches[:SENSITIVITY_BATCHES]
        sensitivities = measure_sensitivities(writer.engine, batches, ROUNDED[writer.precision])
        keep = choose(sensitivities, keep_fp32)
    else:
        keep = _named(keep_fp32)
    return _report_on(draft, reference, attempt, keep, sensitivities)


def _named(keep_fp32: KeepFp32) -> Sequence[str] | None:
    """Return the patterns of matrices to keep; None if there are none."""
    return None if isinstance(keep_fp32, int) or not keep_fp32 else tuple(keep_fp32)


def _report_on(
    draft: Bundle,
    reference: Reference,
    attempt: Callable[[Sequence[str]], tuple[Fidelity, Floats, Graph]],
    keep: Sequence[str] | None,
    sensitivities: Sequence[Sensitivity] = (),
) -> Report:
    """Write the graph and measure it; once more with the matrices that are to be kept.

    :param attempt: writes the graph with some matrices kept, and measures it
    :param keep: patterns of the matrices to keep; None if that was not asked for
    """
    fidelity, scores, g = attempt(())
    kept: Kept | None = None
    if keep is not None:
        _check_names(keep, [name for name in g.weights if f"{name}.scales" in g.weights])
        size, without = _size(draft), fidelity
        if keep:
            fidelity, scores, _ = attempt(keep)
        added = _size(draft) - size
        kept = Kept(tuple(keep), added, without.mean_error, without.kendall_tau)
    about = draft.manifest
    return Report(
        source=about.source,
        family=about.family,
        precision=about.precision,
        recipe=about.recipe,
        fidelity=fidelity,
        kept=kept,
        sensitivities=sensitivities,
        pairs=[
            ScoredPair(pair.query, pair.id, float(before), float(after))
            for pair, before, after in zip(reference.pairs, reference.scores, scores, strict=True)
        ],
    )


def _check_names(patterns: Sequence[str], matrices: Sequence[str]) -> None:
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in matrices):
            raise QuantizeError(
                f"keep_fp32: {pattern!r} matches none of the rounded matrices, which are named like"
                f" {', '.join(sorted(matrices)[:8])}"
            )


def _size(draft: Bundle) -> int:
    """Bytes of the graph and its weights."""
    return sum(path.stat().st_size for path in draft.directory.glob(f"{draft.model_path.name}*"))


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
