"""The command line as a shell sees it: stdout, one line on stderr, and the exit status."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgerank import Reranker
from tests.support import ROOT
from tests.support.cli import edgerank, environment, fail, succeed

QUERY = "what is the capital of France?"
TEXTS = ["Paris, since 987.", "Dune was written by Frank Herbert.", "der Fluß fließt, 数は力"]
LINES = "\n".join(TEXTS).encode() + b"\n"


@pytest.fixture(scope="module")
def model(bundles: Path) -> Path:
    return bundles / "cross-encoder.int8"


def ranked(model: Path, texts: list[str], ids: list[str], **options: object) -> list[object]:
    """What --json must print."""
    hits = Reranker(model).rank(QUERY, texts, **options)
    return [
        {"id": ids[hit.index], "score": pytest.approx(hit.score, abs=1e-5), "text": hit.document}
        for hit in hits
    ]


def test_a_checkpoint_becomes_a_bundle_that_is_inspected_verified_and_reranks(qwen2, tmp_path):
    bundle = tmp_path / "bundle"
    made = succeed("quantize", qwen2, "-o", bundle)
    assert str(bundle) in made
    assert "mxbai-rerank-v2" in made

    manifest = json.loads((bundle / "edgerank.json").read_bytes())
    assert json.loads(succeed("inspect", bundle, "--json")) == manifest
    described = succeed("inspect", bundle)
    for name, file in manifest["files"].items():
        assert name in described
        assert file["sha256"] in described
    assert manifest["variants"][0]["recipe"] in described

    intact = succeed("verify", bundle)
    assert all(name in intact for name in manifest["files"])

    printed = json.loads(succeed("rerank", QUERY, "--json", "-m", bundle, stdin=LINES))
    assert printed == ranked(bundle, TEXTS, ["1", "2", "3"])


def test_kernels_that_are_not_there_are_refused_before_any_work(tmp_path):
    absent, message = tmp_path / "absent", "--kernels: 'avx9'"
    assert fail("eval", absent, "--kernels", "avx9").startswith(message)
    assert fail("quantize", absent, "-o", absent, EDGERANK_KERNELS="avx9").startswith(message)


def test_the_precision_of_a_bundle_can_be_chosen(cross_encoder, tmp_path):
    succeed("quantize", cross_encoder, "-o", tmp_path / "bundle", "--precision", "fp32")
    assert (tmp_path / "bundle" / "model.fp32.onnx").exists()


def test_the_table_shows_scores_ids_and_texts_best_first(model, tmp_path):
    (tmp_path / "documents.txt").write_bytes(LINES)
    lines = succeed("rerank", QUERY, tmp_path / "documents.txt", "-m", model).splitlines()
    assert len(lines) == 1 + len(TEXTS)
    for rank, (line, hit) in enumerate(
        zip(lines[1:], Reranker(model).rank(QUERY, TEXTS), strict=True), 1
    ):
        assert line.split(maxsplit=3)[:3] == [str(rank), f"{hit.score:.4f}", str(hit.index + 1)]
        assert str(hit.document) in line


def test_the_table_shows_ids_of_their_own(model):
    records = [{"id": "first-id", "text": "Paris"}, {"id": "second-id", "text": "Dune"}]
    stdin = "\n".join(map(json.dumps, records)).encode()
    table = succeed("rerank", QUERY, "-m", model, stdin=stdin)
    assert "first-id" in table
    assert "second-id" in table


@pytest.mark.parametrize("source", ["file", "dash"])
def test_documents_come_from_a_file_or_from_stdin(model, tmp_path, source):
    path = tmp_path / "documents.txt"
    path.write_bytes(LINES)
    arguments = {"file": [path], "dash": ["-"]}[source]
    stdin = b"" if source == "file" else LINES
    printed = succeed("rerank", QUERY, *arguments, "--json", "-m", model, stdin=stdin)
    assert json.loads(printed) == ranked(model, TEXTS, ["1", "2", "3"])


def test_jsonl_gives_ids_and_titles(model):
    lines = [
        b'\xef\xbb\xbf{"_id": "beir", "title": "Capital", "text": "Paris"}',
        b"",
        b'{"id": 7, "text": "Dune", "year": "1965", "metadata": {}}',
        b'{"text": "without an id"}\r',
        b'{"id": "own", "_id": "other", "title": "", "text": "both"}',
        b'{"id": 0, "text": "zero"}',
    ]
    texts = ["Capital\nParis", "Dune\nyear: 1965", "without an id", "both", "zero"]
    printed = succeed("rerank", QUERY, "--json", "-m", model, stdin=b"\n".join(lines))
    assert json.loads(printed) == ranked(model, texts, ["beir", "7", "4", "own", "0"])


def test_blank_lines_are_skipped_and_lines_keep_their_numbers(model):
    stdin = b"\xef\xbb\xbfParis\r\n\r\n  \t\n  Dune  \n\nlast, without a newline"
    printed = succeed("rerank", QUERY, "--json", "-m", model, stdin=stdin)
    texts = ["Paris", "Dune", "last, without a newline"]
    assert json.loads(printed) == ranked(model, texts, ["1", "4", "6"])


@pytest.mark.parametrize("stdin", [b"", b"\xef\xbb\xbf\n \n"], ids=repr)
def test_no_documents_give_an_empty_array(model, stdin):
    assert json.loads(succeed("rerank", QUERY, "--json", "-m", model, stdin=stdin)) == []


def test_a_byte_order_mark_on_a_blank_line_is_skipped_with_it(model):
    stdin = b'\xef\xbb\xbf\n{"id": "x", "text": "Paris"}\n'
    printed = succeed("rerank", QUERY, "--json", "-m", model, stdin=stdin)
    assert json.loads(printed) == ranked(model, ["Paris"], ["x"])


def test_options_reach_the_reranker(bundles):
    model, long = bundles / "qwen2.int8", "word " * 500
    options = ("--instruction", "Find capitals.", "--normalize", "-k", "2")
    more = ("--long-documents", "split", "--max-length", "200", "--threads", "1")
    stdin = "\n".join([*TEXTS, long]).encode()
    printed = succeed("rerank", QUERY, "--json", "-m", model, *options, *more, stdin=stdin)
    reranker = Reranker(model, max_length=200, threads=1)
    hits = reranker.rank(
        QUERY,
        [*TEXTS, long.strip()],
        top_k=2,
        instruction="Find capitals.",
        normalize=True,
        long_documents="split",
    )
    assert [(record["id"], record["score"]) for record in json.loads(printed)] == [
        (str(hit.index + 1), pytest.approx(hit.score, abs=1e-5)) for hit in hits
    ]


def test_the_model_may_be_named_by_the_environment(model, bundles):
    named = succeed("rerank", QUERY, "--json", stdin=LINES, EDGERANK_MODEL=str(model))
    assert json.loads(named) == ranked(model, TEXTS, ["1", "2", "3"])
    other = bundles / "embedding.int8"
    explicit = ("rerank", QUERY, "--json", "-m", other)
    printed = succeed(*explicit, stdin=LINES, EDGERANK_MODEL=str(model))
    assert json.loads(printed) == ranked(other, TEXTS, ["1", "2", "3"])


def test_a_terminal_without_all_of_unicode_gets_a_table_and_whole_json(model):
    arguments, stdin = ("rerank", QUERY, "-m", model), "数は力😀\n".encode()
    table = succeed(*arguments, stdin=stdin, PYTHONIOENCODING="cp1252")
    assert len(table.splitlines()) == 2
    printed = succeed(*arguments, "--json", stdin=stdin, PYTHONIOENCODING="cp1252")
    assert json.loads(printed)[0]["text"] == "数は力😀"


def test_version_and_help_are_printed():
    assert re.search(r"\d+\.\d+\.\d+", succeed("--version"))
    described = succeed("--help")
    assert all(
        command in described for command in ("quantize", "rerank", "eval", "inspect", "verify")
    )


@pytest.mark.parametrize(
    ("arguments", "stdin", "named"),
    [
        (["rerank", QUERY, "-m", "nowhere"], LINES, "nowhere"),
        (["rerank", QUERY, "missing.txt", "-m", "MODEL"], b"", r"missing\.txt"),
        (["rerank", QUERY, ".", "-m", "MODEL"], b"", "directory"),
        (["rerank", QUERY, "-m", "MODEL", "--bogus"], LINES, "--bogus"),
        (["rerank", QUERY, "-m", "MODEL", "-k", "0"], LINES, "--top-k.*0"),
        (["rerank", QUERY, "-m", "MODEL", "--threads", "0"], LINES, "threads.*0"),
        (["rerank", QUERY, "-m", "MODEL", "--instruction", "x"], LINES, "instruction"),
        (["rerank", QUERY, "-m", "MODEL", "--long-documents", "cut"], LINES, "cut.*truncate"),
        (["rerank", "-m", "MODEL"], b"", "QUERY"),
        (["rerank", "\udcff", "-m", "MODEL"], LINES, "QUERY.*surrogate"),
        (["bogus"], b"", "bogus"),
        (["inspect", "no\nwhere"], b"", "no where"),
        (["quantize", "no/such/directory", "-o", "out"], b"", "no/such/directory"),
        (["quantize", "no/such/directory"], b"", "--output"),
        (["quantize", "x", "-o", "out", "--precision", "int2"], b"", "int2.*int8.*fp32"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, list) else "",
)
def test_bad_usage_is_one_line_that_names_the_culprit(model, arguments, stdin, named):
    arguments = [str(model) if argument == "MODEL" else argument for argument in arguments]
    assert re.search(named, fail(*arguments, stdin=stdin))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (b'{"text": ', ""),
        (b'{"id": "x"}', "text"),
        (b'{"text": "x", "id": true}', "id"),
        (b'{"text": "\xff"}', ""),
        (b'{"text": "\\ud800"}', ""),
        (b'{"text": "x", "more": ' + b"[" * 100_000, ""),
    ],
    ids=lambda value: repr(value[:40]),
)
def test_a_bad_line_of_jsonl_is_named_by_its_number(model, line, named):
    stdin = b'{"text": "fine"}\n\n' + line + b'\n{"text": "fine"}\n'
    assert re.search(f"line 3: .*{named}", fail("rerank", QUERY, "-m", model, stdin=stdin))


def test_a_line_that_is_not_utf8_is_named_by_its_file_and_number(model, tmp_path):
    path = tmp_path / "documents.txt"
    path.write_bytes(b"fine\n\xff\xfe\n")
    assert re.search(r"documents\.txt: line 2: .*utf-8", fail("rerank", QUERY, path, "-m", model))


def test_a_damaged_bundle_is_one_line_that_names_the_file(model, tmp_path):
    bundle = shutil.copytree(model, tmp_path / "bundle")
    weights = bundle / "model.int8.onnx.data"
    content = bytearray(weights.read_bytes())
    content[1000] ^= 1
    weights.write_bytes(content)
    done = edgerank("verify", bundle)
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert re.search(r"^edgerank: error: .*model\.int8\.onnx\.data", line)
    assert b"onnx.data" not in done.stdout

    weights.write_bytes(content[:-1])
    for command in (["verify"], ["inspect"], ["rerank", QUERY, "-m"]):
        assert "model.int8.onnx.data" in fail(*command, bundle)


def test_a_damaged_checkpoint_is_one_line_and_leaves_nothing_behind(qwen2, tmp_path):
    checkpoint = shutil.copytree(qwen2, tmp_path / "checkpoint")
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "output").mkdir()
    message = fail("quantize", checkpoint, "-o", tmp_path / "output" / "bundle")
    assert "model.safetensors" in message
    assert list((tmp_path / "output").iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX pipes")
@pytest.mark.parametrize("command", ["rerank", "rerank --json", "inspect"])
def test_a_reader_that_has_gone_ends_the_command_quietly(model, tmp_path, command):
    documents = tmp_path / "documents.txt"
    documents.write_bytes(LINES * 1000)  # more than a pipe holds
    name, *options = command.split()
    arguments = [QUERY, documents, "-m", model] if name == "rerank" else [model]
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "edgerank", name, *map(str, arguments), *options],
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.stderr == b""


def test_head_takes_what_it_wants_of_a_long_output(model, tmp_path):
    documents = tmp_path / "documents.txt"
    documents.write_bytes(b"".join(b"document %d\n" % number for number in range(3000)))
    process = subprocess.Popen(
        [sys.executable, "-m", "edgerank", "rerank", QUERY, str(documents), "-m", str(model)],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert b"score" in process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_under_stdout_is_one_line(model):
    with open("/dev/full", "wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "edgerank", "inspect", str(model)],
            env=environment(),
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 2
    [line] = done.stderr.decode().splitlines()
    assert re.search("^edgerank: error: .*No space left on device", line)


def test_families_are_listed_and_a_template_is_a_beginning(qwen2, tmp_path):
    listed = succeed("families")
    assert "mxbai-rerank-v2" in listed
    assert 'logit("1") - logit("0")' in listed
    template = succeed("families", "mxbai-rerank-v2")
    (tmp_path / "template.json").write_text(template.replace("Relevance:", "Answer:"))
    made = tmp_path / "bundle"
    options = ("--precision", "fp32", "--template", tmp_path / "template.json")
    succeed("quantize", qwen2, "-o", made, *options, "--family", "mxbai-rerank-v2")
    manifest = json.loads((made / "edgerank.json").read_bytes())
    assert manifest["prompt"]["document"][2]["text"].endswith("Answer:")
    assert "no template; those with one: zerank," in fail("families", "embedding")
    refused = fail("quantize", qwen2, "-o", made, "--family", "embedding")
    assert "not supported by family embedding" in refused


def test_a_closed_stdin_is_one_line(model):
    done = subprocess.run(
        ["/bin/sh", "-c", f"{sys.executable} -m edgerank rerank q -m {model} <&-"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "edgerank: error: stdin: it is closed; name a file, or pipe the documents in\n"
    )


def test_errors_name_the_documents_and_the_flags_of_the_command_line(model):
    lines = b'{"id": "short", "text": "a"}\n{"id": "long", "text": "' + b"word " * 900 + b'"}'
    options = ["--long-documents", "refuse", "-m", model]
    line = fail("rerank", QUERY, *options, stdin=lines)
    assert "document long: it has" in line
    assert line.rstrip().endswith("or use --long-documents truncate or split")
    assert "--instruction: " in fail("rerank", QUERY, "-m", model, "--instruction", "x", stdin=b"a")
    assert "QUERY: it is blank" in fail("rerank", " ", "-m", model, stdin=b"a")


def test_the_table_shows_an_id_whole_however_long(model):
    name = "an-id-" * 30
    line = json.dumps({"id": name, "text": "1965"}).encode()
    assert name in re.sub("[^a-z-]", "", succeed("rerank", QUERY, "-m", model, stdin=line))
