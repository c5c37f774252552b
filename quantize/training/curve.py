"""The training curve: the loss of steps, and how well held-out lists were ranked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgerank.errors import InputError
from edgerank.files import read_jsonl

AVERAGED = 25  # steps; the loss of one step depends on its lists more than on the model


class LoggedStep(msgspec.Struct):
    """A line of a training log."""

    step: int
    loss: float
    mrr: float | None = None  # of the held-out lists, where they were measured


def read_logs(paths: Sequence[Path]) -> list[LoggedStep]:
    """Read the logs of runs that went on from each other, with their steps counted through.

    :raises InputError: a file cannot be read, or has too few steps to draw
    """
    steps: list[LoggedStep] = []
    for path in paths:
        before = len(steps)
        steps += [
            msgspec.structs.replace(step, step=before + step.step)
            for _, step in read_jsonl(path, LoggedStep)
        ]
    if len(steps) < AVERAGED:
        raise InputError("logs", f"there are {len(steps)} steps; a curve needs {AVERAGED}")
    return steps


def draw_curve(steps: Sequence[LoggedStep], path: Path) -> None:
    """Plot the mean loss of every ``AVERAGED`` steps, and the reciprocal ranks.

    :raises OSError: the file cannot be written
    """
    from matplotlib.figure import Figure

    whole = len(steps) // AVERAGED * AVERAGED
    losses = np.array([step.loss for step in steps[:whole]]).reshape(-1, AVERAGED).mean(axis=1)
    ends = [step.step for step in steps[AVERAGED - 1 : whole : AVERAGED]]
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(ends, losses, color="C0", marker=".", label=f"loss, mean of {AVERAGED} steps")
    axes.set(xlabel="step", ylabel="loss")
    ranks = axes.twinx()
    measured = {step.step: step.mrr for step in steps if step.mrr is not None}
    ranks.plot([*measured], [*measured.values()], color="C1", marker="o", label="held-out lists")
    ranks.set(ylabel="mean reciprocal rank")
    figure.legend(loc="outside upper center", ncols=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})
