"""Reports of a variant's fidelity: JSON for programs, HTML with plots for people."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from edgerank.errors import InputError
from edgerank.files import write_atomically
from edgerank.manifest import Fidelity, Kept, PrecisionName, Source
from quantize.errors import QuantizeError
from quantize.rounding.sensitivity import Sensitivity

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHOWN_MATRICES = 20
TEMPLATE = Path(__file__).with_name("report.html.jinja")


class ScoredPair(msgspec.Struct, frozen=True):
    """A pair, and its score in the original and in the variant."""

    query: str
    document: str  # its id
    reference: float
    score: float


class Report(msgspec.Struct, frozen=True):
    """The content of the JSON."""

    source: Source
    family: str
    precision: PrecisionName
    recipe: str
    fidelity: Fidelity
    kept: Kept | None
    sensitivities: Sequence[Sensitivity]  # with keep_fp32
    pairs: Sequence[ScoredPair]


def check_report(directory: Path) -> None:
    """Check, before the work, that a report can be drawn and written.

    :raises InputError: a file has the directory's name
    :raises QuantizeError: a library is missing
    """
    if directory.exists() and not directory.is_dir():
        raise InputError("report", f"{directory} is not a directory; choose another name")
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ModuleNotFoundError as error:
        raise QuantizeError(
            f"a report needs {error.name}: pip install 'edgerank[quantize,report]'"
        ) from error


def write_report(directory: Path, report: Report) -> None:
    """Write report.PRECISION.json and .html; the page needs no other file and no network.

    :raises QuantizeError: the directory cannot be written
    """
    encoded = msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"
    contents = {"json": encoded, "html": _page(report).encode()}
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for extension, content in contents.items():
            write_atomically(directory / f"report.{report.precision}.{extension}", content)
    except OSError as error:
        raise QuantizeError(f"{directory}: cannot write the report: {error.strerror}") from error


def _page(report: Report) -> str:
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(TEMPLATE.read_text("utf-8"))
    drawn = [_draw_scores, _draw_errors, *([_draw_layers] if report.fidelity.layers else [])]
    plots = [_svg(draw, report) for draw in drawn]
    matrices = report.sensitivities[:SHOWN_MATRICES]
    return template.render(report=report, fidelity=report.fidelity, plots=plots, matrices=matrices)


def _svg(draw: Callable[[Axes, Report], None], report: Report) -> str:
    """Return a plot that can stand within HTML."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.4), layout="constrained")
    draw(figure.subplots(), report)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    svg = buffer.getvalue()
    return svg[svg.index("<svg") :]


def _draw_scores(axes: Axes, report: Report) -> None:
    reference = [pair.reference for pair in report.pairs]
    axes.plot([min(reference), max(reference)], [min(reference), max(reference)], "k:", lw=0.8)
    axes.scatter(reference, [pair.score for pair in report.pairs], s=8, alpha=0.6)
    axes.set(title="Scores", xlabel="original, fp32", ylabel=report.precision)


def _draw_errors(axes: Axes, report: Report) -> None:
    axes.hist([pair.score - pair.reference for pair in report.pairs], bins=40)
    axes.set(title="Errors of scores", xlabel=f"{report.precision} less original", ylabel="pairs")


def _draw_layers(axes: Axes, report: Report) -> None:
    errors = report.fidelity.layers
    axes.plot(range(1, len(errors) + 1), [100 * error for error in errors], marker="o", ms=3)
    axes.set(title="Error of the stream", xlabel="after layer", ylabel="% of its rms")
    axes.set_ylim(bottom=0)
