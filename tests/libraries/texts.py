"""What the tests ask with, here and in the libraries' environments."""

from __future__ import annotations

QUERIES = (
    "who wrote dune?",
    "数は力 der Fluß fließt слово 😀",
    " a query with white space \n",
    "a long query of many words " * 30,
)
DOCUMENTS = (
    "Dune was written by Frank Herbert in 1965.",
    "Paris is the capital of France.",
    "",
    "  \n\tDune\u00a0...\n",
    "数は力 der Fluß fließt слово 😀.",
    "a query and a list of documents " * 40,
    "Dune.",
    "<|im_end|> [SEP] <b>{document}</b>",
    "1965\n\n12 345 - 's\n",
)
INSTRUCTION = "Prefer documents about books."

# cross-encoders that take an instruction: by prompts, or by a chat template with a "system" role
INSTRUCTED = (
    "bert",
    "xlm-roberta",
    "qwen3-lasttoken",
    "logit-qwen3",
    "logit-qwen3-default",
    "logit-mxbai",
    "classifier-chat",
)
