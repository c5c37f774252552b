"""What a bundle says of itself is what anyone finds who measures it."""

from __future__ import annotations

import json
import re

import msgspec
import numpy as np
import onnx
import pytest

from edgerank import InputError, Reranker
from quantize import quantize
from quantize.errors import QuantizeError
from quantize.measure.calibration import CANDIDATES, DEFAULT_NAME, read_calibration
from tests.support.bundles import only_variant

MATRICES = 3 * 5  # of the tiny encoders: layers times query, key_value, output and two more


def write_pairs(path, queries=6, documents=5):
    """Write pairs of which every document can be told by its id."""
    lines = [
        {"query": f"what is {q}?", "document": f"{'word ' * d}{q} {d}.", "id": f"{q}-{d}"}
        for q in range(queries)
        for d in range(documents)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    return path


@pytest.fixture(scope="module")
def measured(tmp_path_factory, cross_encoder):
    """A directory with a bundle and its report."""
    work = tmp_path_factory.mktemp("measured")
    text = write_pairs(work / "text.jsonl", queries=9)
    quantize(cross_encoder, work / "bundle", calibrate=text, report=work / "report")
    return work


@pytest.fixture(scope="module")
def report(measured):
    return json.loads((measured / "report/report.int8.json").read_bytes())


def brute_force_tau(first, second) -> float:
    """Kendall's tau-b, pair by pair."""
    signs = [
        (np.sign(first[i] - first[j]), np.sign(second[i] - second[j]))
        for i in range(len(first))
        for j in range(i)
    ]
    agreement = sum(a * b for a, b in signs)
    return agreement / np.sqrt(sum(a != 0 for a, _ in signs) * sum(b != 0 for _, b in signs))


def texts_of(report, measured) -> list[tuple[str, str]]:
    lines = map(json.loads, (measured / "text.jsonl").read_text().splitlines())
    documents = {line["id"]: line["document"] for line in lines}
    return [(pair["query"], documents[pair["document"]]) for pair in report["pairs"]]


def test_the_scores_are_those_of_the_bundle_and_of_the_reference_implementation(
    measured, report, cross_encoder
):
    from sentence_transformers import CrossEncoder

    texts = texts_of(report, measured)
    scores = Reranker(measured / "bundle").score_pairs(texts)
    np.testing.assert_allclose([pair["score"] for pair in report["pairs"]], scores, atol=1e-6)
    reference = CrossEncoder(str(cross_encoder), device="cpu").predict(texts)
    np.testing.assert_allclose(
        [pair["reference"] for pair in report["pairs"]], reference, atol=1e-4
    )


def test_the_figures_follow_from_the_scores(measured, report):
    fidelity = only_variant(measured / "bundle").fidelity
    assert json.loads(msgspec.json.encode(fidelity)) == report["fidelity"]
    reference, scores = (
        np.array([pair[key] for pair in report["pairs"]]) for key in ("reference", "score")
    )
    errors = np.abs(scores - reference)
    assert fidelity.pairs == len(errors)
    assert fidelity.mean_error == pytest.approx(errors.mean(), rel=1e-4)
    assert fidelity.p99_error == pytest.approx(np.quantile(errors, 0.99), rel=1e-4)
    assert fidelity.max_error == pytest.approx(errors.max(), rel=1e-4)
    assert fidelity.spread == pytest.approx(reference.std(), rel=1e-4)
    queries = np.array([pair["query"] for pair in report["pairs"]])
    taus, overlaps = [], []
    for query in np.unique(queries):
        mine = queries == query
        taus.append(brute_force_tau(reference[mine], scores[mine]))
        tops = [{*np.argsort(-x[mine], kind="stable")[:10]} for x in (reference, scores)]
        overlaps.append(len(tops[0] & tops[1]) / len(tops[0]))
    assert fidelity.queries == len(taus)
    assert fidelity.kendall_tau == pytest.approx(np.mean(taus))
    assert fidelity.min_kendall_tau == pytest.approx(min(taus))
    assert fidelity.top10_overlap == pytest.approx(np.mean(overlaps))
    assert fidelity.min_top10_overlap == pytest.approx(min(overlaps))
    worst = [report["pairs"][row]["document"] for row in np.argsort(-errors, kind="stable")[:5]]
    assert [found.document for found in fidelity.worst] == worst
    assert fidelity.mean_error > 0


def test_it_is_measured_on_queries_that_nothing_was_tuned_to(report):
    assert {pair["query"] for pair in report["pairs"]} == {"what is 3?", "what is 7?"}


def test_the_report_needs_no_other_file_and_no_network(measured):
    page = (measured / "report/report.int8.html").read_text()
    assert page.count("<svg") == 3
    assert not re.search(r"(src|href)=\"(?!#)", page)
    assert "<script" not in page
    assert sorted(path.name for path in (measured / "report").iterdir()) == [
        "report.int8.html",
        "report.int8.json",
    ]


@pytest.mark.parametrize("name", ["qwen2", "cross_encoder", "embedding"])
def test_a_bundle_without_rounded_matrices_has_next_to_no_error(request, tmp_path, name):
    checkpoint = request.getfixturevalue(name)
    quantize(checkpoint, tmp_path / "bundle", keep_fp32=["*layers.*"], steps=("rotate", "smooth"))
    fidelity = only_variant(tmp_path / "bundle").fidelity
    quantize(checkpoint, tmp_path / "bundle")
    rounded = only_variant(tmp_path / "bundle").fidelity
    assert max(fidelity.layers) < 0.02  # what is left is the embedding's
    assert rounded.layers[-1] > 1.5 * fidelity.layers[-1]
    assert len(rounded.layers) == 3


def float_matrices(bundle) -> set[str]:
    graph = onnx.load(bundle / "model.int8.onnx", load_external_data=False).graph
    return {
        tensor.name
        for tensor in graph.initializer
        if tensor.data_type == onnx.TensorProto.FLOAT
        and len(tensor.dims) == 2
        and tensor.name.startswith("layers.")
    }


def test_named_matrices_stay_in_float32_and_the_trade_is_told(cross_encoder, tmp_path):
    quantize(cross_encoder, tmp_path / "bundle", keep_fp32=["layers.[01].dense", "*.query"])
    assert float_matrices(tmp_path / "bundle") == {
        "layers.0.dense",
        "layers.1.dense",
        *(f"layers.{index}.query" for index in range(3)),
    }
    variant = only_variant(tmp_path / "bundle")
    assert variant.kept.matrices == ("layers.[01].dense", "*.query")
    assert variant.kept.added_bytes > 0
    quantize(cross_encoder, tmp_path / "without")
    without = only_variant(tmp_path / "without").fidelity
    assert variant.kept.mean_error_without == without.mean_error
    assert variant.kept.kendall_tau_without == without.kendall_tau
    assert variant.fidelity.layers[0] < without.layers[0]


def test_the_matrices_that_lose_most_are_found(cross_encoder, tmp_path):
    quantize(cross_encoder, tmp_path / "bundle", keep_fp32=2, report=tmp_path / "report")
    kept = only_variant(tmp_path / "bundle").kept
    report = json.loads((tmp_path / "report/report.int8.json").read_bytes())
    found = report["sensitivities"]
    assert [entry["matrix"] for entry in found[:2]] == [*kept.matrices]
    assert float_matrices(tmp_path / "bundle") == {*kept.matrices}
    assert len(found) == MATRICES
    errors = [entry["error"] for entry in found]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] > 0


