"""Processes that die before one of their operations on files."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable


def in_a_process_killed_at(
    step: int, change: Callable[[], object], operations: Iterable[tuple[object, str]]
) -> bool:
    """Kill a forked child -9 before one of its operations on files; False if it got through.

    :param operations: functions that count, each by what has it and its name
    """
    child = os.fork()
    if child == 0:
        count = 0

        def dying(function):
            def run(*arguments, **options):
                nonlocal count
                count += 1
                if count == step:
                    os.kill(os.getpid(), signal.SIGKILL)
                return function(*arguments, **options)

            return run

        status = 1
        try:
            for owner, name in operations:
                setattr(owner, name, dying(getattr(owner, name)))
            change()
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
