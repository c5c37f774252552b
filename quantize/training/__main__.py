"""The commands of ``python -m quantize.training``."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from random import Random

import click
import msgspec
from tqdm import tqdm

from edgerank.cpu import default_threads
from edgerank.errors import EdgerankError
from edgerank.files import read_jsonl

SOURCES = Path(__file__).with_name("sources.jsonl")
DIMENSION = 128  # of a token's vector
PATH = click.Path(path_type=Path)
THREADS = click.option(
    "--threads",
    type=click.IntRange(1),
    help="Compute with this many threads. The default is the number of physical cores that this"
    " process may use, or OMP_NUM_THREADS if that is fewer.",
)


class TextSource(msgspec.Struct, frozen=True):
    """A line of sources.jsonl."""

    name: str
    kind: str
    path: str  # relative to ROOT
    limit: int  # of records
    license: str


@click.group()
def cli() -> None:
    """Make the default model.

    Run extract, mine, initialize, embed and train (both optional) and calibrate, in this order, and
    then edgerank quantize.
    """


@cli.command()
@click.argument("root", type=PATH)
@click.argument("records", type=PATH)
@click.option(
    "--sources",
    type=PATH,
    default=SOURCES,
    show_default=f"{SOURCES.name} of this package",
    help="Read the list of sources from this JSON Lines file.",
)
def extract(root: Path, records: Path, sources: Path) -> None:
    """Make pairs of a query and a passage from documentation, and write them to RECORDS.

    The paths of the sources are relative to ROOT. RECORDS is a JSON Lines file.
    """
    from quantize.training import corpus, mining

    found: list[corpus.CorpusRecord] = []
    for _, source in read_jsonl(sources, TextSource):
        before = len(found)
        found += corpus.extract(source.kind, source.name, root / source.path, source.limit)
        click.echo(f"{len(found) - before:6} {source.name}")
    mining.write_lines(records, found)


@cli.command()
@click.argument("records", type=PATH)
@click.argument("embedder", type=PATH)
@click.argument("training", type=PATH)
@click.argument("held_out", type=PATH)
@click.option(
    "--lists",
    default=20000,
    show_default=True,
    help="Write at most this many lists to TRAINING.",
)
@click.option(
    "--size", default=16, show_default=True, help="Put this many passages into each list."
)
@click.option(
    "--pool",
    type=click.IntRange(1),
    help="Use this many records, chosen at random. The default is all.",
)
@THREADS
def mine(
    records: Path,
    embedder: Path,
    training: Path,
    held_out: Path,
    lists: int,
    size: int,
    pool: int | None,
    threads: int | None,
) -> None:
    """Find hard negatives for RECORDS, and write lists of passages to TRAINING and HELD_OUT.

    A list has a query, the passage that answers it, and other passages that BM25 or an embedding
    model ranks high. EMBEDDER is the bundle of that model. About 5% of the pages are held out, and
    lists for their queries go to HELD_OUT.
    """
    from edgerank.reranker import Reranker
    from quantize.training import corpus, mining

    known = mining.read_records(records)
    chosen = list(range(len(known)))
    Random(0).shuffle(chosen)
    places: tuple[list[int], list[int]] = ([], [])
    for place in chosen[:pool]:
        places[corpus.is_held_out(known[place])].append(place)
    wanted = places[0][:lists] + places[1]
    held = set(places[1])
    opened = Reranker(embedder, threads=threads)
    made = list(mining.mine(known, chosen[:pool], wanted, opened, size))
    mining.write_lines(training, [item for item in made if item.passages[0] not in held])
    mining.write_lines(held_out, [item for item in made if item.passages[0] in held])
    click.echo(f"{len(made)} lists over {len(chosen[:pool])} passages")


@cli.command()
@click.argument("checkpoint", type=PATH)
@click.argument("records", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--kind",
    type=click.Choice(["late-interaction", "cross-encoder"]),
    default="late-interaction",
    show_default=True,
    help="Make a model of this kind.",
)
@click.option(
    "--words",
    type=click.IntRange(1),
    help="Keep this many tokens of the vocabulary. The default is all.",
)
@click.option(
    "--layers",
    type=click.IntRange(2),
    help="Keep this many layers, evenly spaced. The default is all.",
)
@click.option(
    "--dimension",
    type=click.IntRange(1),
    help="Project the token vectors of a late-interaction model to this many dimensions, by their"
    f" principal components. The default is {DIMENSION}.",
)
def initialize(
    checkpoint: Path,
    records: Path,
    target: Path,
    kind: str,
    words: int | None,
    layers: int | None,
    dimension: int | None,
) -> None:
    """Make TARGET, a checkpoint to train, from CHECKPOINT, an embedding model.

    The passages of RECORDS decide which tokens of the vocabulary are kept.
    """
    from quantize.training import mining
    from quantize.training.initialize import initialize_cross_encoder, initialize_late_interaction
    from quantize.training.model import save_model

    if kind == "cross-encoder" and dimension is not None:
        raise click.UsageError("--dimension is for --kind late-interaction: leave it out")
    texts = [record.passage for record in mining.read_records(records)]
    if kind == "cross-encoder":
        save_model(*initialize_cross_encoder(checkpoint, texts, words, layers), target)
    else:
        made = initialize_late_interaction(checkpoint, texts, words, layers, dimension or DIMENSION)
        save_model(*made, target)
    _carry_card(checkpoint, target)


@cli.command()
@click.argument("records", type=PATH)
@click.argument("embedder", type=PATH)
@click.argument("vectors", type=PATH)
@THREADS
def embed(records: Path, embedder: Path, vectors: Path, threads: int | None) -> None:
    """Embed the queries and passages of RECORDS for `train --cosine`, and write them to VECTORS.

    EMBEDDER is the bundle of an embedding model.
    """
    from edgerank.reranker import Reranker
    from quantize.training import mining
    from quantize.training.teacher_vectors import embed_records, write_vectors

    opened = Reranker(embedder, threads=threads)
    write_vectors(vectors, embed_records(mining.read_records(records), opened))


@cli.command()
@click.argument("checkpoint", type=PATH)
@click.argument("records", type=PATH)
@click.argument("lists", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--teacher",
    type=PATH,
    help="Learn the scores of this checkpoint. The default is CHECKPOINT itself.",
)
@click.option(
    "--cosine",
    type=PATH,
    help="In the teacher's scores, replace the cosine by that of the vectors in this file, which"
    " the command embed wrote.",
)
@click.option(
    "--known",
    type=click.FloatRange(0, 1),
    default=0.5,
    show_default=True,
    help="Set the share of the target that is the right passage; the rest is the teacher's.",
)
@click.option(
    "--bfloat16",
    is_flag=True,
    help="Encode texts in bfloat16, which is several times as fast on a CPU with AMX.",
)
@click.option("--steps", default=280, show_default=True, help="Train for this many steps.")
@click.option("--size", default=2, show_default=True, help="Use this many passages of each list.")
@click.option(
    "--lists-a-step", default=32, show_default=True, help="Use this many lists in each step."
)
@click.option("--rate", default=2e-5, show_default=True, help="Set the peak learning rate.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    help="Draw the lists of each step by this number: give another to train a trained model on.",
)
@click.option(
    "--passages-as-queries",
    type=click.FloatRange(0, 1),
    default=0.0,
    show_default=True,
    help="In this share of the lists, replace the query by a passage of the list, so that the model"
    " learns long queries. It needs --known 0, because no passage is known to be the right one.",
)
@click.option("--held-out", type=PATH, help="Measure the model on these lists during training.")
@THREADS
def train(
    checkpoint: Path,
    records: Path,
    lists: Path,
    target: Path,
    teacher: Path | None,
    cosine: Path | None,
    known: float,
    bfloat16: bool,
    steps: int,
    size: int,
    lists_a_step: int,
    rate: float,
    seed: int,
    passages_as_queries: float,
    held_out: Path | None,
    threads: int | None,
) -> None:
    """Train CHECKPOINT on LISTS, and write the result to TARGET.

    If the command is interrupted, give it again to continue.
    """
    import torch

    from quantize.training import mining
    from quantize.training.batches import TrainingSettings
    from quantize.training.teacher_vectors import read_vectors
    from quantize.training.training import train as train_model

    if passages_as_queries and known:
        raise click.UsageError("--passages-as-queries needs --known 0")
    torch.set_num_threads(threads or default_threads())
    settings = TrainingSettings(
        steps=steps,
        size=size,
        lists_a_step=lists_a_step,
        rate=rate,
        known=known,
        other_cosine=cosine is not None,
        bfloat16=bfloat16,
        seed=seed,
        passages_as_queries=passages_as_queries,
    )
    texts = mining.read_records(records)
    train_model(
        checkpoint,
        teacher or checkpoint,
        texts,
        mining.read_candidates(lists),
        mining.read_candidates(held_out) if held_out else [],
        target,
        settings,
        read_vectors(cosine, len(texts)) if cosine else None,
        show_progress=sys.stderr.isatty(),
    )
    _carry_card(checkpoint, target)


@cli.command()
@click.argument("logs", nargs=-1, required=True, type=PATH)
@click.argument("plot", type=PATH)
def curve(logs: tuple[Path, ...], plot: Path) -> None:
    """Draw the training curve of LOGS, of runs that went on from each other, to PLOT.

    The command train writes its log to training.jsonl in TARGET.
    """
    from quantize.training.curve import draw_curve, read_logs

    draw_curve(read_logs(logs), plot)


@cli.command()
@click.argument("checkpoint", type=PATH)
@click.argument("records", type=PATH)
@click.argument("lists", type=PATH)
@click.argument("target", type=PATH)
@click.option("--report", type=PATH, help="Write the figures and a plot to this directory.")
@THREADS
def calibrate(
    checkpoint: Path,
    records: Path,
    lists: Path,
    target: Path,
    report: Path | None,
    threads: int | None,
) -> None:
    """Fit the last layer of CHECKPOINT on LISTS, and write the result to TARGET.

    CHECKPOINT must not have been trained on LISTS. The features are those of its int8 bundle.
    """
    from quantize.checkpoint.tokenization import load_tokenizer
    from quantize.pipeline import quantize
    from quantize.training import mining, score_calibration
    from quantize.training.model import load_late_interaction, save_model

    texts, chosen = mining.read_records(records), mining.read_candidates(lists)
    model, tokenizer = load_late_interaction(checkpoint), load_tokenizer(checkpoint)
    with tempfile.TemporaryDirectory() as scratch:
        bundle = quantize(checkpoint, Path(scratch) / "bundle").directory
        features = score_calibration.features_of(bundle, texts, tqdm(chosen, disable=None), threads)
    found = score_calibration.fit(model, features)
    save_model(model, tokenizer, target)
    _carry_card(checkpoint, target)
    click.echo(json.dumps(found, indent=1))
    if report is not None:
        score_calibration.write_report(report, found)


def _carry_card(checkpoint: Path, target: Path) -> None:
    """Copy the model card of a checkpoint, which names its licence."""
    card = checkpoint / "README.md"
    if card.exists():
        shutil.copyfile(card, target / card.name)


def main() -> None:
    """Run a command. On bad input, write one line to stderr and exit with status 2."""
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (EdgerankError, OSError) as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
