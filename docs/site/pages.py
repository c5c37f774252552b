"""Pages of the site that are made of the code: settings, commands, the manifest, the Python API."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator

import click
import msgspec
from prometheus_client.metrics import MetricWrapperBase

from edgerank import manifest as manifest_module
from edgerank.cli import cli
from edgerank.manifest import FORMAT_VERSION, MANIFEST_NAME, Manifest
from edgerank.serving.metrics import Metrics
from edgerank.serving.settings import SETTINGS, SettingSpec

API = {  # sections of the page, and what each has
    "Ranking": ("edgerank.reranker.Reranker", "edgerank.ranking.Hit"),
    "Stores": ("edgerank.store.store.DocumentStore", "edgerank.store.store.StoredHit"),
    "Clients": (
        "edgerank.client.Client",
        "edgerank.client.AsyncClient",
        "edgerank.client.TlsFiles",
        "edgerank.client.Ranking",
        "edgerank.client.ScoreArray",
        "edgerank.client.ServedModel",
        "edgerank.client.Usage",
        "edgerank.client.Timings",
    ),
    "Bundles": (
        "edgerank.bundle.Bundle",
        "edgerank.bundle.read_bundle",
        "edgerank.bundle.verify_bundle",
        "edgerank.bundle.sign_bundle",
    ),
    "Quantizing": ("quantize.quantize", "quantize.QuantizeError"),
    "Evaluating": (
        "edgerank.evaluation.evaluate_bundles",
        "edgerank.evaluation.Evaluation",
        "edgerank.evaluation.EvaluatedRun",
        "edgerank.evaluation.read_collection",
        "edgerank.evaluation.bm25",
        "edgerank.evaluation.rescore",
        "edgerank.evaluation.evaluate",
        "edgerank.evaluation.randomisation_test",
    ),
    "Integrations": (
        "edgerank.integrations.langchain.EdgerankCompressor",
        "edgerank.integrations.llama_index.EdgerankPostprocessor",
        "edgerank.integrations.haystack.EdgerankRanker",
        "edgerank.integrations.rerankers.EdgerankRanker",
        "edgerank.integrations.sentence_transformers.CrossEncoder",
    ),
    "Batch jobs": ("edgerank.batch.run_batch", "edgerank.batch.Summary"),
    "Errors": (
        "edgerank.EdgerankError",
        "edgerank.InputError",
        "edgerank.BatchError",
        "edgerank.BundleError",
        "edgerank.StoreError",
        "edgerank.ProviderError",
        "edgerank.ServerError",
        "edgerank.Unavailable",
        "edgerank.Unauthenticated",
        "edgerank.UnknownModel",
        "edgerank.Overloaded",
        "edgerank.DeadlineExceeded",
        "edgerank.RequestTooLarge",
        "edgerank.ServerFailure",
    ),
}


def python() -> str:
    """Name what mkdocstrings shall describe."""
    parts = [
        "# Python API",
        "The names on this page are the public interface. Other names may change in any version.",
    ]
    for title, names in API.items():
        parts.append(f"## {title}")
        parts += [f"::: {name}" for name in names]
    return "\n\n".join(parts) + "\n"


def command_line() -> str:
    """Show the help of every command."""
    parts = ["# Command line", "The help of each command, as `--help` prints it."]
    for name, command in sorted(cli.commands.items()):
        context = click.Context(command, info_name=f"edgerank {name}", terminal_width=80)
        help_text = command.get_help(context)
        parts.append(f"## edgerank {name}\n\n```text\n{help_text}\n```")
    return "\n\n".join(parts) + "\n"


def configuration() -> str:
    """List every setting of the server with its flag, variable, key and default."""
    parts = [
        "# Configuration of the server",
        "Each setting of `edgerank serve` is a flag, an environment variable, or a key of the TOML"
        " file that `--config` names. A flag goes before the environment, and both go before the"
        " file. Where a flag may be given several times, its variable separates the values by"
        " white space, and the file has a list.",
    ]
    parts += [_setting(setting) for setting in SETTINGS]
    return "\n\n".join(parts) + "\n"


def _setting(setting: SettingSpec[object]) -> str:
    flag = f"{setting.flag} {setting.metavar}".rstrip()
    facts = {
        "flag": f"`{flag}`",
        "variable": f"`{setting.variable}`",
        "key": f"`{setting.name}`",
        "default": setting.shown_default or "none",
    }
    if setting.default is True:
        facts["flag"] += f", `{setting.negative_flag}`"
    if setting.least is not None:
        facts["least"] = str(setting.least)
    if setting.choices:
        facts["choices"] = ", ".join(f"`{choice}`" for choice in setting.choices)
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"## {setting.name}\n\n{setting.help}\n\n| | |\n|---|---|\n{rows}"


def metrics() -> str:
    """List every metric of the server."""
    parts = [
        "# Metrics of the server",
        "[Operations](../operations.md#metrics) says what they are good for. Names of counters end"
        " in `_total`; a histogram has `_bucket`, `_sum` and `_count`.",
    ]
    rows = []
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            (described,) = metric.describe()
            labels = ", ".join(f"`{label}`" for label in metric._labelnames)
            name, kind, help_text = described.name, described.type, described.documentation
            rows.append(f"| `{name}` | {kind} | {labels} | {help_text} |")
    table = "\n".join(["| metric | kind | labels | |", "|---|---|---|---|", *rows])
    return "\n\n".join([*parts, table]) + "\n"


def manifest() -> str:
    """Describe the structures of a manifest, field by field."""
    parts = [
        "# Schema of the manifest",
        f"`{MANIFEST_NAME}`, format {FORMAT_VERSION}. [Bundles](../bundle.md) explains it;"
        " [manifest.schema.json](manifest.schema.json) is the same as a JSON schema.",
    ]
    source = inspect.getsource(manifest_module)
    structures = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef)]
    words = {s.name: inspect.cleandoc(ast.get_docstring(s) or "") for s in structures}
    for structure in reversed(structures):
        rows = "\n".join(_fields(structure, source.splitlines(), words))
        table = f"| field | type | default | |\n|---|---|---|---|\n{rows}"
        described = words[structure.name].replace("``", "`")
        parts.append(f"## {structure.name}\n\n{described}\n\n{table}")
    return "\n\n".join(parts) + "\n"


def _fields(structure: ast.ClassDef, lines: list[str], words: dict[str, str]) -> Iterator[str]:
    """Yield a row for each field; one without a comment is described as its type is."""
    for node in structure.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            kind = ast.unparse(node.annotation)
            default = "required" if node.value is None else f"`{ast.unparse(node.value)}`"
            comment = lines[(node.end_lineno or node.lineno) - 1].partition("  # ")[2]
            comment = comment or _comment_above(lines, node.lineno - 1)
            named = [name for name in words if re.search(rf"\b{name}\b", kind)]
            if named and not comment:
                comment = words[named[0]].partition("\n")[0]
            for name in named:
                comment = f"{comment.rstrip('.')}. See [{name}](#{name.lower()})."
            shown = kind.replace("|", "\\|")
            yield f"| `{node.target.id}` | `{shown}` | {default} | {comment} |"


def _comment_above(lines: list[str], place: int) -> str:
    """Return the comment lines that stand over a field."""
    above: list[str] = []
    while lines[place - 1].strip().startswith("# "):
        place -= 1
        above.insert(0, lines[place].strip().removeprefix("# "))
    return " ".join(above)


def manifest_schema() -> str:
    """Return the JSON schema of a manifest."""
    return msgspec.json.format(
        msgspec.json.encode(msgspec.json.schema(Manifest)), indent=2
    ).decode()
