"""Datasets of Ray, reranked on two nodes of a local cluster."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest

ray = pytest.importorskip("ray", reason="needs the environment .venv/ray: make test-ray")

import pyarrow as pa
from ray._private.internal_api import memory_summary
from ray.data import ActorPoolStrategy
from ray.exceptions import RayError

import edgerank.ray
from edgerank import InputError, Reranker, cpu
from edgerank.ray import BYTES_PER_TOKEN, PIECE, RerankStage, actor_threads, cut, rerank
from edgerank.ray import PIECE_TOKENS as PIECE_TOKENS_DEFAULT
from tests.ray import cluster as stages
from tests.ray.cluster import add_node, two_nodes

pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray itself, in this process

TEXT = "a reranker reads the query and each document then gives it one score of relevance"
ROWS = 24
PIECE_TOKENS = 300
TOLERANCE = 1e-6


@pytest.fixture(scope="module")
def cluster():
    with two_nodes() as running:
        yield running


@pytest.fixture(scope="module")
def rows():
    """Queries with 0 to 9 documents of 1 to 60 words, some of them with a title."""
    random.seed(0)

    def text(most):
        return " ".join(random.choices(TEXT.split(), k=random.randint(1, most)))

    return [
        {
            "id": f"q{number}",
            "query": text(8),
            "documents": [
                {"title": text(4) if index % 2 else None, "text": text(60)}
                for index in range(number % 10)
            ],
        }
        for number in range(ROWS)
    ]


@pytest.fixture(scope="module")
def expected(rows):
    """The scores of an embedded reranker, by id."""
    with Reranker() as reranker:
        return {
            row["id"]: reranker.score(
                row["query"],
                [{k: v for k, v in one.items() if v is not None} for one in row["documents"]],
            ).tolist()
            for row in rows
        }


def dataset_of(rows):
    return ray.data.from_arrow(pa.Table.from_pylist(rows))


def scores_of(dataset):
    return {row["id"]: row["scores"] for row in dataset.iter_rows()}


def assert_same(found, expected):
    """Compare scores by id: who shares a batch with them moves their last bits."""
    assert found.keys() == expected.keys()
    for name, scores in expected.items():
        assert found[name] == pytest.approx(scores, abs=TOLERANCE), name


def with_stage(dataset, stage, size, **options):
    """Rerank with another stage, as ``rerank`` does."""
    return cut(dataset, PIECE_TOKENS).map_batches(
        stage,
        fn_constructor_kwargs=options,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=size),
        num_cpus=1,
    )


def test_scores_are_those_of_an_embedded_reranker(cluster, rows, expected):
    ranked = rerank(dataset_of(rows), actors=(2, 2), piece_tokens=PIECE_TOKENS)
    assert_same(scores_of(ranked), expected)
    assert ranked.schema().base_schema.field("scores").type == pa.list_(pa.float32())


def test_a_stage_of_a_pipeline_of_ones_own_reads_blocks_as_they_are(cluster, rows, expected):
    ranked = dataset_of(rows).map_batches(
        RerankStage, batch_size=5, batch_format="pyarrow", compute=ActorPoolStrategy(size=1)
    )
    assert_same(scores_of(ranked), expected)


def test_rows_of_one_document_get_one_score(cluster, rows, expected):
    pairs = [
        {"id": f"{row['id']}/{index}", "query": row["query"], "document": document}
        for row in rows
        for index, document in enumerate(row["documents"])
    ]
    ranked = rerank(dataset_of(pairs), actors=(2, 2), piece_tokens=PIECE_TOKENS)
    found = {row["id"]: row["score"] for row in ranked.iter_rows()}
    single = {f"{i}/{n}": score for i, row in expected.items() for n, score in enumerate(row)}
    assert_same(found, single)


def test_both_nodes_work(cluster, rows, expected, tmp_path):
    ranked = with_stage(dataset_of(rows), stages.Slow, 3, notes=str(tmp_path))
    assert_same(scores_of(ranked), expected)
    assert len({path.name.partition(".")[0] for path in tmp_path.iterdir()}) == 2


def test_a_job_whose_actor_is_killed_finishes_with_the_same_scores(
    cluster, rows, expected, tmp_path
):
    ranked = with_stage(dataset_of(rows), stages.KilledOnce, 2, notes=str(tmp_path))
    assert_same(scores_of(ranked), expected)
    assert (tmp_path / "killed").exists()
    assert len([path for path in tmp_path.iterdir() if path.name != "killed"]) >= 3  # processes


def test_a_job_whose_node_is_lost_finishes_with_the_same_scores(cluster, rows, expected, tmp_path):
    doomed = add_node(cluster)
    ranked = with_stage(dataset_of(rows), stages.Slow, 5, notes=str(tmp_path))
    found = {}
    is_lost = False
    for row in ranked.iter_rows():
        found[row["id"]] = row["scores"]
        if not is_lost and any(tmp_path.glob(f"{doomed.node_id}.*")):
            cluster.remove_node(doomed, allow_graceful=False)
            add_node(cluster)
            is_lost = True
    assert is_lost
    assert_same(found, expected)


def test_a_bad_row_ends_the_job_and_is_named(cluster, rows):
    bad = [*rows[:3], {**rows[3], "id": "blank", "query": " "}]
    with pytest.raises(RayError, match="the row with the id 'blank': query: it is blank"):
        rerank(dataset_of(bad)).take_all()


def test_bad_rows_are_null_with_the_reason_where_that_is_asked_for(cluster, rows, expected):
    long = [{"title": None, "text": "word " * 3000}]
    bad = [
        {**rows[3], "id": "blank", "query": " "},
        {**rows[3], "id": "no query", "query": None},
        {**rows[3], "id": "no documents", "documents": None},
        {**rows[3], "id": "no document", "documents": [None, *rows[3]["documents"]]},
        {**rows[3], "id": "too long", "documents": [*rows[3]["documents"], *long]},
    ]
    mixed = [row for pair in zip(rows, bad, strict=False) for row in pair] + rows[len(bad) :]
    ranked = rerank(dataset_of(mixed), errors="null", long_documents="refuse").take_all()
    scored = {row["id"]: row["scores"] for row in ranked if row["error"] is None}
    reasons = {row["id"]: row["error"] for row in ranked if row["error"] is not None}
    assert_same(scored, expected)
    assert all(row["scores"] is None for row in ranked if row["id"] in reasons)
    assert reasons["blank"].startswith("query: it is blank")
    assert reasons["no query"] == "Expected `str`, got `null` - at `$.query`"
    assert reasons["no documents"] == "Expected `array`, got `null` - at `$.documents`"
    assert reasons["no document"].endswith("at `$.documents[0]`")
    assert reasons["too long"].startswith("documents[3]: it has 30")
    assert len(reasons) == len(bad)


def test_an_empty_dataset_gives_no_rows(cluster):
    schema = pa.schema([("query", pa.string()), ("documents", pa.list_(pa.string()))])
    assert rerank(ray.data.from_arrow(schema.empty_table())).take_all() == []


@pytest.mark.parametrize(("num_cpus", "expected"), [(0, 1), (0.5, 1), (1, 1), (1.5, 1), (2, 2)])
def test_an_actor_computes_with_its_share_of_the_nodes_cores(cluster, num_cpus, expected):
    @ray.remote(num_cpus=num_cpus)
    class Actor:
        def threads(self):
            return RerankStage().reranker.threads

    assert ray.get(Actor.remote().threads.remote()) == min(expected, cpu.physical_cores())


@pytest.mark.parametrize(
    ("assigned", "total", "limit", "expected"),
    [
        (4, 8, 4, 2),  # eight hardware threads of four cores
        (8, 8, 8, 4),
        (1, 8, 1, 1),
        (0, 8, 1, 1),
        (3, 4, 3, 3),  # Ray was told of cores
        (2, 40, 2, 1),  # and here of more than there are
        (4, 8, 1, 1),  # OMP_NUM_THREADS was there before Ray
    ],
)
def test_ray_counts_hardware_threads_and_actors_cores(
    monkeypatch, assigned, total, limit, expected
):
    context = SimpleNamespace(
        worker=SimpleNamespace(mode=ray.WORKER_MODE),
        get_assigned_resources=lambda: {"CPU": assigned} if assigned else {},
        get_node_id=lambda: "here",
    )
    nodes = [
        {"NodeID": "there", "Resources": {"CPU": 1}},
        {"NodeID": "here", "Resources": {"CPU": total}},
    ]
    fake = SimpleNamespace(
        WORKER_MODE=ray.WORKER_MODE,
        is_initialized=lambda: True,
        get_runtime_context=lambda: context,
        nodes=lambda: nodes,
    )
    monkeypatch.setattr(edgerank.ray, "ray", fake)
    monkeypatch.setattr(edgerank.ray, "physical_cores", lambda: 4)
    monkeypatch.setattr(edgerank.ray, "default_threads", lambda: min(4, limit))
    assert actor_threads() == expected


def test_outside_of_ray_threads_are_those_of_any_reranker():
    assert actor_threads() == cpu.default_threads()


def test_pieces_have_as_many_tokens_as_they_may_and_rows_keep_their_order(cluster, rows):
    tables = [ray.get(ref) for ref in cut(dataset_of(rows), PIECE_TOKENS).to_arrow_refs()]
    pieces = [table.column(PIECE).to_pylist()[0] for table in tables]
    assert all(len(table) == 1 for table in tables)
    assert sorted((row for piece in pieces for row in piece), key=lambda row: row["id"]) == sorted(
        rows, key=lambda row: row["id"]
    )

    def estimate(row):
        query = len(row["query"].encode())
        texts = (sum(len((t or "").encode()) for t in one.values()) for one in row["documents"])
        return sum(text + query for text in texts) // 4 + 1

    sums = [sum(map(estimate, piece)) for piece in pieces]
    assert len(pieces) > 5
    is_one = [len(piece) == 1 for piece in pieces]
    assert all(alone or one <= PIECE_TOKENS for one, alone in zip(sums, is_one, strict=True))
    for one, after in zip(sums, pieces[1:], strict=False):  # the next row did not fit
        assert one + estimate(after[0]) > PIECE_TOKENS


def test_a_dataset_larger_than_the_object_store_waits_outside_of_it(cluster):
    row_bytes, rows = 250_000, 900  # a row is a piece
    assert row_bytes // BYTES_PER_TOKEN < PIECE_TOKENS_DEFAULT < 2 * row_bytes // BYTES_PER_TOKEN
    assert rows * row_bytes > 2 * stages.STORE_BYTES

    def texts(batch):
        documents = [["x" * (row_bytes // 10)] * 10] * len(batch["id"])
        return {"id": batch["id"], "query": ["q"] * len(batch["id"]), "documents": documents}

    dataset = ray.data.range(rows, override_num_blocks=20).map_batches(texts, batch_size=None)
    pieces = cut(dataset).map_batches(
        stages.Counter,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=2),
        num_cpus=1,
    )
    assert sum(row["rows"] for row in pieces.iter_rows()) == rows
    told = memory_summary(address=cluster.address, stats_only=True)
    assert "Plasma memory usage" in told
    assert "Spilled" not in told


def test_a_batch_of_another_format_and_a_missing_column_are_named():
    stage = RerankStage()
    with pytest.raises(InputError, match="batch: got dict; call map_batches with batch_format="):
        stage({"query": np.array(["a"])})
    with pytest.raises(InputError, match="query: no such column; there are text"):
        stage(pa.table({"text": ["a"]}))
    with pytest.raises(InputError, match="document: no such column; there are query"):
        stage(pa.table({"query": ["a"]}))
    with pytest.raises(InputError, match="errors: 'skip' is unknown"):
        RerankStage(errors="skip")
