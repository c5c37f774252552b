"""The pipeline: recognise a checkpoint, write its graphs, measure them, write the bundle."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from tqdm import tqdm

from edgerank.bundle import Bundle, describe_files, read_bundle, write_manifest
from edgerank.errors import InputError
from edgerank.files import atomic_directory
from edgerank.kernels import choose_kernels
from edgerank.manifest import (
    FORMAT_VERSION,
    MANIFEST_NAME,
    MIN_LENGTH,
    Fidelity,
    Manifest,
    Source,
    Variant,
)
from edgerank.prompt import PromptEncoder
from edgerank.rules import scoring_rule
from edgerank.scripts import unknown_scripts
from quantize.checkpoint.files import open_checkpoint
from quantize.checkpoint.hub import locate
from quantize.checkpoint.tokenization import load_tokenizer
from quantize.errors import QuantizeError
from quantize.families.model_spec import ModelSpec, OptimumModel, RecognizedModel
from quantize.families.recognition import recognize
from quantize.families.templates import read_template
from quantize.measure.calibration import Calibration, read_calibration
from quantize.measure.preparation import PackedCalibration, pack_calibration
from quantize.measure.report import Report, ScoredPair, check_report, write_report
from quantize.optimum.writer import OptimumWriter
from quantize.recipe import (
    ROUNDED,
    STEPS,
    PrecisionChoice,
    Recipe,
    RecipeStep,
    check_precisions,
    check_steps,
    recipe_of,
)
from quantize.rounding.sensitivity import KeepFp32
from quantize.variants import GraphWriter, Measurement, make_variant
from quantize.writer import LayeredWriter

TOKENIZER_NAME = "tokenizer.json"


def quantize(
    checkpoint: str | os.PathLike[str],
    bundle: str | os.PathLike[str],
    *,
    precision: PrecisionChoice | Sequence[PrecisionChoice] = "int8",
    calibrate: str | os.PathLike[str] | None = None,
    keep_fp32: KeepFp32 = (),
    min_tau: float | None = None,
    report: str | os.PathLike[str] | None = None,
    family: str | None = None,
    template: str | os.PathLike[str] | None = None,
    steps: Sequence[RecipeStep] | None = None,
    scripts: Sequence[str] = (),
    show_progress: bool = False,
) -> Bundle:
    """Turn a Hugging Face checkpoint into a bundle, and measure its fidelity.

    :param checkpoint: directory with config.json, tokenizer.json and safetensors, or the id of a
        repository on the hub
    :param bundle: directory to create; an existing bundle there is replaced
    :param precision: "int8", "int8-fine", "int4" or "fp32"; for NVIDIA GPUs "fp16", "bf16", or
        "half", which is fp16 if the activations fit and bf16 otherwise. Several precisions become
        variants of the bundle, the preferred one first. "fp32" is not measured
    :param calibrate: JSON Lines of {"query": ..., "document": ..., "id": ...}, to choose scales and
        to measure the fidelity. The default is a small text that comes with edgerank
    :param keep_fp32: matrices of integer variants that stay in float32: patterns of names, the
        number of those with the largest errors, or "auto" for those whose error stands out. This
        takes twice the time, because the figures without it are measured too
    :param min_tau: lowest mean Kendall tau against the original to accept, for each variant
    :param report: directory for a report.PRECISION.json and .html of each variant
    :param family: name of the checkpoint's family. The default is to recognise it from the files
    :param template: JSON file with a template for a decoder, in place of its family's
    :param steps: steps of the recipe. The default is all of ``quantize.recipe.STEPS``, and none for
        fp32
    :param scripts: scripts that the model is made for, such as "Latin"; queries in another script
        cause a warning. The default is any script
    :param show_progress: whether to draw a progress bar on stderr
    :return: the bundle that was written
    :raises InputError: an option, the calibration text or the template is unusable
    :raises QuantizeError: the checkpoint is unusable, the bundle cannot be written, it misses
        ``min_tau``, or the model exceeds the range of fp16. Only the report is left behind
    """
    precisions = check_precisions(precision)
    choose_kernels()  # what EDGERANK_KERNELS says is refused now rather than when a layer runs
    keep_fp32 = keep_fp32 or ()
    if precisions == ["fp32"] and (keep_fp32 or min_tau is not None or report is not None):
        raise InputError(
            "precision",
            "'fp32' is the original and is not measured: leave out keep_fp32, min_tau and report",
        )
    if keep_fp32 and not {*precisions}.intersection(ROUNDED):
        raise InputError(
            "keep_fp32", "matrices are left in float32 beside those of integers: of int8 or int4"
        )
    if report is not None:
        check_report(Path(report))
    unknown = unknown_scripts(scripts) if scripts else []
    if unknown:
        raise InputError(
            "scripts", f"{', '.join(unknown)}: no script; they are called Latin, Cyrillic, Han, ..."
        )
    chosen_template = None if template is None else read_template(Path(template))
    calibration = read_calibration(None if calibrate is None else Path(calibrate))

    source, directory = locate(checkpoint)
    opened, tokenizer = open_checkpoint(directory), load_tokenizer(directory)
    model = recognize(opened, tokenizer, family, chosen_template)
    _check_length(model, directory)
    recipes = _recipes(precisions, steps, model, directory)

    with (
        _new_bundle(Path(bundle)) as staging,
        tqdm(desc=model.family, unit=" layers", disable=not show_progress) as bar,
    ):
        scratch = staging / "scratch"  # on the same disk, and gone with the rest after a failure
        scratch.mkdir()
        text = _pack(calibration, model, tokenizer)
        writer: GraphWriter
        if isinstance(model, RecognizedModel):
            bar.total = _num_passes(recipes, bool(keep_fp32)) * model.model.num_layers
            writer = LayeredWriter(model.model, text, scratch, bar)
        else:
            writer = OptimumWriter(opened, model, text, scratch)
        variants = []
        for recipe in recipes:
            variant, measurement = make_variant(writer, recipe, keep_fp32, staging)
            if measurement is not None:
                if report is not None:
                    write_report(Path(report), _report(source, model, variant, measurement))
                _check_tau(bundle, variant.name, measurement.fidelity, min_tau)
            variants.append(variant)
        bar.total = bar.n  # fewer if no matrix was found worth keeping
        shutil.copyfile(opened.tokenizer_path, staging / TOKENIZER_NAME)
        if isinstance(model, RecognizedModel):
            for name, table in model.tables.items():
                np.save(staging / name, table)
        shutil.rmtree(scratch)
        write_manifest(staging, _manifest(source, model, variants, staging, tuple(scripts)))
    return read_bundle(bundle)


def _check_length(model: ModelSpec, directory: Path) -> None:
    """Check that query and document have some room.

    :raises QuantizeError: they have too little
    """
    if model.max_length < MIN_LENGTH:
        raise QuantizeError(
            f"{directory}: config.json's max_position_embeddings and the tokenizer's settings leave"
            f" {model.max_length} tokens for the texts; at least {MIN_LENGTH} are needed"
        )


def _recipes(
    precisions: Sequence[PrecisionChoice],
    steps: Sequence[str] | None,
    model: ModelSpec,
    directory: Path,
) -> list[Recipe]:
    """Say how each graph is written.

    :raises InputError: a step is unknown
    :raises QuantizeError: the model takes no steps, or not this precision
    """
    if "int8-fine" in precisions and isinstance(model, OptimumModel):
        raise QuantizeError(
            f"{directory}: int8-fine: not for an architecture that is exported by optimum; choose"
            " int8, or fp32"
        )
    if steps is not None:
        chosen = check_steps(steps)
        if chosen and isinstance(model, OptimumModel):
            raise QuantizeError(
                f"{directory}: steps of the recipe: not for an architecture that is exported by"
                " optimum"
            )
        return [recipe_of(precision, chosen) for precision in precisions]
    if isinstance(model, OptimumModel):  # what lies between its matrices stays as it is exported
        return [recipe_of(precision, ()).with_float_stream for precision in precisions]
    every = tuple(STEPS)
    return [recipe_of(precision, () if precision == "fp32" else every) for precision in precisions]


def _num_passes(recipes: Sequence[Recipe], has_kept: bool) -> int:
    """Count how often the layers are run or written."""
    rounded = sum(recipe.is_rounded for recipe in recipes)
    measures = any(recipe.is_measured for recipe in recipes)
    rotates = any("rotate" in recipe.steps for recipe in recipes)
    return len(recipes) + 2 * rounded * has_kept + measures + rotates


def _pack(calibration: Calibration, model: ModelSpec, tokenizer: Tokenizer) -> PackedCalibration:
    """Prepare the calibration text as the bundle's runtime prepares what it is given."""
    prompt = PromptEncoder(model.prompt, model.truncation, tokenizer, model.max_length)
    rule = scoring_rule(model.scoring)
    return pack_calibration(calibration, rule, prompt, causal=model.is_causal)


