"""A model without a network, so that stores can be tested by the thousand, and forked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from zlib import crc32

import numpy as np

from edgerank.engine import Output
from edgerank.manifest import Scoring, Source
from edgerank.packing import Tokens
from edgerank.reranker import Reranker
from edgerank.rules import scoring_rule

WIDTH = 16
PART = 8  # words of a part


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def word_vector(word: str) -> np.ndarray:
    """A random vector that is a word's alone."""
    return np.random.default_rng(crc32(word.encode())).standard_normal(WIDTH).astype(np.float32)


class HashedReranker(Reranker):
    """Late interaction (MaxSim) or an embedding, of vectors that belong to words."""

    def __init__(self, rule: str = "maxsim", digest: str = "a" * 64) -> None:
        scoring = Scoring(rule)
        self.max_length, self.threads = PART, 1
        self._rule = scoring_rule(scoring)
        manifest = SimpleNamespace(scoring=scoring, source=Source("hashed"), family=rule)
        self.bundle = SimpleNamespace(manifest=manifest, digest=digest, directory=Path("hashed"))
        self._words: list[str] = []

    @property
    def vectors_output(self) -> Output:
        return self._rule.vectors

    def tokenize_query(self, query: str, instruction: str | None = None) -> Tokens:
        return self._tokens(query.split())

    def tokenize_documents(self, texts: Sequence[str]) -> tuple[list[Tokens], list[int]]:
        sequences, index = [], []
        for place, text in enumerate(texts):
            words = text.split()
            for start in range(0, max(len(words), 1), PART):
                sequences.append(self._tokens(words[start : start + PART]))
                index.append(place)
        return sequences, index

    def steps(self, groups, output):
        for group in groups:
            for score_id, tokens in zip(group.score_ids, group.sequences, strict=True):
                rows = self.rows(self._words[place] for place in tokens.ids)
                batch = SimpleNamespace(
                    lengths=np.array([len(tokens)]), score_ids=np.array([score_id])
                )
                yield batch, rows if output.per == "token" else rows.sum(axis=0)[None]

    def compute(self, prepared, *, show_progress: bool = False):
        results = [raw for _, raw in self.steps(prepared.groups, prepared.output)]
        if prepared.output.per != "token":
            results = [raw[0] for raw in results]
        return prepared.reduce(results)

    def close(self) -> None:
        """Nothing is open."""

    def rows(self, words) -> np.ndarray:
        found = [word_vector(word) for word in words]
        return np.stack(found) if found else np.zeros((0, WIDTH), np.float32)

    def expected(self, query: str, text: str) -> float:
        """A score by the obvious loops, of a document's best part."""
        words, best = text.split(), -np.inf
        for start in range(0, max(len(words), 1), PART):
            part = words[start : start + PART]
            best = max(best, self._expected_of(query.split(), part))
        return best

    def _expected_of(self, query: list[str], part: list[str]) -> float:
        if not part:
            return 0.0
        queries, rows = self.rows(query), self.rows(part)
        if self.bundle.manifest.scoring.rule == "cosine":
            return float(unit(queries.sum(0)) @ unit(rows.sum(0)))
        return sum(max(float(q @ r) for r in unit(rows)) for q in unit(queries))

    def _tokens(self, words: Sequence[str]) -> Tokens:
        first = len(self._words)
        self._words += words
        ids = np.arange(first, first + len(words))
        return Tokens(ids, np.zeros(len(words), np.int64))


def damage(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change a file's content."""
    path.write_bytes(change(path.read_bytes()))
