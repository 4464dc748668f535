"""The comparison as tables for a terminal, a picture, and a page that holds all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from rich import table as terminal

from orchestrator.demo.baselines import DEFAULT
from orchestrator.demo.picture import draw_panels, draw_picture
from orchestrator.demo.results import LEVEL_POINTS, Comparison, Score, scores, tell_outcome
from orchestrator.reporting.blocks import Block, Bullets, Heading, Pictures, Table, Text, render_html, say_figure
from orchestrator.reporting.outputs import check_folder, write_report
from orchestrator.reporting.pictures import check_matplotlib

_REMEDY = "choose another folder"


def _milliseconds(value_s: float | None) -> str:
    return "-" if value_s is None else f"{value_s * 1e3:.0f} ms"


_FIGURES: tuple[tuple[str, Callable[[Score], str]], ...] = (
    ("right\nin time", lambda score: say_figure(score.right_in_time, ".1%")),
    ("late", lambda score: say_figure(score.summary.late, ".1%")),
    ("refused", lambda score: say_figure(score.summary.refused, ".1%")),
    ("accuracy", lambda score: say_figure(score.summary.accuracy, ".1%")),
    ("p50", lambda score: _milliseconds(score.summary.p50_s)),
    ("p99", lambda score: _milliseconds(score.summary.p99_s)),
)


def comparison_tables(comparison: Comparison) -> tuple[terminal.Table, terminal.Table]:
    """Return two tables for a terminal of 80 columns: the figures, and who answered at which width."""
    figures = terminal.Table("", *(heading for heading, _ in _FIGURES))
    shares = terminal.Table("", *_share_headings(comparison), title="share of the answers")
    for column in (*figures.columns[1:], *shares.columns[1:]):
        column.justify = "right"
    for score in scores(comparison):
        figures.add_row(score.baseline.name, *(figure(score) for _, figure in _FIGURES))
        shares.add_row(score.baseline.name, *_shares(comparison, score))
    return figures, shares


def check_report(folder: Path) -> None:
    """Raise ConfigError, before the long work, when matplotlib is missing or the folder can't be written."""
    check_matplotlib()
    check_folder(folder, _REMEDY)


def write_demo(comparison: Comparison, folder: Path, *, stem: str) -> tuple[Path, Path]:
    """Write ``stem``.png and ``stem``.html, which needs no other file; return their paths, or raise ConfigError."""
    contents: dict[str, str | bytes] = {
        f"{stem}.png": draw_picture(comparison),
        f"{stem}.html": render_html(list(_make_page(comparison))),
    }
    png, page = write_report(folder, contents, _REMEDY)
    return png, page


def describe_run(comparison: Comparison) -> list[str]:
    """Return what was run, one sentence each, and how much of it."""
    baselines, done = len(comparison.baselines), len(comparison.turns)
    rounds = [f"rounds: {comparison.wanted}; set-ups that take turns in each: {baselines}"]
    if not comparison.is_whole:
        counted = len(comparison.counted)
        rounds.append(
            f"interrupted after {done} of {comparison.wanted * baselines} turns; figures are of the first {counted}"
        )
    return [*comparison.setting, *rounds]


def _make_page(comparison: Comparison) -> Iterator[Block]:
    found = scores(comparison)
    headline, sentence = tell_outcome(found)
    yield Heading(1, headline)
    yield Text(sentence)
    yield Text(
        "All answer the same requests with a slimmable network on two unlike Tritons. **Right in time** is the share "
        "of all requests that got the right class within their deadline. In the panels blue is what was answered in "
        "time, the darker the wider, and orange what missed its deadline, late or refused."
    )
    yield Pictures(draw_panels(comparison))
    head = [heading.replace("\n", " ") for heading, _ in _FIGURES]
    rows = [
        _mark(score, (*(figure(score) for _, figure in _FIGURES), " · ".join(f"{part:.1%}" for part in score.by_round)))
        for score in found
    ]
    yield Table(("", *head, "right in time by round"), rows, "What came of all requests")
    yield Text(
        "**Late** is what was answered after its deadline or never, **refused** what was told so before. Accuracy and "
        "latencies are of the answers. The default is called behind where it is so by more than "
        f"{LEVEL_POINTS:g} points, and ahead where it is so by more than that and in each round; all else is level."
    )
    shares = [_mark(score, _shares(comparison, score)) for score in found]
    yield Table(("", *_share_headings(comparison)), shares, "Share of the answers, by server and by width")
    yield Heading(2, "Who is compared")
    yield Bullets("", [f"**{score.baseline.name}**: {score.baseline.text}" for score in found])
    yield Heading(2, "What was run")
    yield Bullets("", [*describe_run(comparison), *(f"server {name}: {text}" for name, text in comparison.servers)])


def _mark(score: Score, cells: tuple[str, ...]) -> tuple[str, ...]:
    """Return a row, the default's in bold."""
    row = (score.baseline.name, *cells)
    return tuple(f"**{cell}**" for cell in row) if score.baseline.name == DEFAULT else row


def _share_headings(comparison: Comparison) -> list[str]:
    return [*(name for name, _ in comparison.servers), *(f"{width} %" for width in comparison.widths)]


def _shares(comparison: Comparison, score: Score) -> tuple[str, ...]:
    """Return the parts of servers and widths; a Triton does not say who it is."""
    by_server, by_width = score.summary.servers, score.summary.widths
    parts = [
        *(None if "" in by_server else by_server.get(name, 0.0) for name, _ in comparison.servers),
        *(by_width.get(width, 0.0) for width in comparison.widths),
    ]
    return tuple("-" if part is None else f"{part:.0%}" if part else "·" for part in parts)
