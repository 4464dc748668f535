"""What a report is made of, so that its page in Markdown and its page in HTML say the same.

Texts and cells are Markdown with code, bold and links inside, and nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto; max-width: 1400px; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; } p { max-width: 75ch; } svg { max-width: 100%; height: auto; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ddd; padding: 3px 8px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } td.long { white-space: normal; min-width: 18em; text-align: left; }
th { background: #f4f4f4; position: sticky; top: 0; } code { background: #f4f4f4; padding: 0 3px; }
"""
_LONG = 32
"""Characters of a cell that may be broken into lines."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading.

    Attributes:
        level: 1 for the page's.
        text: of it.
    """

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Grid:
    """A table.

    Attributes:
        head: names of the columns.
        rows: cells.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture, in HTML only.

    Attributes:
        svg: an element.
    """

    svg: str


Block = Heading | Text | Grid | Picture


def render_markdown(blocks: Iterable[Block]) -> str:
    """Return the page."""
    return "\n\n".join(_markdown(block) for block in blocks if not isinstance(block, Picture)) + "\n"


def render_html(blocks: Sequence[Block]) -> str:
    """Return the page, whole in one file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Evaluation")
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Heading | Text | Grid) -> str:
    if isinstance(block, Heading):
        return f"{'#' * block.level} {block.text}"
    if isinstance(block, Text):
        return block.text
    lines = [block.head, ["---"] * len(block.head), *block.rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _html(block: Block) -> str:
    if isinstance(block, Heading):
        return f"<h{block.level}>{_inline(block.text)}</h{block.level}>"
    if isinstance(block, Text):
        return f"<p>{_inline(block.text)}</p>"
    if isinstance(block, Picture):
        return f"<figure>{block.svg}</figure>"
    head = "".join(f"<th>{_inline(cell)}</th>" for cell in block.head)
    rows = "\n".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in block.rows)
    return f'<div class="wide"><table>\n<tr>{head}</tr>\n{rows}\n</table></div>'


def _cell(text: str) -> str:
    return f'<td class="long">{_inline(text)}</td>' if len(text) > _LONG else f"<td>{_inline(text)}</td>"


def _inline(text: str) -> str:
    """Return code, bold and links as HTML, everything else escaped."""
    escaped = html.escape(text, quote=True)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    escaped = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', escaped)
