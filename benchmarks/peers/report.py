"""A run's results as Markdown and as plots."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.peers.results import (
    HOSTED_USD,
    Job,
    Results,
    Spread,
    System,
    Workload,
    agreement,
    kept_seconds,
    latency,
    ratios,
    share,
    spread_of,
    usd_per_thousand,
)

LEGEND = """\
Medians, quartiles in brackets; n is the number of rounds that count. "times" is how many times as
long as {baseline} a system took in the same round: above 1 it is slower. Tokens are those of every
pair with its whole prompt. A system's share is of the int8 products that scores need at the least
(no padding, the query once where the model allows, in the last layer scored rows alone), over all
of its time, against the best bare rate of int8 products of the same shapes in the same round."""


def markdown(results: Results, usd_per_hour: float) -> str:
    """Write the whole report."""
    parts = ["# edgerank beside its peers", machine_table(results)]
    for workload in results.workloads:
        parts += [heading(workload), LEGEND.format(baseline=workload.baseline)]
        for job in workload.jobs:
            parts.append(speed_table(workload, job))
        parts += [cost_of_ownership(workload), price_table(workload, usd_per_hour)]
        parts += [f"![{workload.name}](workload-{workload.name}.png)", missing(workload)]
    parts.append(versions(results))
    return "\n\n".join(part for part in parts if part) + "\n"


def machine_table(results: Results) -> str:
    rows = [*results.machine.items(), ("threads of every system", str(results.threads))]
    return table(("machine", ""), rows)


def heading(workload: Workload) -> str:
    depth = f"{workload.layers} layers"
    if workload.layers < workload.whole_layers:
        depth += (
            f" of the real {workload.whole_layers}: what a system spends outside of layers, such as"
            " a vocabulary head, weighs more here than in the real model"
        )
    return (
        f"## {workload.name}: geometry of {workload.model}\n\n"
        f"{depth}; weights: {workload.weights}; texts: {workload.texts}; scores are compared with"
        f" {workload.reference}'s."
    )


def speed_table(workload: Workload, job: Job) -> str:
    """One row a system, fastest first."""
    systems = [system for system in workload.systems if job.name in system.jobs]
    by_name = {system.name: system.jobs[job.name] for system in systems}
    baseline = by_name.get(workload.baseline)
    reference = by_name.get(workload.reference)
    rows = []
    for system in sorted(systems, key=lambda one: seconds_of(one, job).median):
        timing = by_name[system.name]
        seconds = seconds_of(system, job)
        p50, p95 = latency(timing)
        agreed = agreement(timing.scores, reference.scores) if reference else None
        rows.append(
            (
                system.name,
                show(ratios(timing, baseline)) if baseline else "",
                show(inverse(seconds, job.documents)),
                f"{job.tokens / seconds.median:,.0f}",
                f"{p50:.3g} / {p95:.3g}" if job.queries == len(timing.seconds[0]) else "",
                f"{share(timing, job).median:.0%}",
                f"{agreed.max_error:.2g}" if agreed else "",
                f"{agreed.kendall_tau:.4f}"
                if agreed and agreed.kendall_tau == agreed.kendall_tau
                else "",
                str(seconds.samples),
            )
        )
    spread = (
        f", score spread {agreement(reference.scores, reference.scores).spread:.3g}"
        if reference
        else ""
    )
    title = (
        f"### {job.name}\n\n{job.queries} queries, {job.documents} documents,"
        f" {job.tokens / job.documents:.0f} tokens a document with its prompt{spread};"
        f" bare int8 rate {show(spread_of([rate / 1e9 for rate in job.bare_rates]))} GOP/s"
    )
    columns = ("system", "times", "documents/s", "tokens/s", "latency p50 / p95, s", "share")
    return title + "\n\n" + table((*columns, "max score error", "Kendall tau", "n"), rows)


def cost_of_ownership(workload: Workload) -> str:
    """What a system takes besides time."""
    rows = [
        (
            system.name,
            f"{system.peak_bytes / 1e9:.2f}",
            f"{system.model_bytes / 1e9:.3f}",
            f"{system.environment_bytes / 1e6:,.0f}",
            f"{system.import_s:.2f}",
            f"{system.start_s:.2f}",
            f"{system.convert_s:.0f}",
        )
        for system in sorted(measured(workload), key=lambda one: one.peak_bytes)
    ]
    columns = ("system", "peak RSS, GB", "model, GB", "environment, MB", "import, s")
    return table((*columns, "process start to first score, s", "conversion, s"), rows)


def price_table(workload: Workload, usd_per_hour: float) -> str:
    """The first job's documents as money."""
    job = workload.jobs[0]
    rows = []
    for system in measured(workload):
        if job.name not in system.jobs:
            continue
        price = usd_per_thousand(
            inverse(seconds_of(system, job), job.documents).median, usd_per_hour
        )
        rows.append((system.name, f"{price:.5f}", f"{price / HOSTED_USD:.2f}"))
    title = (
        f"Price at {usd_per_hour:g} USD an hour, never idle: {workload.layers} layers of"
        f" {workload.model}, {job.tokens / job.documents:.0f} tokens a document with its prompt."
        f" A hosted mxbai-rerank-large-v2, whole, is announced at {HOSTED_USD} USD per 1,000."
    )
    return (
        title + "\n\n" + table(("system", "USD per 1,000 documents", "of the hosted price"), rows)
    )


