"""A request from texts to scores, without a transport."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.documents import Pair, make_pairs
from edgerank.errors import InputError
from edgerank.prompt import PromptEncoder
from edgerank.serving.calls import CALL, Call
from edgerank.serving.errors import NoRoom
from edgerank.serving.inference import Inference, Scored, ScoringOptions
from edgerank.serving.limits import Limits
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import Models, ModelSettings
from edgerank.serving.scheduler import Scheduler

QUERY = "who wrote dune?"
DOCUMENTS = ["Frank Herbert", "Paris, since 987"]
NAMES = ["qwen2.int8", "cross-encoder.int8", "embedding.int8"]
MAX_QUEUE_TOKENS = 1000


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    scheduler = Scheduler(max_queue_tokens=MAX_QUEUE_TOKENS)
    yield scheduler
    scheduler.close()


@pytest.fixture
def inference(bundles: Path, scheduler: Scheduler) -> Iterator[Inference]:
    models = Models({name: bundles / name for name in NAMES}, ModelSettings(warmup=False))
    models.load()
    inference = Inference(models, scheduler, Limits(max_query_tokens=40), Metrics())
    yield inference
    inference.close()


def score(inference: Inference, pairs: list[Pair], **options: str) -> Scored:
    async def answer() -> Scored:
        CALL.set(Call("method", "id", "client"))
        return await inference.score(pairs, ScoringOptions(**options))

    return asyncio.run(answer())


@pytest.fixture
def tokenized(monkeypatch) -> list[str]:
    """Every text that is given to a tokenizer."""
    texts: list[str] = []
    tokenize = PromptEncoder._tokenize

    def spy(self, given):
        given = list(given)
        texts.extend(given)
        return tokenize(self, given)

    monkeypatch.setattr(PromptEncoder, "_tokenize", spy)
    return texts


@pytest.mark.parametrize("name", NAMES)
def test_each_text_is_tokenized_once(inference, bundles, tokenized, name):
    tokenized.clear()
    scored = score(inference, make_pairs(QUERY, [*DOCUMENTS, DOCUMENTS[0]]), model=name)
    assert sum(QUERY in text for text in tokenized) == 1
    assert [sum(document in text for text in tokenized) for document in DOCUMENTS] == [1, 1]
    expected = Reranker(bundles / name).score(QUERY, [*DOCUMENTS, DOCUMENTS[0]])
    np.testing.assert_allclose(scored.scores, expected, atol=1e-3)


def test_what_there_is_no_room_for_is_not_tokenized(inference, scheduler, tokenized):
    pairs = make_pairs(QUERY, DOCUMENTS)
    with scheduler.reserve(MAX_QUEUE_TOKENS):
        with pytest.raises(NoRoom) as raised:
            score(inference, pairs)
        assert raised.value.retry_after_s > 0
        assert not any(QUERY in text for text in tokenized)
    assert len(score(inference, pairs).scores) == 2


@pytest.mark.parametrize("name", NAMES)
def test_what_is_tokenized_is_scored_though_it_has_more_tokens_than_there_is_room(
    inference, scheduler, name
):
    documents = ["? " * 50 + f"{n}" for n in range(10)]  # two bytes a token
    pairs = make_pairs(QUERY, documents)
    scored = score(inference, pairs, model=name)
    with scheduler.reserve(MAX_QUEUE_TOKENS - scored.num_tokens * 3 // 4):
        assert score(inference, pairs, model=name).num_tokens == scored.num_tokens
    assert scheduler.queue_tokens == 0


def test_a_query_of_too_many_tokens_gives_its_room_back(inference, scheduler):
    with pytest.raises(InputError) as raised:
        score(inference, make_pairs("dune " * 41, DOCUMENTS))
    assert raised.value.path == "query"
    assert scheduler.queue_tokens == 0


def test_a_request_given_up_while_it_is_tokenized_gives_its_room_back(
    inference, scheduler, monkeypatch
):
    begun, let = threading.Event(), threading.Event()
    prepare = Reranker.prepare

    def slow(self, *arguments, **options):
        begun.set()
        let.wait(10)
        return prepare(self, *arguments, **options)

    monkeypatch.setattr(Reranker, "prepare", slow)

    async def give_up() -> None:
        CALL.set(Call("method", "id", "client"))
        task = asyncio.create_task(inference.score(make_pairs(QUERY, DOCUMENTS), ScoringOptions()))
        await asyncio.to_thread(begun.wait, 10)
        assert scheduler.queue_tokens > 0
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert scheduler.queue_tokens == 0
        let.set()

    asyncio.run(give_up())
    assert len(score(inference, make_pairs(QUERY, DOCUMENTS)).scores) == 2
    assert scheduler.queue_tokens == 0


def test_vectors_of_tokens_are_compared_as_the_embedded_reranker_does(tmp_path, scheduler):
    """Small requests share micro-batches, and a large one has several."""
    from quantize import quantize
    from tests.support.checkpoints import save_bert_encoder, save_late_interaction

    quantize(
        save_late_interaction(tmp_path / "checkpoint", save_bert_encoder),
        tmp_path / "late",
        precision="fp32",
    )
    models = Models({"late": tmp_path / "late"}, ModelSettings(warmup=False))
    models.load()
    inference = Inference(models, scheduler, Limits(), Metrics())
    requests = [[DOCUMENTS[0]], DOCUMENTS, [f"{n} documents, " * n for n in range(16)]]

    async def answer_all() -> list[Scored]:
        CALL.set(Call("method", "id", "client"))
        pairs = [make_pairs(QUERY, documents) for documents in requests]
        return await asyncio.gather(*(inference.score(each, ScoringOptions()) for each in pairs))

    expected = Reranker(tmp_path / "late", max_batch_tokens=64)
    for scored, documents in zip(asyncio.run(answer_all()), requests, strict=True):
        np.testing.assert_allclose(scored.scores, expected.score(QUERY, documents), atol=1e-4)
    inference.close()
