"""Templates: how a query and a document become a prompt, and logits a score.

A template is data: the JSON that ``--template FILE`` reads and ``edgerank families NAME`` prints.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edgerank.errors import InputError
from edgerank.manifest import Activation, Piece, Positive, Prompt

SYSTEM = "<|im_start|>system\n"
USER = "<|im_end|>\n<|im_start|>user\n"
ASSISTANT = "<|im_end|>\n<|im_start|>assistant\n"


class Template(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """A prompt, and the tokens whose logits after it make the score.

    The query is cut to its share of the maximum length, the document to what is left.
    """

    prompt: Prompt
    score: dict[str, float] = {}  # tokens and the weights of their logits; none with a classifier
    activation: Activation = "identity"
    normalize_offset: float = 0.0  # a normalised score is sigmoid(logit - offset)
    max_length: Positive = 8192
    query_share: tuple[Positive, Positive] = (1, 1)  # numerator, denominator
    counted: dict[str, Literal[-1, 1]] = {}  # fixed texts whose tokens count as part of the length,
    # or come on top of it


# the PyPI package mxbai-rerank, mxbai_rerank_v2.py
MXBAI_RERANK_V2 = Template(
    Prompt(
        query=(
            Piece(
                f"{SYSTEM}You are Qwen, created by Alibaba Cloud. You are a helpful assistant."
                f"{USER}"
            ),
            Piece("query: {query}"),
            Piece("\n"),
        ),
        document=(
            Piece("document: {document}"),
            Piece("\n"),
            Piece(
                "You are a search relevance expert who evaluates how well documents match search"
                " queries. For each query-document pair, carefully analyze the semantic"
                " relationship between them, then provide your binary relevance judgment (0 for"
                " not relevant, 1 for relevant).\nRelevance:"
            ),
            Piece(ASSISTANT),
        ),
        instruction="instruction: {instruction}\n",
    ),
    score={"1": 1, "0": -1},
    normalize_offset=6.0,
    query_share=(3, 4),
    counted={"\n": 1},
)
_JUDGE = (
    f"{SYSTEM}Judge whether the Document meets the requirements based on the Query and the Instruct"
    f' provided. Note that the answer can only be "yes" or "no".{USER}'
)
_ANSWER = f"{ASSISTANT}<think>\n\n</think>\n\n"
# the model card of Qwen/Qwen3-Reranker-0.6B; the document's piece begins where no token can span
QWEN3_RERANKER = Template(
    Prompt(
        query=(Piece(_JUDGE), Piece("<Query>: {query}\n<Document>:")),
        document=(Piece(" {document}"), Piece(_ANSWER)),
        instruction="<Instruct>: {instruction}\n",
        default_instruction=(
            "Given a web search query, retrieve relevant passages that answer the query"
        ),
    ),
    score={"yes": 1, "no": -1},
    activation="sigmoid",
    counted={_JUDGE: 1, _ANSWER: 1},
)
# modeling_zeranker.py beside the weights: a chat of the query as system and the document as user
ZERANK = Template(
    Prompt(
        query=(Piece(SYSTEM + "{query}"), Piece("<|im_end|>\n")),
        document=(Piece("<|im_start|>user\n{document}"), Piece(ASSISTANT)),
        strip=True,
    ),
    score={"Yes": 0.2},
    activation="sigmoid",
    counted={"<|im_end|>\n": 1, ASSISTANT: 1},
)
_PREDICT = (
    "Given a query A and a passage B, determine whether the passage contains an answer to the query"
    " by providing a prediction of either 'Yes' or 'No'."
)
# the PyPI package FlagEmbedding, inference/reranker/decoder_only/base.py
BGE_RERANKER_GEMMA = Template(
    Prompt(
        query=(Piece("<bos>"), Piece("A: {query}")),
        document=(Piece("\n"), Piece("B: {document}"), Piece("\n"), Piece(_PREDICT)),
    ),
    score={"Yes": 1},
    max_length=512,
    query_share=(3, 4),
    counted={"<bos>": 1, _PREDICT: -1},
)


def write_template(template: Template) -> str:
    """Return a template's JSON."""
    return msgspec.json.format(msgspec.json.encode(template), indent=2).decode()


def read_template(path: Path) -> Template:
    """Read a template's JSON.

    :raises InputError: it cannot be read, or is not a template
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Template)
    except OSError as error:
        raise InputError(str(path), error.strerror or str(error)) from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(str(path), f"not a template: {error}") from error