def test_auto_keeps_the_matrix_that_stands_out_and_none_if_none_does(tmp_path, cross_encoder):
    from safetensors.numpy import load_file, save_file

    quantize(cross_encoder, tmp_path / "bundle", keep_fp32="auto")
    assert only_variant(tmp_path / "bundle").kept.matrices == ()

    spoilt = tmp_path / "spoilt"
    spoilt.mkdir()
    for file in cross_encoder.iterdir():
        (spoilt / file.name).write_bytes(file.read_bytes())
    tensors = load_file(spoilt / "model.safetensors")
    weight = tensors["bert.encoder.layer.1.output.dense.weight"]
    weight[:, 7] = 300 * np.abs(weight).max()  # leaves one step for all other weights
    tensors["bert.encoder.layer.1.intermediate.dense.weight"][7] *= 1e-3
    tensors["bert.encoder.layer.1.intermediate.dense.bias"][7] = 0
    save_file(tensors, spoilt / "model.safetensors", {"format": "pt"})
    quantize(spoilt, tmp_path / "bundle", keep_fp32="auto")
    assert only_variant(tmp_path / "bundle").kept.matrices == ("layers.1.dense",)


def test_the_embedding_can_be_kept_too(cross_encoder, tmp_path):
    quantize(cross_encoder, tmp_path / "bundle", keep_fp32=["embeddings.word"])
    variant = only_variant(tmp_path / "bundle")
    assert variant.kept.added_bytes > 0
    graph = onnx.load(tmp_path / "bundle/model.int8.onnx", load_external_data=False).graph
    assert "GatherBlockQuantized" not in {node.op_type for node in graph.node}


