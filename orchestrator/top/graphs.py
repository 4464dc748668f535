"""The page's charts as rows of a table, each with a line of blocks that ends now; pure.

What falls into one cell is shown by its worst, so that a short peak is seen however narrow the terminal is. A cell that
nothing is known of is blank.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from orchestrator.controller.status.view import say_duration
from orchestrator.gateway.page.traffic import Point

KEPT_S = 600.0
CELLS = 42
"""What a terminal of 80 columns has room for, beside names and numbers."""
_BLOCKS = "▁▂▃▄▅▆▇█"


class _Series(NamedTuple):
    name: str
    read: Callable[[Point], float | None]
    words: Callable[[float], str]
    worst: Callable[[Iterable[float]], float] = max
    least: float = 0.0
    most: float = 0.0


def say_rate(value: float) -> str:
    """Return events a second."""
    return "<0.1" if 0 < value < 0.05 else f"{value:.1f}" if value < 99.5 else f"{value:,.0f}"


def keep_points(kept: Sequence[Point], given: Mapping[str, Any]) -> list[Point]:
    """Return the last ten minutes of ``kept``, by time, and of what an event brings in its ``keys`` and ``rows``.

    Raises:
        LookupError, ValueError: The event is of another version.
    """
    at = [given["keys"].index(name) for name in Point._fields]
    new = [Point(*(row[index] for index in at)) for row in given["rows"]]
    if new and kept and new[-1].unix_s < kept[-1].unix_s:  # the clock was set back
        kept = []
    newest_s = kept[-1].unix_s if kept else -math.inf
    points = [*kept, *(point for point in new if point.unix_s > newest_s)]
    return [point for point in points if point.unix_s > points[-1].unix_s - KEPT_S]


def only_family(document: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the family of a fleet that has one with widths: scales of quality of several can't be added."""
    found = [family for family in document["families"] if family["widths"]]
    return found[0] if len(found) == 1 and document["families_total"] == len(document["families"]) else None


def graph_rows(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each graph: ``name``, ``now``, ``least`` and ``most`` in words, ``line``; None is unknown."""
    points, period_s = keep_points((), document["points"]), document["points"]["period_s"]
    count = max(1, min(document.get("graph_cells", CELLS), int(KEPT_S / (2 * period_s))))  # each has a point
    return [_row(series, points, count) for series in _all(document, points)] if points else []


def _all(document: Mapping[str, Any], points: Sequence[Point]) -> list[_Series]:
    def rate(name: str, end: str) -> _Series:
        return _Series(name, lambda point: getattr(point, f"{end}_per_s"), say_rate)

    def latency(name: str) -> _Series:
        return _Series(f"latency {name}", lambda point: getattr(point, f"latency_{name}_s"), say_duration)

    widths = sorted({width for point in points for width in point.per_s_by_width}, key=float)
    return [
        latency("p99"),
        _Series("queue", lambda point: point.queue_items, "{:.0f}".format),
        rate("answered/s", "answered"),
        *_quality(document),
        *(_Series(f"{w} % ans/s", lambda point, w=w: point.per_s_by_width.get(w, 0.0), say_rate) for w in widths),  # type: ignore[misc]
        *(rate(f"{end}/s", end) for end in ("late", "refused", "failed")),
        latency("p95"),
        latency("p50"),
        _Series("batches", lambda point: point.batches_in_flight, "{:.0f}".format),
    ]


def _quality(document: Mapping[str, Any]) -> list[_Series]:
    family = only_family(document)
    if family is None:
        return []
    known = {str(width["width"]): width["quality"] for width in family["widths"]}

    def served(point: Point) -> float | None:
        answers = {width: per_s for width, per_s in point.per_s_by_width.items() if width in known}
        total = sum(answers.values())
        return sum(known[width] * per_s for width, per_s in answers.items()) / total if total else None

    return [_Series("quality", served, "{:.3f}".format, min, min(known.values()), max(known.values()))]


def _row(series: _Series, points: Sequence[Point], count: int) -> dict[str, Any]:
    cells: list[list[float]] = [[] for _ in range(count)]
    for point in points:
        value = series.read(point)
        if value is not None:
            cells[max(0, count - 1 - int((points[-1].unix_s - point.unix_s) / KEPT_S * count))].append(value)
    values, now = [value for cell in cells for value in cell], series.read(points[-1])
    high = max(series.most, *values, series.least)
    top, range_ = len(_BLOCKS) - 1, (high - series.least) or 1.0
    shown = [series.worst(cell) if cell else None for cell in cells]
    return {
        "name": series.name,
        "now": None if now is None else series.words(now),
        "least": series.words(min(values)) if values else None,
        "most": series.words(max(values)) if values else None,
        "line": "".join(
            " " if v is None else _BLOCKS[min(top, math.ceil((v - series.least) / range_ * top))] for v in shown
        ),
    }
