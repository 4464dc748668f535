"""What mkdocs asks while it makes the site of the documentation: pages that are not in docs/, and links out of it.

Pages in docs/ link to files of the repository as they lie, so that they can be read there too. Of those files some are
pages of the site as well (``PAGES``, with the pictures beside them); links to the others become the path, because the
site is read where there is no repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PAGES: Final = (
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "examples/fashion-mnist/README.md",
    "scenarios/README.md",
    "scenarios/traces/README.md",
)
"""Paths in the repository of pages that are in the site under ``project/``."""
_BESIDE: Final = ("LICENSE", "examples/fashion-mnist/accuracy_flops.png")
_LINK: Final = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s:]+)(#[^)\s]*)?\)|(!\[[^\]]*\])\(([^)\s:]+)\)")


def place_of(path: str) -> str | None:
    """Return where a file of the repository is in the site; None: nowhere."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return f"project/{path}" if path in (*PAGES, *_BESIDE) else None


def relink(text: str, path: str) -> str:
    """Return a page of the repository with its links as they are in the site.

    What is linked to and does not exist stays as it is, for mkdocs to complain of.
    """
    here = place_of(path)
    assert here is not None

    def replaced(found: re.Match[str]) -> str:
        words, target, anchor, picture, source = found.groups()
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), target or source))
        place = place_of(there)
        if place is None:
            return f"{words} (`{there}`)" if (ROOT / there).exists() and words else found[0]
        relative = posixpath.relpath(place, posixpath.dirname(here) or ".")
        return f"{picture}({relative})" if picture else f"[{words}]({relative}{anchor or ''})"

    return _LINK.sub(replaced, text)


def on_files(files: Any, *, config: Any) -> Any:
    """Add the pages that are not in docs/, and what they show."""
    from mkdocs.structure.files import File

    for path in (*PAGES, *_BESIDE):
        files.append(File.generated(config, f"project/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page's text with its links as they are in the site."""
    place = page.file.src_uri
    path = place.removeprefix("project/") if place.startswith("project/") else f"docs/{place}"
    return relink(markdown, path)
