"""What jobs differ in, in the words of the command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgerank.batch.job import InputFile, Job, Scorer

Settings = Mapping[str, object]  # by what the caller knows each as


def job_settings(job: Job) -> Settings:
    """Return all that a job is bound to."""
    files = {f"file {number} of INPUT": file for number, file in enumerate(job.inputs, 1)}
    return {
        **files,
        "--input-format": job.input_format,
        "the corpus (--corpus or --collection)": job.corpus,
        "the queries (--queries or --collection)": job.queries,
        **scorer_settings(job.scorer),
        "--format": job.format,
        "the type of ids": "integer" if job.integer_ids else "string",
        "--shard-pairs": job.shard_pairs,
    }


def scorer_settings(scorer: Scorer) -> Settings:
    """Return all that scores depend on besides the texts."""
    return {
        "--model": scorer.model,
        "the sha256 of --model": scorer.bundle,
        "the variant": scorer.variant,
        "--kernels": scorer.kernels,
        "--threads": "any number" if scorer.threads is None else scorer.threads,
        "--max-length": scorer.max_length,
        "max_batch_tokens": scorer.max_batch_tokens,  # of Python; the command has no such option
        "--instruction": scorer.asking.instruction,
        "--normalize": scorer.asking.normalize,
        "--long-documents": scorer.asking.long_documents,
        "the version of edgerank": scorer.edgerank,
        "the version of onnxruntime": scorer.onnxruntime,
    }


def differences(before: Settings, now: Settings) -> Iterator[tuple[str, str, str]]:
    """Yield what differs: its name, and its former and its present value as text."""
    for name in dict.fromkeys([*before, *now]):
        if before.get(name) != now.get(name):
            yield name, _shown(before.get(name)), _shown(now.get(name))


def _shown(value: object) -> str:
    if value is None or value is False:
        return "not given"
    if value is True:
        return "given"
    if isinstance(value, InputFile):
        return f"{value.name} (sha256 {_shown(value.sha256)})"
    text = str(value)
    return f"{text[:12]}…" if len(text) == 64 else text  # a digest
