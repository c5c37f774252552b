"""What workers share: the command line, the clock, one JSON line for each line read; decoders'
prompts and embeddings' cosines, for those whose peer does not know them.

Standard library only: a peer's environment need not hold anything else. The peer's packages are
imported when ``run`` says, so that their import can be timed; files beside this one may have the
names of packages, hence sys.path.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent]

Request = dict[str, Any]  # "query": str, "documents": list[str]
TINY: Request = {"query": "who wrote dune?", "documents": ["Dune was written by Frank Herbert."]}
EMBEDDER = "modules.json"  # a file that embedding models of sentence-transformers have
CANNOT_RUN = 3  # exit status


class CannotRunError(Exception):
    """The peer has no way to run this here; the message is one line that says why."""


@dataclass(frozen=True)
class Model:
    """A peer's model, loaded."""

    score: Callable[[list[Request]], list[list[float]]]  # a list of scores for each request
    model_files: list[Path]  # what it was loaded from: graph and weights
    used: dict[str, str] = field(default_factory=dict)  # what else computes, told with the versions


@dataclass(frozen=True)
class Prompt:
    """What a decoder reads, in pieces that are tokenised apart, and the answers to compare."""

    query: tuple[str, ...]
    document: tuple[str, ...]
    yes: str
    no: str


CHAT = "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
MXBAI = Prompt(
    query=(CHAT + "<|im_end|>\n<|im_start|>user\n", "query: {query}", "\n"),
    document=(
        "document: {document}",
        "\n",
        "You are a search relevance expert who evaluates how well documents match search queries."
        " For each query-document pair, carefully analyze the semantic relationship between them,"
        " then provide your binary relevance judgment (0 for not relevant, 1 for relevant)."
        "\nRelevance:",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    yes="1",
    no="0",
)
RELEVANCE = Prompt(  # for a decoder that is no reranker
    query=("<bos>Query: {query}\n",),
    document=(
        "Document: {document}",
        "\nIs the document relevant to the query? Yes or No:",
    ),
    yes=" Yes",
    no=" No",
)
PROMPTS = {"qwen2": MXBAI, "gemma3_text": RELEVANCE}  # of decoders, by config.json's model_type


def encode(tokenizer: Any, pieces: Sequence[str], **texts: str) -> list[int]:
    """Write texts into a prompt's pieces and return their token ids.

    :param tokenizer: of Hugging Face's tokenizers
    """
    written = [piece.format(**texts) for piece in pieces]
    parts = tokenizer.encode_batch(written, add_special_tokens=False)
    return [token for part in parts for token in part.ids]


def answer_id(tokenizer: Any, answer: str) -> int:
    """Return the token id of an answer, which is one token."""
    (token,) = encode(tokenizer, [answer])
    return token


def run(
    load: Callable[[Path, str, int, Path], Any],
    prepare: Callable[[Path, str, Path], None] | None = None,
    *,
    modules: Sequence[str] = (),
    distributions: Sequence[str] = (),
    first: Request = TINY,
) -> None:
    """Convert with ``prepare``, or load and answer until the input ends.

    :param load: of checkpoint, setting, threads and the directory of converted models
    :param prepare: of checkpoint, setting and that directory; what it writes there is kept
    :param modules: of the peer, imported before anything else and timed
    :param distributions: whose versions are told
    :param first: scored once before the first line is read
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is not an answer
    parser = argparse.ArgumentParser()
    parser.add_argument("--prepare", action="store_true")
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--setting", required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True)
    arguments = parser.parse_args()
    try:
        if arguments.prepare:
            if prepare is not None:
                prepare(arguments.checkpoint, arguments.setting, arguments.work)
            return
        start = time.perf_counter()
        for module in modules:
            importlib.import_module(module)
        imported = time.perf_counter()
        model = load(arguments.checkpoint, arguments.setting, arguments.threads, arguments.work)
        loaded = time.perf_counter()
        model.score([first])
    except CannotRunError as error:
        _refuse(str(error))
    ready = {
        "import_s": imported - start,
        "load_s": loaded - imported,
        "model_bytes": sum(path.stat().st_size for path in model.model_files),
        "versions": _versions(distributions) | model.used,
    }
    print(json.dumps(ready), file=answers)
    for line in sys.stdin:
        print(json.dumps(_answer(model, json.loads(line)["requests"])), file=answers)


def one_after_another(
    score: Callable[[str, list[str]], Sequence[float]],
) -> Callable[[list[Request]], list[list[float]]]:
    """Score concurrent requests in turn, for libraries that take one query at a time."""
    return lambda requests: [
        [float(value) for value in score(request["query"], request["documents"])]
        for request in requests
    ]


def as_pairs(
    score: Callable[[list[tuple[str, str]]], Sequence[float]],
) -> Callable[[list[Request]], list[list[float]]]:
    """Score concurrent requests in one call, for libraries that take pairs of texts."""

    def score_requests(requests: list[Request]) -> list[list[float]]:
        pairs = [(request["query"], text) for request in requests for text in request["documents"]]
        values = iter([float(value) for value in score(pairs)])
        return [[next(values) for _ in request["documents"]] for request in requests]

    return score_requests


def embeds(checkpoint: Path) -> bool:
    """Tell an embedding model of sentence-transformers from a cross-encoder and a decoder."""
    return (checkpoint / EMBEDDER).exists()


def max_length(checkpoint: Path) -> int:
    """Read an embedding model's length, in tokens."""
    config = json.loads((checkpoint / "sentence_bert_config.json").read_text())
    return int(config["max_seq_length"])


def as_cosines(embed: Callable[[list[str]], Any]) -> Callable[[list[Request]], list[list[float]]]:
    """Score concurrent requests by cosines; a text of several of them is embedded once.

    :param embed: texts, the shortest first, to float32 [texts, width]
    """

    def score_requests(requests: list[Request]) -> list[list[float]]:
        import numpy as np

        unique = {request["query"]: None for request in requests}
        unique |= {text: None for request in requests for text in request["documents"]}
        texts = sorted(unique, key=len)
        vectors = np.asarray(embed(texts), np.float32)
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        place = {text: index for index, text in enumerate(texts)}
        return [
            [
                float(vectors[place[request["query"]]] @ vectors[place[t]])
                for t in request["documents"]
            ]
            for request in requests
        ]

    return score_requests


def mean_pooled(states: Any, mask: Any) -> Any:
    """Average the states [texts, tokens, width] of the tokens that the mask [texts, tokens] has."""
    weights = mask[:, :, None]
    return (states * weights).sum(axis=1) / weights.sum(axis=1)


def _answer(model: Any, requests: list[Request]) -> dict[str, Any]:
    start = time.perf_counter()
    try:
        scores, error = model.score(requests), None
    except Exception as failure:  # any: it is the harness that decides what it means
        scores, error = [], f"{type(failure).__name__}: {failure}".splitlines()[0]
    seconds = time.perf_counter() - start
    return {
        "seconds": seconds,
        "request_seconds": [seconds] * len(requests),  # all are answered when the last is
        "scores": scores,
        "error": error,
    }


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    """Return the versions of those that are installed; settings need different ones."""
    found = {}
    for name in distributions:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _refuse(reason: str) -> NoReturn:
    print(reason.splitlines()[0], file=sys.stderr)
    raise SystemExit(CANNOT_RUN)
