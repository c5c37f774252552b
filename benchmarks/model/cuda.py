"""How fast and how exact is a variant for CUDA, beside torch on the same GPU?

The geometry of mxbai-rerank-large-v2, whole, with random weights: 32 documents of 250 tokens, from
texts to scores. In turns: edgerank, mxbai-rerank (the model's own package, on torch) in float16 and
bfloat16, and one large matrix product of torch in float16, whose best rate is the card's. The share
of that rate counts the operations of the linear layers alone. Memory is what opening and a first
run took of the card's. Errors are of scores against mxbai-rerank in float32 on the card.

Needs an NVIDIA GPU, torch for it, mxbai-rerank and onnxruntime-gpu (docs/gpu.md). The goal is 1.5
times mxbai-rerank's float16, and half of the card's dense rate.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from benchmarks.common import options
from benchmarks.common.bundles import quantized
from benchmarks.common.checkpoints import MXBAI_LARGE_V2, write_mxbai_v2
from benchmarks.common.layers import decoder_layer
from benchmarks.common.record import Figure, Row, median
from benchmarks.common.turns import ratio, take_turns
from edgerank import ProviderError, Reranker
from edgerank.cuda import cuda_version
from edgerank.documents import make_pairs
from edgerank.gpu import gpu_number, read_driver, visible_gpus
from quantize.measure.calibration import read_calibration

CONFIG = MXBAI_LARGE_V2
QUERY = "how do wells work in dry regions?"
DENSE = "torch matmul, float16"
DENSE_SIZE = 8192  # rows, depth and columns
DENSE_CALLS = 8  # of a run
BASELINE = "mxbai-rerank, fp16"
GIB = 1 << 30
# measuring a bundle's fidelity on more text would take long, and random weights say nothing of it
TEXT = [
    {"query": query, "document": document, "id": document}
    for query in ("bread", "rain")
    for document in ("flour and water", "clouds and wind")
]

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class Card:
    """The GPU that everything runs on, by its names in torch and in edgerank."""

    name: str
    number: int
    torch_device: str
    provider: str

    @property
    def free_memory(self) -> int:
        """Bytes; 0 where the card stands for a CPU."""
        return visible_gpus()[self.number].free_memory if self.provider == "cuda" else 0


@dataclass(frozen=True)
class Candidate:
    """Something that scores documents."""

    score: Callable[[], Scores]
    memory: int  # bytes


@options.layers(28)
@options.rounds(7)
@click.option(
    "--precision",
    "precisions",
    type=click.Choice(["fp16", "bf16"]),
    multiple=True,
    default=("fp16",),
    show_default=True,
    help="Of edgerank's variants; may be given several times.",
)
@click.option("--documents", "num_documents", type=click.IntRange(1), default=32, show_default=True)
@click.option("--tokens", type=click.IntRange(1), default=250, show_default=True)
@click.option("--device", type=click.IntRange(0), default=0, help="Number of the GPU.")
@options.work
def measure(
    layers: int,
    rounds: int,
    precisions: tuple[str, ...],
    num_documents: int,
    tokens: int,
    device: int,
    work: Path | None,
) -> Iterator[Row]:
    card = find_card(device)
    with options.directory(work) as directory:
        checkpoint = mxbai_checkpoint(Path(directory), layers)
        documents = draw_documents(checkpoint, num_documents, tokens)
        yield from compare(card, checkpoint, documents, precisions, ("fp16", "bf16"), rounds)


def find_card(device: int) -> Card:
    """Return a GPU that torch and ONNX Runtime can use.

    :raises ProviderError: there is none
    """
    driver = read_driver()
    if driver is None or not driver.gpus:
        raise ProviderError("this benchmark needs an NVIDIA GPU, and no driver shows one")
    if cuda_version() is None:
        raise ProviderError("this benchmark needs onnxruntime-gpu: see docs/gpu.md")
    import torch

    if not torch.cuda.is_available():
        raise ProviderError("this benchmark needs a torch for CUDA: see docs/gpu.md")
    name = gpu_number(driver.gpus, device).name
    setup = f"{name}, driver {driver.version}, torch {torch.__version__}"
    return Card(setup, device, f"cuda:{device}", "cuda")


def mxbai_checkpoint(work: Path, layers: int) -> Path:
    """Write the checkpoint with random weights, unless it is there."""
    checkpoint = work / f"mxbai-{layers}"
    if not checkpoint.exists():
        write_mxbai_v2(checkpoint, {**CONFIG, "num_hidden_layers": layers})
    return checkpoint


def draw_documents(checkpoint: Path, count: int, tokens: int) -> list[str]:
    """Draw documents of so many tokens, or a few more, from the words of the built-in text."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(checkpoint / "tokenizer.json"))
    texts = [pair.document for pair in read_calibration(None).pairs]
    words = sorted({word for text in texts for word in text.split() if word.isascii()})
    lengths = [len(tokenizer.encode(f" {word}").ids) for word in words]
    rng = np.random.default_rng(0)
    documents = []
    for _ in range(count):
        drawn: list[int] = []
        while sum(lengths[place] for place in drawn) < tokens:
            drawn.append(int(rng.integers(len(words))))
        documents.append(" ".join(words[place] for place in drawn))
    return documents


