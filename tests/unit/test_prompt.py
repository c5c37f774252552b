"""Pieces of a prompt and the cutting of texts, with a tokenizer whose tokens are numbers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers

from edgerank.documents import Pair, make_pairs
from edgerank.errors import InputError, Remedy
from edgerank.manifest import Piece, Prompt, Truncation
from edgerank.prompt import Encoded, PromptEncoder

WORDS = ["CLS", "SEP", "ask", "END", "query", "document", "{query}", "{document}", "be", "kind:"]
BEGIN, BETWEEN, ASK, END = 0, 1, 2, 3
FIRST = 100  # of the ids of texts

PAIR = Prompt(
    query=(Piece("CLS"), Piece("{query}"), Piece("SEP")),
    document=(Piece("{document}", token_type=1), Piece("SEP", token_type=1)),
)
CAUSAL = Prompt(
    query=(Piece("CLS"), Piece("ask {query}")),
    document=(Piece("{document}"), Piece("END")),
    instruction="be kind: {instruction} ",
)

texts = st.lists(st.integers(FIRST, FIRST + 50), max_size=60)
lengths = st.integers(16, 80)
ways = st.sampled_from(["truncate", "split"])


def tokenizer() -> Tokenizer:
    """One token a word: the words above, then numbers, each its own id."""
    vocabulary = {word: index for index, word in enumerate(WORDS)}
    vocabulary |= {str(number): number for number in range(len(WORDS), 1000)}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="CLS"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


TOKENIZER = tokenizer()


def text(ids: list[int]) -> str:
    return " ".join(map(str, ids))


def encoder(prompt: Prompt, rule: str, reserved: int, length: int, **more: object) -> PromptEncoder:
    return PromptEncoder(prompt, Truncation(rule, reserved, **more), TOKENIZER, length)


def documents(*ids: list[int]) -> dict[str, Pair]:
    return {pair.text: pair for pair in make_pairs("query", [text(each) for each in ids])}


def joined(parts: list[list[int]]) -> list[int]:
    return [token for part in parts for token in part]


def of_document(encoded: Encoded, index: int) -> list[list[int]]:
    """The sequences of a document, as ids."""
    return [
        tokens.ids.tolist()
        for tokens, owner in zip(encoded.sequences, encoded.document_index, strict=True)
        if owner == index
    ]


@given(query=texts, document=texts, length=lengths, way=ways)
def test_a_pair_is_one_sequence_whose_longer_text_is_cut_first(query, document, length, way):
    made = encoder(PAIR, "longest", 3, length)
    encoded = made.encode(text(query), documents(document), long_documents=way)
    assert len(encoded.query.ids) == 0
    parts = []
    for tokens in encoded.sequences:
        ids = tokens.ids.tolist()
        assert len(ids) <= length
        assert (ids[0], ids[-1], ids.count(BETWEEN)) == (BEGIN, BETWEEN, 2)
        middle = ids.index(BETWEEN)
        assert tokens.types.tolist() == [0] * (middle + 1) + [1] * (len(ids) - middle - 1)
        assert ids[1:middle] == query[: middle - 1]
        parts.append(ids[middle + 1 : -1])
    room = length - 3
    if len(query) + len(document) <= room:
        assert parts == [document]
    elif way == "split":
        assert joined(parts) == document
        kept = min(len(query), room // 2)
        assert all(len(part) == room - kept for part in parts[:-1])
    else:
        assert joined(parts) == document[: len(parts[0])]
        num_query, num_document = middle - 1, len(parts[0])
        assert num_query + num_document == room
        assert num_query == len(query) or num_query >= num_document - 1
        assert num_document == len(document) or num_document >= num_query - 1


@given(query=texts, document=texts, length=lengths, way=ways, share=st.integers(1, 3))
def test_documents_share_the_prefix_and_are_cut_to_what_it_leaves(
    query, document, length, way, share
):
    made = encoder(CAUSAL, "document", 3, length, query_share=(share, 4))
    encoded = made.encode(text(query), documents(document, [FIRST]), long_documents=way)
    kept = min(len(query) + 1, length * share // 4, length - 3)  # with the word "ask"
    assert encoded.query.ids.tolist() == [BEGIN, *[ASK, *query][:kept]]
    parts = [ids[:-1] for ids in of_document(encoded, 0)]
    assert all(ids[-1] == END for ids in of_document(encoded, 0))
    width = length - 3 - kept
    if way == "split" and len(document) > width:
        assert joined(parts) == document
        assert {len(part) for part in parts[:-1]} == {width}
    else:
        assert parts == [document[:width]]
    if text(document) != text([FIRST]):
        assert of_document(encoded, 1) == [[FIRST, END]]


TAILED = Prompt(CAUSAL.query, (Piece("kind: {document} be document"), Piece("END")))
TAIL = [WORDS.index("be"), WORDS.index("document")]


@given(query=texts, document=texts, length=lengths, way=ways)
def test_what_follows_a_document_in_its_piece_is_not_cut_off(query, document, length, way):
    made = encoder(TAILED, "document", 4, length)
    encoded = made.encode(text(query), documents(document), long_documents=way)
    parts = of_document(encoded, 0)
    assert all(ids[-3:] == [*TAIL, END] for ids in parts)
    width = length - 4 - min(len(query) + 1, length - 4)
    found = joined([ids[:-3] for ids in parts])
    whole = [WORDS.index("kind:"), *document]
    assert found == (whole if way == "split" and width else whole[:width])
    assert all(len(encoded.query.ids) + len(ids) <= length for ids in parts)


def test_a_document_cut_on_request_keeps_what_follows_it():
    made = encoder(TAILED, "document", 4, 40)
    encoded = made.encode("1", documents([FIRST] * 9), max_document_tokens=3)
    kind = WORDS.index("kind:")
    assert of_document(encoded, 0) == [[kind, FIRST, FIRST, *TAIL, END]]


@given(query=texts, document=texts, length=lengths)
def test_queries_and_documents_of_their_own_are_each_cut_to_the_length(query, document, length):
    prompt = Prompt(PAIR.query, (Piece("CLS"), Piece("{document}"), Piece("SEP")))
    encoded = encoder(prompt, "each", 2, length).encode(text(query), documents(document))
    assert encoded.query.ids.tolist() == [BEGIN, *query[: length - 2], BETWEEN]
    assert of_document(encoded, 0) == [[BEGIN, *document[: length - 2], BETWEEN]]
    assert encoded.query_tokens == len(query)


def test_a_document_is_refused_from_the_first_token_too_many():
    made = encoder(CAUSAL, "document", 3, 20)
    fits = [FIRST] * (20 - 3 - 2)  # beside "ask" and a query of one word
    made.encode("100", documents(fits), long_documents="refuse")
    with pytest.raises(InputError, match=r"^documents\[1\]: it has 16 tokens and 15 fit") as raised:
        made.encode("100", documents(fits, [*fits, FIRST]), long_documents="refuse")
    assert raised.value.remedy == Remedy("long_documents", ("truncate", "split"))


def test_the_bundle_says_what_becomes_of_long_documents_unless_the_caller_does():
    long = documents([FIRST] * 100)
    for own, asked, count in (
        ("truncate", None, 1),
        ("split", None, 8),
        ("truncate", "split", 8),
        ("split", "truncate", 1),
    ):
        made = encoder(PAIR, "longest", 3, 17, long_documents=own)
        assert len(made.encode("100", long, long_documents=asked).sequences) == count


@pytest.mark.parametrize("word", ["{query}", "{document}"])
def test_what_looks_like_a_placeholder_in_a_text_is_text(word):
    made = encoder(PAIR, "longest", 3, 32)
    [tokens] = made.encode(word, {word: Pair(word, word, 0)}).sequences
    own = WORDS.index(word)
    assert tokens.ids.tolist() == [BEGIN, own, BETWEEN, own, BETWEEN]


def test_an_instruction_stands_before_the_query_where_the_family_takes_one():
    made = encoder(CAUSAL, "document", 3, 32)
    be, kind = WORDS.index("be"), WORDS.index("kind:")
    encoded = made.encode("100", documents([101]), instruction="200 201")
    assert encoded.query.ids.tolist() == [BEGIN, be, kind, 200, 201, ASK, 100]
    assert encoded.query_tokens == 6
    for nothing in (None, ""):
        encoded = made.encode("100", documents([101]), instruction=nothing)
        assert encoded.query.ids.tolist() == [BEGIN, ASK, 100]
    with pytest.raises(InputError, match=r"^instruction: this model's family takes none"):
        encoder(PAIR, "longest", 3, 32).encode("100", documents([101]), instruction="200")


def test_white_space_around_texts_is_kept_unless_the_prompt_strips_it():
    bytewise = Tokenizer(models.WordLevel({"CLS": 0, "SEP": 1, "x": 2, " ": 3}, unk_token="CLS"))
    bytewise.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    for strip, expected in ((False, [3, 2, 3]), (True, [2])):
        prompt = Prompt((Piece("{query}"),), (Piece("{document}"),), strip=strip)
        made = PromptEncoder(prompt, Truncation("each", 0), bytewise, 32)
        [tokens] = made.encode_texts([" x "], "document")
        assert tokens.ids.tolist() == expected
        [tokens] = made.encode_texts([" x "], "query")
        assert tokens.ids.tolist() == expected