def missing(workload: Workload) -> str:
    rows = [(one.name, *item) for one in workload.systems for item in one.reasons.items()]
    return "Not measured:\n\n" + table(("system", "what", "reason"), rows) if rows else ""


def versions(results: Results) -> str:
    found = {
        system.name: (system.note, ", ".join(f"{k} {v}" for k, v in system.versions.items()))
        for workload in results.workloads
        for system in measured(workload)
    }
    return "## Systems\n\n" + table(
        ("system", "setting", "versions"), [(name, *rest) for name, rest in found.items()]
    )


def measured(workload: Workload) -> list[System]:
    return [system for system in workload.systems if system.jobs]


def seconds_of(system: System, job: Job) -> Spread:
    return spread_of(list(kept_seconds(system.jobs[job.name]).values()))


def inverse(seconds: Spread, amount: float) -> Spread:
    return Spread(
        amount / seconds.median, amount / seconds.high, amount / seconds.low, seconds.samples
    )


def show(spread: Spread) -> str:
    return f"{spread.median:.3g} ({spread.low:.3g}-{spread.high:.3g})"


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(
        "| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines
    )


def save(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(content)
    draft.rename(path)


def plot(results: Results, directory: Path) -> None:
    """Draw documents/s of each workload's jobs, with quartiles."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    for workload in results.workloads:
        figure, axes = pyplot.subplots(
            1, len(workload.jobs), figsize=(6 * len(workload.jobs), 4), squeeze=False
        )
        for axis, job in zip(axes[0], workload.jobs, strict=True):
            systems = [one for one in measured(workload) if job.name in one.jobs]
            rates = [inverse(seconds_of(system, job), job.documents) for system in systems]
            order = sorted(range(len(systems)), key=lambda place: rates[place].median)
            medians = [rates[place].median for place in order]
            errors = [
                [rates[place].median - rates[place].low for place in order],
                [rates[place].high - rates[place].median for place in order],
            ]
            names = [systems[place].name for place in order]
            colors = ["C1" if name == workload.baseline else "C0" for name in names]
            axis.barh(names, medians, xerr=errors, color=colors)
            axis.set(title=job.name, xlabel="documents/s")
        figure.suptitle(f"{workload.name}: {workload.model}, {workload.layers} layers")
        figure.tight_layout()
        figure.savefig(directory / f"workload-{workload.name}.png", dpi=120)
        pyplot.close(figure)
