"""A request from texts to scores, without a transport."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from edgerank import Reranker
from edgerank.documents import Pair, make_pairs
from edgerank.errors import InputError
from edgerank.prompt import PromptEncoder
from edgerank.serving.calls import CALL, Call
from edgerank.serving.errors import EngineFailed, NoRoom
from edgerank.serving.inference import Inference, Scored, ScoringOptions
from edgerank.serving.limits import Limits
from edgerank.serving.metrics import Metrics
from edgerank.serving.models import LoadedModel, Models, ModelSettings, open_model
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


class Loaded(Models):
    """Models that are opened already."""

    def __init__(self, *models: LoadedModel) -> None:
        self._models = {model.name: model for model in models}


@pytest.mark.parametrize("name", NAMES)
def test_several_engines_of_a_model_give_its_scores(bundles, name):
    """Two sessions on the CPU stand in for two GPUs: short requests and long ones, at once."""
    rerankers = tuple(Reranker(bundles / name, max_batch_tokens=64) for _ in range(2))
    computed: list[set[int]] = [set(), set()]
    both_are_at_it = threading.Barrier(2)
    for place, reranker in enumerate(rerankers):

        def steps(groups, output, reranker=reranker, place=place):
            if not computed[place]:
                both_are_at_it.wait(30)
            computed[place].add(threading.get_ident())
            return Reranker.steps(reranker, groups, output)

        reranker.steps = steps
    models = Loaded(LoadedModel(name, rerankers))
    scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=2)
    inference = Inference(models, scheduler, Limits(), Metrics())
    requests = [
        [f"{n} documents of {count}, " * (n % 5 + 1) for n in range(count)]
        for count in (1, 2, 40, 1, 30, 3, 50, 1, 20)
    ]

    async def answer_all() -> list[Scored]:
        CALL.set(Call("method", "id", "client"))
        pairs = [make_pairs(QUERY, documents) for documents in requests]
        return await asyncio.gather(*(inference.score(each, ScoringOptions()) for each in pairs))

    found = asyncio.run(answer_all())
    scheduler.close()
    inference.close()
    alone = Reranker(bundles / name, max_batch_tokens=64)
    for scored, documents in zip(found, requests, strict=True):
        # int8 scales follow a micro-batch's tokens
        np.testing.assert_allclose(scored.scores, alone.score(QUERY, documents), atol=1e-2)
    assert all(len(threads) == 1 for threads in computed)
    assert computed[0] != computed[1]
    assert scheduler.queue_tokens == 0


MANY = [f"{n} documents " * 7 for n in range(60)]


class TwoEngines:
    """An inference with two engines of a model, whose micro-batches a test watches."""

    def __init__(self, bundle: Path, before: Callable[[int], None]) -> None:
        """:param before: called with an engine's number before each of its micro-batches"""
        self.rerankers = tuple(Reranker(bundle, max_batch_tokens=64) for _ in range(2))
        for engine, reranker in enumerate(self.rerankers):

            def steps(groups, output, reranker=reranker, engine=engine):
                found = Reranker.steps(reranker, groups, output)
                while True:
                    before(engine)
                    try:
                        yield next(found)
                    except StopIteration:
                        return

            reranker.steps = steps
        self.scheduler = Scheduler(max_queue_tokens=1_000_000, num_engines=2)
        models = Loaded(LoadedModel("model", self.rerankers))
        self.inference = Inference(models, self.scheduler, Limits(), Metrics())

    def __enter__(self) -> TwoEngines:
        return self

    def __exit__(self, *error: object) -> None:
        self.scheduler.close()
        self.inference.close()


@pytest.mark.parametrize("name", NAMES)
def test_one_large_request_is_computed_by_all_engines_at_once(bundles, name):
    first: set[int] = set()
    both_are_at_it = threading.Barrier(2)

    def before(engine: int) -> None:
        if engine not in first:
            first.add(engine)
            both_are_at_it.wait(30)

    documents = [f"{n} documents, " * (n % 7 + 1) for n in range(30)]
    pairs = [*make_pairs(QUERY, documents), *make_pairs("capital of France?", documents[:9])]
    with TwoEngines(bundles / name, before) as engines:
        scored = score(engines.inference, pairs)
        assert engines.scheduler.queue_tokens == 0
    assert first == {0, 1}
    alone = Reranker(bundles / name, max_batch_tokens=64)
    expected = alone.score_pairs([(pair.query, pair.text) for pair in pairs])
    np.testing.assert_allclose(scored.scores, expected, atol=1e-2)  # int8 scales: see above
    assert scored.num_tokens == alone.prepare(pairs).num_tokens  # whatever the engines


