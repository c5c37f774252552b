"""What a test asks of a client, and how it is told: JSON on a process's standard streams.

The process runs in the clients' environment, which has neither pytest nor what tests need.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Ask:
    """One call that a client shall make."""

    query: str
    documents: list[str]
    url: str = ""  # of the HTTP server
    token: str = ""
    model: str = ""
    bundle: str = ""  # a directory, for what is embedded
    address: str = ""  # of the gRPC server
    source: str = ""  # Python to run with the names query and documents
    picture: str = ""  # a file to write

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Told:
    """What came of it: scores by the documents' indices, or an error's class and text."""

    answer: Any = None
    error: str | None = None
    message: str = ""

    @property
    def scores(self) -> list[float]:
        """One for each document, in the order of the documents."""
        assert self.error is None, (self.error, self.message)
        assert len(dict(self.answer)) == len(self.answer)
        return [score for _, score in sorted(self.answer)]

    @property
    def ranking(self) -> list[int]:
        """The documents' indices, in the order of the answer."""
        return [index for index, _ in self.answer]


def run(programs: dict[str, Any]) -> None:
    """Make the calls that standard input lists with the client that the first argument names."""
    call: Callable[[Ask], Any] = programs[sys.argv[1]]
    told = []
    for ask in json.load(sys.stdin):
        try:
            told.append({"answer": call(Ask(**ask))})
        except Exception as error:
            name = f"{type(error).__module__}.{type(error).__qualname__}"
            told.append({"error": name, "message": str(error)})
    print("\n" + json.dumps(told))  # noqa: T201 - the last line: some packages print before
