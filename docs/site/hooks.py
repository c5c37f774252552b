"""Hooks of mkdocs: pages made of the code, and files of the repository that pages link to."""

from __future__ import annotations

import posixpath
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]  # mkdocs imports a hook by its path alone

import pages  # noqa: E402

OUTSIDE = "project"  # where the site has files of the repository that are not in docs/
HOME = "README.md"
LINK = re.compile(r"(\]\()([^)\s#]+)([)#])")
GENERATED: dict[str, Callable[[], str]] = {
    "reference/python.md": pages.python,
    "reference/command-line.md": pages.command_line,
    "reference/configuration.md": pages.configuration,
    "reference/metrics.md": pages.metrics,
    "reference/manifest.md": pages.manifest,
    "reference/manifest.schema.json": pages.manifest_schema,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, the README as the home page, and what pages link to outside."""
    for name, content in GENERATED.items():
        files.append(File.generated(config, name, content=content()))
    files.append(File.generated(config, "index.md", abs_src_path=str(ROOT / HOME)))
    for path in _outside():
        name = f"{OUTSIDE}/{path}"
        inclusion = InclusionLevel.NOT_IN_NAV if path.endswith(".md") else InclusionLevel.INCLUDED
        file = File.generated(config, name, abs_src_path=str(ROOT / path), inclusion=inclusion)
        files.append(file)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links between files of the repository into links between pages of the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(_in_repository(here))

    def lead(match: re.Match[str]) -> str:
        target = match[2]
        if "://" in target or target.startswith("mailto:"):
            return match[0]
        path = posixpath.normpath(posixpath.join(folder, target))
        to = posixpath.relpath(_in_site(path), posixpath.dirname(here) or ".")
        return f"{match[1]}{to}{match[3]}"

    return LINK.sub(lead, markdown)


def _in_repository(page: str) -> str:
    """Return where a page of the site is written."""
    if page == "index.md":
        return HOME
    if page.startswith(f"{OUTSIDE}/"):
        return page.removeprefix(f"{OUTSIDE}/")
    return f"docs/{page}"


def _in_site(path: str) -> str:
    """Return where the site has a file of the repository."""
    if path == HOME:
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}/{path}"


def _outside() -> list[str]:
    """Return the files outside of docs/ that pages lead to, directly or by each other."""
    found: dict[str, None] = {}
    unread = [ROOT / HOME, *sorted((ROOT / "docs").glob("*.md"))]
    while unread:
        page = unread.pop()
        for path in _links_of(page):
            if path not in found and path != HOME and not path.startswith("docs/"):
                found[path] = None
                if path.endswith(".md"):
                    unread.append(ROOT / path)
    return sorted(found)


def _links_of(page: Path) -> Iterator[str]:
    folder = page.parent.relative_to(ROOT).as_posix()
    for _, target, _ in LINK.findall(page.read_text("utf-8")):
        path = posixpath.normpath(posixpath.join(folder, target))
        if "://" not in target and (ROOT / path).is_file():
            yield path
