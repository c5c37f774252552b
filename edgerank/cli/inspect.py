"""``edgerank inspect``"""

from __future__ import annotations

from pathlib import Path

import click

from edgerank.bundle import DEFAULT_BUNDLE, read_bundle
from edgerank.manifest import MANIFEST_NAME, Variant


@click.command()
@click.argument(
    "directory", metavar="[BUNDLE]", default=DEFAULT_BUNDLE, type=click.Path(path_type=Path)
)
@click.option("--json", "as_json", is_flag=True, help="Print the manifest of the bundle as JSON.")
def inspect(directory: Path, as_json: bool) -> None:
    """Describe a bundle.

    The output has the model, its limits, its variants with their fidelity, and the files. The
    default BUNDLE is the model in the package.
    """
    bundle = read_bundle(directory)
    manifest = bundle.manifest
    if as_json:
        click.echo((directory / MANIFEST_NAME).read_text("utf-8"), nl=False)
        return
    facts = {
        "model": manifest.source.model,
        "revision": manifest.source.revision or "unknown",
        "licence": manifest.source.license or "unknown",
        "family": f"{manifest.family} ({manifest.architecture})",
        "score": f"{manifest.scoring.rule}, {manifest.scoring.activation}",
        "scripts": ", ".join(manifest.scripts) or "any",
        "length": f"{manifest.max_length} tokens by default, at most {manifest.max_length_limit}",
        "digest": bundle.digest,
        "size": f"{bundle.size / 1e6:,.1f} MB",
    }
    for name, value in facts.items():
        click.echo(f"{name:<10} {value}")
    for variant in manifest.variants:
        for line in variant_lines(variant):
            click.echo(line)
    for name, file in manifest.files.items():
        click.echo(f"{'file':<10} {name}, {file.size:,} bytes, sha256 {file.sha256}")


def variant_lines(variant: Variant) -> list[str]:
    """Describe a variant: its recipe, its requirements and its fidelity."""
    needs = [*variant.needs.instruction_sets, *variant.needs.libraries]
    needs += ["a GPU"] if variant.needs.gpu else []
    facts = {
        "variant": f"{variant.name} for {variant.provider}: {variant.recipe}",
        "needs": ", ".join(needs),
    }
    lines = [f"{name:<10} {value}" for name, value in facts.items() if value]
    return lines + fidelity_lines(variant)


def fidelity_lines(variant: Variant) -> list[str]:
    """Say how a variant's scores compare with the original's; nothing for float32."""
    fidelity, kept = variant.fidelity, variant.kept
    if fidelity is None:
        return []
    where = f"measured on {fidelity.provider}" + (
        f", {variant.precision} emulated" if fidelity.is_emulated else ""
    )
    facts = [
        (
            "fidelity",
            f"against float32, {fidelity.pairs} pairs of {fidelity.queries} queries of"
            f" {fidelity.text}; {where}",
        ),
        (
            "error",
            f"mean {fidelity.mean_error:.3g}, 99 % {fidelity.p99_error:.3g}, max"
            f" {fidelity.max_error:.3g} at a spread of {fidelity.spread:.3g}",
        ),
        ("tau", f"mean {fidelity.kendall_tau:.4f}, least {fidelity.min_kendall_tau:.4f}"),
        (
            "top 10",
            f"{fidelity.top10_overlap:.1%} the same, least {fidelity.min_top10_overlap:.0%}",
        ),
    ]
    if fidelity.layers:
        facts.append(("layers", " ".join(f"{error:.2%}" for error in fidelity.layers)))
    facts += [
        (
            "worst",
            f"{found.document}, query {found.query}: {found.score:.4g} instead of"
            f" {found.reference:.4g}",
        )
        for found in fidelity.worst
    ]
    if kept is not None:
        facts.append(
            (
                "kept",
                f"{', '.join(kept.matrices) or 'none stood out'}:"
                f" {kept.added_bytes / 1e6:+.1f} MB; without, mean error"
                f" {kept.mean_error_without:.3g} and tau {kept.kendall_tau_without:.4f}",
            )
        )
    return [f"{name:<10} {value}" for name, value in facts]