def compare(
    card: Card,
    checkpoint: Path,
    documents: Sequence[str],
    precisions: Sequence[str],
    peers: Sequence[str],
    rounds: int,
) -> Iterator[Row]:
    """Score the same documents by all candidates in turns."""
    reference = torch_scores(card, checkpoint, "fp32", documents)()
    free_memory()
    with ExitStack() as opened:
        rerankers: dict[str, Reranker] = {}
        candidates: dict[str, Candidate] = {}
        for name in precisions:
            before = card.free_memory
            rerankers[name] = opened.enter_context(open_reranker(card, checkpoint, name))
            score = partial(rerankers[name].score, QUERY, documents)
            candidates[f"edgerank, {name}"] = used(card, score, before)
        for name in peers:
            before = card.free_memory
            score = torch_scores(card, checkpoint, name, documents)
            candidates[f"mxbai-rerank, {name}"] = used(card, score, before)
        dense, operations = dense_product(card)
        times = take_turns(
            {**{name: one.score for name, one in candidates.items()}, DENSE: dense}, rounds
        )
        rate = operations / min(times[DENSE])
        yield Row({"card": card.name, "candidate": DENSE}, {"rate": Figure(rate / 1e12, "TOP/s")})
        needed = linear_operations(next(iter(rerankers.values())), checkpoint, documents)
        for name, candidate in candidates.items():
            seconds = times[name]
            figures = {
                "documents/s": median(len(documents) / seconds, "documents/s"),
                "memory": Figure(candidate.memory / GIB, "GiB"),
                **errors(candidate.score(), reference),
            }
            if name.startswith("edgerank"):
                figures["of the dense rate"] = median(needed / seconds / rate * 100, "%")
            if BASELINE in times:
                figures["times mxbai-rerank fp16"] = median(
                    1 / ratio(seconds, times[BASELINE]), "×"
                )
            yield Row({"card": card.name, "candidate": name}, figures)


def open_reranker(card: Card, checkpoint: Path, precision: str) -> Reranker:
    """Quantize the checkpoint, unless that is done, and open the variant on the card."""
    text = checkpoint.parent / "text.jsonl"
    text.write_text("\n".join(map(json.dumps, TEXT)))
    target = checkpoint.parent / f"{checkpoint.name}.{precision}"
    options = {} if precision == "fp32" else {"calibrate": text}
    bundle = quantized(checkpoint, target, precision=precision, **options)
    return Reranker(bundle, providers=[card.provider], device=card.number)


def torch_scores(
    card: Card, checkpoint: Path, precision: str, documents: Sequence[str]
) -> Callable[[], Scores]:
    """Open mxbai-rerank, the model's own package, on the card."""
    import torch
    from mxbai_rerank import MxbaiRerankV2

    dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
    reranker = MxbaiRerankV2(str(checkpoint), device=card.torch_device, torch_dtype=dtype)

    def score() -> Scores:
        hits = reranker.rank(QUERY, list(documents), top_k=len(documents), sort=False)
        return np.array([hit.score for hit in hits])

    return score


def used(card: Card, score: Callable[[], Any], before: int) -> Candidate:
    """Run a candidate once, and tell what of the card's memory is gone since it was opened."""
    score()
    return Candidate(score, max(0, before - card.free_memory))


def free_memory() -> None:
    """Give the memory of what was dropped back to the card."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def dense_product(card: Card) -> tuple[Callable[[], object], float]:
    """Return a large matrix product on the card, and its multiplications and additions."""
    import torch

    shape = DENSE_SIZE, DENSE_SIZE
    one, other = (torch.randn(shape, dtype=torch.float16, device=card.torch_device) for _ in "ab")

    def run() -> object:
        for _ in range(DENSE_CALLS):
            product = one @ other
        return product[0, 0].item()  # waits for them

    return run, 2.0 * DENSE_CALLS * DENSE_SIZE**3


def linear_operations(reranker: Reranker, checkpoint: Path, documents: Sequence[str]) -> float:
    """Count the multiplications and additions of all linear layers, the last one pruned."""
    config = json.loads((checkpoint / "config.json").read_text())
    groups = reranker.prepare(make_pairs(QUERY, list(documents))).groups
    tokens = sum(map(len, groups))
    return decoder_layer(config).operations(config["num_hidden_layers"], tokens, len(documents))


def errors(scores: Scores, reference: Scores) -> dict[str, Figure]:
    """Compare scores with those of float32."""
    differences = np.abs(scores - reference)
    return {
        "mean error": Figure(float(differences.mean())),
        "largest error": Figure(float(differences.max())),
        "spread": Figure(float(reference.std())),
        "Kendall tau": Figure(float(kendalltau(scores, reference).statistic)),
    }
