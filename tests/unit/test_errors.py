"""Errors as a caller sees them: their tree, the path of a field, and what would help."""

from __future__ import annotations

import pickle
import re

import pytest

from edgerank import errors
from edgerank.errors import BundleError, EdgerankError, InputError, Remedy, ServerError

SPLIT = Remedy("long_documents", ("truncate", "split"))


@pytest.mark.parametrize(
    ("field", "index", "path"),
    [
        ("query", None, "query"),
        ("documents", 3, "documents[3]"),
        ("documents.text", 0, "documents[0].text"),
        ("pairs.document.a.b", 12, "pairs[12].document.a.b"),
        ("texts/with.dots.jsonl", None, "texts/with.dots.jsonl"),
    ],
)
def test_an_input_is_named_by_its_path_and_its_parts(field, index, path):
    error = InputError(field, "it is odd", index)
    assert (error.field, error.reason, error.index) == (field, "it is odd", index)
    assert error.path == path
    assert str(error) == f"{path}: it is odd"


def test_what_would_help_is_said_in_terms_of_python():
    error = InputError("documents", "it is too long", 1, SPLIT)
    expected = "documents[1]: it is too long, or pass long_documents='truncate' or 'split'"
    assert str(error) == expected


@pytest.mark.parametrize(
    "error",
    [
        InputError("documents.text", "it is odd", 3, SPLIT),
        ServerError("UNAVAILABLE", "gone", 1.5, "abc"),
        BundleError("model: missing"),
    ],
)
def test_errors_go_from_process_to_process(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_every_error_is_in_the_tree_that_the_module_shows():
    kinds = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, Exception)
    }
    shown = re.findall(r"^( *)[*x+] (\w+)", errors.__doc__ or "", re.MULTILINE)
    depth = {name: len(spaces) // 2 for spaces, name in shown}
    assert depth.keys() == kinds.keys()
    for name, kind in kinds.items():
        bases = [base for base in kind.__mro__ if issubclass(base, EdgerankError)]
        assert depth[name] == len(bases) - 1, name


def test_a_caller_may_catch_unusable_inputs_as_value_errors():
    assert issubclass(InputError, ValueError)