def test_when_one_engine_fails_at_its_part_the_others_are_given_up(bundles):
    micro_batches = [0, 0]
    both_are_at_it = threading.Barrier(2)
    has_failed = threading.Event()

    def before(engine: int) -> None:
        micro_batches[engine] += 1
        if micro_batches[engine] == 1:
            both_are_at_it.wait(30)
        if engine == 0:
            has_failed.wait(30)
        elif micro_batches[1] == 2:
            raise RuntimeError("out of order")

    async def ask(inference: Inference) -> None:
        CALL.set(Call("method", "id", "client"))
        try:
            await inference.score(make_pairs(QUERY, MANY), ScoringOptions())
        finally:
            has_failed.set()

    with TwoEngines(bundles / NAMES[0], before) as engines, pytest.raises(EngineFailed):
        asyncio.run(ask(engines.inference))
    assert micro_batches == [1, 2]
    assert engines.scheduler.queue_tokens == 0


def test_a_request_that_is_given_up_leaves_no_part_behind(bundles):
    both_are_at_it = threading.Barrier(3)
    is_given_up = threading.Event()
    micro_batches = [0, 0]

    def before(engine: int) -> None:
        micro_batches[engine] += 1
        both_are_at_it.wait(30)
        is_given_up.wait(30)

    async def ask_and_give_up(inference: Inference) -> None:
        CALL.set(Call("method", "id", "client"))
        pairs = make_pairs(QUERY, MANY)
        asked = asyncio.create_task(inference.score(pairs, ScoringOptions()))
        await asyncio.to_thread(both_are_at_it.wait, 30)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        is_given_up.set()

    with TwoEngines(bundles / NAMES[0], before) as engines:
        asyncio.run(ask_and_give_up(engines.inference))
    assert micro_batches == [1, 1]
    assert engines.scheduler.queue_tokens == 0


def test_a_model_for_gpus_is_opened_on_each_of_those_asked_for(bundles, tmp_path, monkeypatch):
    from edgerank.gpu import Gpu
    from edgerank.serving import models
    from tests.support.gpus import give_gpus
    from tests.support.variants import with_variants

    cards = [Gpu("a card", 8 << 30, 4 << 30, (9, 0))] * 3
    opened = give_gpus(monkeypatch, *cards)
    monkeypatch.setattr(models, "visible_gpus", lambda: cards)
    bundle = with_variants(bundles / "qwen2.int8", tmp_path / "bundle", "cuda-fp16")
    model = open_model("model", bundle, ModelSettings(warmup=False))
    assert (len(model.rerankers), opened) == (3, [0, 1, 2])
    assert model.entry["engines"] == 3

    opened.clear()
    chosen = ModelSettings(providers=("cuda",), devices="2, 0")
    assert chosen.num_engines == 2
    assert len(open_model("model", bundle, chosen).rerankers) == 2
    assert opened == [2, 0]

    opened.clear()
    assert len(open_model("model", bundle, ModelSettings(providers=("cpu",))).rerankers) == 1
    assert opened == []
    with pytest.raises(InputError, match=r"^devices: model does not run on a GPU: .* on CPU"):
        open_model("model", bundle, ModelSettings(providers=("cpu",), devices="0"))
    for wrong in ("one", "0,,1", "0,0", "-1", ""):
        with pytest.raises(InputError, match=r"^devices: expected numbers"):
            open_model("model", bundle, ModelSettings(devices=wrong))


def test_gpus_are_counted_once_for_all_models_and_reloads(bundles, monkeypatch):
    from edgerank.serving import models

    asked = []
    monkeypatch.setattr(models, "visible_gpus", lambda: asked.append("driver") or ())
    settings = ModelSettings(warmup=False)
    assert settings.num_engines == 1
    for name in NAMES[:2]:
        assert len(open_model(name, bundles / name, settings).rerankers) == 1
    assert asked == ["driver"]
    assert settings == ModelSettings(warmup=False)  # the count is no setting


def test_a_server_without_a_gpu_has_one_engine():
    assert ModelSettings(devices=None).num_engines >= 1
    assert ModelSettings(devices="3").num_engines == 1