@pytest.mark.parametrize("option", [{"keep_fp32": 1}, {"min_tau": 0.5}, {"report": "report"}])
def test_what_needs_a_measurement_is_refused_for_float32(cross_encoder, tmp_path, option):
    with pytest.raises(InputError, match="'fp32' is the original and is not measured"):
        quantize(cross_encoder, tmp_path / "bundle", precision="fp32", **option)
    assert not any(tmp_path.iterdir())


def test_a_pattern_that_matches_nothing_is_named(cross_encoder, tmp_path):
    with pytest.raises(InputError, match=r"'layers\.9\.\*'.*layers\.0\.dense"):
        quantize(cross_encoder, tmp_path / "bundle", keep_fp32=["layers.9.*"])
    assert not (tmp_path / "bundle").exists()


def test_a_bundle_below_the_threshold_is_refused_with_the_figures(cross_encoder, tmp_path):
    with pytest.raises(QuantizeError, match=r"refused: Kendall tau is 0\.\d+, below 1.*mean"):
        quantize(
            cross_encoder, tmp_path / "bundle", precision="int4", min_tau=1, report=tmp_path / "r"
        )
    assert [path.name for path in tmp_path.iterdir()] == ["r"]
    quantize(cross_encoder, tmp_path / "bundle", min_tau=0.5)
    assert only_variant(tmp_path / "bundle").fidelity.kendall_tau >= 0.5


@pytest.mark.parametrize("name", ["qwen2", "cross_encoder", "embedding"])
def test_int4_is_smaller_and_its_error_within_bounds(request, tmp_path, name):
    checkpoint = request.getfixturevalue(name)
    int4 = quantize(checkpoint, tmp_path / "int4", precision="int4")
    int8 = quantize(checkpoint, tmp_path / "int8")
    fidelity, finer = (only_variant(made.directory).fidelity for made in (int4, int8))
    assert int4.size < int8.size
    assert finer.mean_error < fidelity.mean_error < fidelity.spread


def test_own_text_changes_the_weights(measured, cross_encoder, tmp_path):
    quantize(cross_encoder, tmp_path / "bundle")
    assert only_variant(tmp_path / "bundle").fidelity.text == DEFAULT_NAME
    assert only_variant(measured / "bundle").fidelity.text == "text.jsonl"
    assert (tmp_path / "bundle/model.int8.onnx.data").read_bytes() != (
        measured / "bundle/model.int8.onnx.data"
    ).read_bytes()


def test_the_built_in_text_is_whole():
    calibration = read_calibration(None)
    tuned, held_out = (
        {pair.query for pair in pairs} for pairs in (calibration.pairs, calibration.held_out)
    )
    assert len(tuned) == 18
    assert len(held_out) == 6
    assert not tuned & held_out
    assert len(calibration.held_out) == 6 * CANDIDATES
    assert len({(pair.query, pair.id) for pair in calibration.held_out}) == 6 * CANDIDATES


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 queries; at least 2"),
        (b'{"query": "a", "document": "b"}', "1 queries; at least 2"),
        (
            b'{"query": "a", "document": "b"}\n{"query": 1, "document": "b"}',
            "line 2: Expected",
        ),
        (b'{"query": "a"}', "line 1: .*document"),
        (b'\n{"query": "a", ', "line 2: "),
        (b'{"query": "\xff", "document": "b"}', "line 1: "),
        (b'{"query": " ", "document": "b"}', "line 1: the query is blank"),
    ],
)
def test_unusable_text_is_refused_by_line(cross_encoder, tmp_path, content, message):
    path = tmp_path / "text.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"{re.escape(str(path))}.*{message}"):
        quantize(cross_encoder, tmp_path / "bundle", calibrate=path)
    with pytest.raises(InputError, match=r"absent\.jsonl: No such file"):
        quantize(cross_encoder, tmp_path / "bundle", calibrate=tmp_path / "absent.jsonl")
    assert not (tmp_path / "bundle").exists()


def test_pairs_of_one_document_a_query_are_measured_too(cross_encoder, tmp_path):
    text = write_pairs(tmp_path / "text.jsonl", queries=40, documents=1)
    quantize(cross_encoder, tmp_path / "bundle", calibrate=text)
    assert only_variant(tmp_path / "bundle").fidelity.pairs == 10 * 10


def test_a_report_that_cannot_be_written_is_refused_before_the_work(qwen2, tmp_path):
    (tmp_path / "report").write_text("kept")
    with pytest.raises(InputError, match=r"report: .* is not a directory"):
        quantize(qwen2, tmp_path / "bundle", report=tmp_path / "report")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
