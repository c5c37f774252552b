"""Candidates in turns, round by round, so that what slows the machine down hits all alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

FEWEST_ROUNDS = 2  # of every candidate, whatever the limits

Key = TypeVar("Key")
Seconds = NDArray[np.float64]  # [rounds]


class WithdrawnError(Exception):
    """A candidate takes no further turn, and the turns that it took do not count."""


def take_turns(
    candidates: Mapping[Key, Callable[[], object]],
    rounds: int,
    *,
    warm_up: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Seconds]:
    """Time calls, one of each candidate a round.

    :param warm_up: rounds before those that count
    :return: each candidate's seconds, float64 [rounds]
    """

    def timed(run: Callable[[], object]) -> Callable[[], float]:
        def turn() -> float:
            start = clock()
            run()
            return clock() - start

        return turn

    turns = {name: timed(run) for name, run in candidates.items()}
    times = alternate(turns, rounds + warm_up, clock=clock)
    return {name: seconds[warm_up:] for name, seconds in times.items()}


def alternate(
    turns: Mapping[Key, Callable[[], float]],
    rounds: int,
    *,
    seconds_each: float = math.inf,
    seconds: float = math.inf,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Key, Seconds]:
    """Let candidates that time themselves alternate.

    :param turns: calls that return the seconds they took, or raise WithdrawnError
    :param seconds_each: of a candidate's turns, after which it sits out the rest
    :param seconds: of all rounds, after which no other begins
    :return: each candidate's seconds, float64 [rounds that it took part in]; without those who
        withdrew
    """
    times: dict[Key, list[float]] = {name: [] for name in turns}
    start = clock()
    for number in range(rounds):
        if number >= FEWEST_ROUNDS and clock() - start > seconds:
            break
        for name in list(times):
            if number >= FEWEST_ROUNDS and sum(times[name]) > seconds_each:
                continue
            try:
                times[name].append(turns[name]())
            except WithdrawnError:
                del times[name]
    return {name: np.array(values) for name, values in times.items()}


def median_seconds(
    run: Callable[[], object], calls: int, *, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Time so many calls one by one: the median of their seconds, a turn for ``alternate``."""
    times = []
    for _ in range(calls):
        start = clock()
        run()
        times.append(clock() - start)
    return float(np.median(times))


def ratio(seconds: Seconds, baseline: Seconds) -> Seconds:
    """Divide by the baseline's seconds of the same round, where both took part: [rounds]."""
    rounds = min(len(seconds), len(baseline))
    return seconds[:rounds] / baseline[:rounds]
