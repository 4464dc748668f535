"""The comparison of policies as a terminal table, a picture and a self-contained HTML page."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich import table as terminal

from orchestrator.demo.open_loop import PolicySummary
from orchestrator.reporting.blocks import Block, Bullets, Heading, Picture, Table, Text, render_html
from orchestrator.reporting.outputs import check_folder, write_report
from orchestrator.reporting.pictures import check_matplotlib, draw_image, hide_frame, tone
from orchestrator.snapshot import ServerName, Width

_COLUMNS = ("policy", "answered", "top-1", "mean", "p99", "missed", "top-1 in time")
_REMEDY = "choose another folder"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Policies on the same requests.

    Attributes:
        setting: What was run, one sentence each; says what is emulated.
        servers: Name and description of each server, in the order of the columns.
        widths: The widths, ascending.
    """

    title: str
    setting: tuple[str, ...]
    servers: tuple[tuple[ServerName, str], ...]
    widths: tuple[Width, ...]
    summaries: tuple[PolicySummary, ...]


def comparison_tables(comparison: Comparison) -> tuple[terminal.Table, terminal.Table]:
    """Return two tables for a terminal of 80 columns: the figures, and who answered at which width."""
    figures = terminal.Table(*_COLUMNS, title=comparison.title)
    servers = [f"{name}\n{width} %" for name, width in _pairs(comparison)]
    shares = terminal.Table("policy", *servers, title="share of the answers by server and width")
    for column in (*figures.columns[1:], *shares.columns[1:]):
        column.justify = "right"
    for summary in comparison.summaries:
        figures.add_row(summary.policy, *_figures(summary))
        shares.add_row(summary.policy, *_shares(comparison, summary))
    return figures, shares


def check_report(folder: Path) -> None:
    """Raise ConfigError, before the long work, when matplotlib is missing or the folder can't be written."""
    check_matplotlib()
    check_folder(folder, _REMEDY)


def write_demo(comparison: Comparison, folder: Path, *, stem: str) -> tuple[Path, Path]:
    """Write ``stem``.png and ``stem``.html, which holds the picture too; return their paths, or raise ConfigError."""
    picture = draw_image(partial(_draw, comparison), (14, 4), dpi=110)
    page = render_html(_make_page(comparison, picture))
    png, html_page = write_report(folder, {f"{stem}.png": picture, f"{stem}.html": page}, _REMEDY)
    return png, html_page


def _pairs(comparison: Comparison) -> list[tuple[ServerName, Width]]:
    return [(name, width) for name, _ in comparison.servers for width in comparison.widths]


def _figures(summary: PolicySummary) -> list[str]:
    return [
        f"{summary.answered:,}",
        "-" if summary.accuracy is None else f"{summary.accuracy:.1%}",
        "-" if summary.mean_latency_s is None else f"{summary.mean_latency_s * 1e3:.1f} ms",
        "-" if summary.p99_latency_s is None else f"{summary.p99_latency_s * 1e3:.1f} ms",
        f"{summary.miss_ratio:.1%}",
        f"{summary.accuracy_in_time:.1%}",
    ]


def _shares(comparison: Comparison, summary: PolicySummary) -> list[str]:
    return [f"{part:.0%}" if (part := summary.share.get(pair, 0.0)) else "·" for pair in _pairs(comparison)]


def _draw(comparison: Comparison, figure: Any) -> None:
    names = [s.policy for s in comparison.summaries]
    latency, misses, shares = figure.subplots(1, 3)
    rows = range(len(names))

    mean_ms = [(s.mean_latency_s or 0) * 1e3 for s in comparison.summaries]
    p99_ms = [(s.p99_latency_s or 0) * 1e3 for s in comparison.summaries]
    latency.barh(rows, p99_ms, color="#c9d7e8", label="p99")
    latency.barh(rows, mean_ms, height=0.5, color="#2f6db3", label="mean")
    latency.set(title="latency (ms)", yticks=rows, yticklabels=names)

    right = [s.accuracy_in_time * 100 for s in comparison.summaries]
    missed = [s.miss_ratio * 100 for s in comparison.summaries]
    wrong = [100 - r - m for r, m in zip(right, missed, strict=True)]
    misses.barh(rows, right, color="#4a9d6f", label="right, in time")
    misses.barh(rows, wrong, left=right, color="#d8d8d8", label="wrong, in time")
    misses.barh(
        rows, missed, left=[r + w for r, w in zip(right, wrong, strict=True)], color="#d9825b", label="late or lost"
    )
    misses.set(title="requests (%)", yticks=rows, yticklabels=[], xlim=(0, 100))

    left = [0.0] * len(names)
    for index, width in enumerate(comparison.widths):
        part = [s.width_share.get(width, 0.0) * 100 for s in comparison.summaries]
        shares.barh(rows, part, left=left, color=tone(index / max(1, len(comparison.widths) - 1)), label=f"{width} %")
        left = [a + b for a, b in zip(left, part, strict=True)]
    shares.set(title="answers by width (%)", yticks=rows, yticklabels=[], xlim=(0, 100))

    for axes in (latency, misses, shares):
        axes.invert_yaxis()
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=4, frameon=False)
    hide_frame(latency, misses, shares)
    figure.suptitle(comparison.title)


def _make_page(comparison: Comparison, picture: bytes) -> list[Block]:
    shares = [f"{name} {width} %" for name, width in _pairs(comparison)]
    rows = [(s.policy, *_figures(s), *_shares(comparison, s)) for s in comparison.summaries]
    image = base64.b64encode(picture).decode()
    return [
        Heading(1, comparison.title),
        Bullets("", comparison.setting),
        Bullets("Servers", [f"{name}: {text}" for name, text in comparison.servers]),
        Table((*_COLUMNS, *shares), rows),
        Text(
            "top-1 is over answers; “top-1 in time” counts a late or missing answer as wrong. The columns to the right "
            "tell which part of the answers each server gave at each width."
        ),
        Picture(f'<img alt="latency, deadlines and widths of each policy" src="data:image/png;base64,{image}">'),
    ]