def _manifest(
    source: Source,
    model: ModelSpec,
    variants: Sequence[Variant],
    directory: Path,
    scripts: tuple[str, ...],
) -> Manifest:
    """Describe the bundle whose files lie in a directory."""
    return Manifest(
        format_version=FORMAT_VERSION,
        source=source,
        family=model.family,
        architecture=model.architecture,
        max_length=model.max_length,
        max_length_limit=model.max_length_limit,
        prompt=model.prompt,
        truncation=model.truncation,
        scoring=model.scoring,
        scripts=scripts,
        tokenizer=TOKENIZER_NAME,
        variants=tuple(variants),
        files=describe_files(directory),
    )


def _report(source: Source, model: ModelSpec, variant: Variant, measurement: Measurement) -> Report:
    reference = measurement.reference
    scored = zip(reference.held_out.pairs, reference.scores, measurement.scores, strict=True)
    return Report(
        source=source,
        family=model.family,
        precision=variant.precision,
        recipe=variant.recipe,
        fidelity=measurement.fidelity,
        kept=variant.kept,
        sensitivities=measurement.sensitivities,
        pairs=[
            ScoredPair(pair.query, pair.id, float(original), float(score))
            for pair, original, score in scored
        ],
    )


def _check_tau(
    bundle: str | os.PathLike[str], name: str, fidelity: Fidelity, min_tau: float | None
) -> None:
    """Check that a variant is faithful enough.

    :raises QuantizeError: it is not
    """
    if min_tau is None or fidelity.kendall_tau >= min_tau:
        return
    raise QuantizeError(
        f"{os.fspath(bundle)}: {name} is refused: Kendall tau is {fidelity.kendall_tau:.4f}, below"
        f" {min_tau}; the mean score error is {fidelity.mean_error:.4g} at a spread of"
        f" {fidelity.spread:.4g}; calibrating with text of your own or --keep-fp32 auto may help"
    )


@contextmanager
def _new_bundle(target: Path) -> Iterator[Path]:
    """Yield a directory that takes the bundle's place if all goes well.

    :raises QuantizeError: ``target`` is something else than a bundle, or cannot be written
    """
    try:
        with atomic_directory(target, lambda there: (there / MANIFEST_NAME).exists()) as staging:
            yield staging
    except OSError as error:
        if isinstance(error, FileExistsError) and target.exists():
            raise QuantizeError(
                f"{target}: exists and is not a bundle; choose another name"
            ) from error
        what = "the disk is full" if error.errno == errno.ENOSPC else error.strerror or str(error)
        raise QuantizeError(f"{target}: cannot write the bundle: {what}") from error
