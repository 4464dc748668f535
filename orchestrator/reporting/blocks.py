"""What a page is made of, so that its form in Markdown and its form in HTML say the same.

Texts and cells are Markdown with code, bold and links inside, and nothing else.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

_STYLE = (Path(__file__).parent / "page.css").read_text()
_LONG = 32
"""Characters of a cell from which on it may be broken into lines."""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading; level 1 is the page's own."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True, slots=True)
class Bullets:
    """A list; its title may be empty."""

    title: str
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that are shown as they are."""

    lines: Sequence[str]


@dataclass(frozen=True, slots=True)
class Table:
    """A table, whose first column names what its rows are about; the caption may be empty."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture: drawn into a page of HTML, or beside a page of Markdown.

    Attributes:
        svg: The picture as an element of HTML; empty where there is none.
        file: The name of a file beside the page; empty where there is none, and then Markdown has no picture.
        text: What it shows, for those who can't see it.
    """

    svg: str = ""
    file: str = ""
    text: str = ""


@dataclass(frozen=True, slots=True)
class Pictures:
    """Small pictures that are read together: in a page of HTML beside each other as far as there is room."""

    pictures: Sequence[Picture]


Block = Heading | Text | Bullets | Code | Table | Picture | Pictures


def say_figure(value: float | None, form: str, scale: float = 1.0) -> str:
    """Return a figure in another unit and a format, a dash where there is none."""
    return "-" if value is None else format(scale * value, form)


def render_markdown(blocks: Iterable[Block]) -> str:
    """Return the page as Markdown."""
    return "\n\n".join(filter(None, map(_markdown, blocks))) + "\n"


def render_html(blocks: Sequence[Block]) -> str:
    """Return the page as HTML, whole in one file."""
    title = next((block.text for block in blocks if isinstance(block, Heading)), "Report")
    body = "\n".join(map(_html, blocks))
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Text(text):
            return text
        case Bullets(title, items):
            return "\n".join([*((f"{title}:", "") if title else ()), *(f"- {item}" for item in items)])
        case Code(lines):
            return "\n".join(("```", *lines, "```"))
        case Picture(_, file, text):
            return f"![{text}]({file})" if file else ""
        case Pictures(pictures):
            return "\n\n".join(filter(None, map(_markdown, pictures)))
        case Table(head, rows, caption):
            table = map(_row, [head, ["---"] * len(head), *rows])
            return "\n".join([*((f"{caption}:", "") if caption else ()), *table])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _html(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{_inline(text)}</h{level}>"
        case Text(text):
            return f"<p>{_inline(text)}</p>"
        case Bullets(title, items):
            listed = "".join(f"<li>{_inline(item)}</li>" for item in items)
            return (f"<p>{_inline(title)}:</p>" if title else "") + f"<ul>{listed}</ul>"
        case Code(lines):
            return f"<pre>{html.escape(chr(10).join(lines))}</pre>"
        case Picture(svg, file, text):
            told = f'<svg role="img" aria-label="{html.escape(text)}"' if text else "<svg"
            image = f'<img src="{html.escape(file)}" alt="{html.escape(text)}">'
            return f"<figure>{svg.replace('<svg', told, 1) or image}</figure>"
        case Pictures(pictures):
            return f'<div class="pictures">\n{chr(10).join(map(_html, pictures))}\n</div>'
        case Table(head, rows, caption):
            named = f"<caption>{_inline(caption)}</caption>\n" if caption else ""
            top = "".join(f'<th scope="col">{_inline(cell)}</th>' for cell in head)
            body = "\n".join(f"<tr>{''.join(map(_cell, row, range(len(row))))}</tr>" for row in rows)
            return (
                f'<div class="wide"><table>\n{named}<thead>\n<tr>{top}</tr>\n</thead>\n'
                f"<tbody>\n{body}\n</tbody>\n</table></div>"
            )


def _cell(text: str, column: int) -> str:
    tag, scope = ("td", "") if column else ("th", ' scope="row"')
    long = ' class="long"' if len(text) > _LONG else ""
    return f"<{tag}{scope}{long}>{_inline(text)}</{tag}>"


def _inline(text: str) -> str:
    """Return code, bold and links as HTML, everything else escaped; a number and its % are not torn apart."""
    escaped = html.escape(text, quote=True)
    escaped = re.sub(r"(\d) %", "\\1\N{NO-BREAK SPACE}%", escaped)
    escaped = re.sub(r"`([^`]+)`", r"<code>\1</code>", escaped)
    escaped = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", escaped)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', escaped)
