"""Lines of blocks, from points that events bring."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.page.traffic import Point
from orchestrator.top.graphs import graph_rows, keep_points
from orchestrator.top.tables import figures
from tests.top.documents import busy_document

NONE = Point(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, None, None, None, 0.0, 0.0, {})
FAMILY = {"widths": [{"width": 25, "quality": 0.6}, {"width": 100, "quality": 0.9}]}


def event_of(*points: Point) -> dict[str, Any]:
    return {"keys": Point._fields, "rows": [tuple(point) for point in points], "period_s": 2.0}


def graphs_of(*points: Point, families: tuple[Any, ...] = (FAMILY,), cells: int = 10) -> dict[str, dict[str, Any]]:
    document = {"points": event_of(*points), "families": families, "families_total": len(families)}
    return {row["name"]: row for row in graph_rows(document | {"graph_cells": cells})}


def test_a_short_peak_is_seen_however_many_points_share_its_cell() -> None:
    queue = [NONE._replace(unix_s=2.0 * n, queue_items=100.0 if n == 150 else 1.0) for n in range(300)]
    found = graphs_of(*queue)["queue"]
    assert found["line"] == "▂▂▂▂▂█▂▂▂▂"
    assert (found["now"], found["least"], found["most"]) == ("1", "1", "100")


def test_what_is_unknown_is_blank_and_nothing_is_lowest() -> None:
    found = graphs_of(NONE, NONE._replace(unix_s=300.0, latency_p99_s=0.5), NONE._replace(unix_s=599.0))
    assert found["latency p99"]["line"] == "     █    "
    assert found["latency p99"]["now"] is None
    assert found["queue"]["line"] == "▁    ▁   ▁"
    assert found["latency p95"]["most"] is None


def test_quality_is_shown_by_its_lowest_between_those_of_the_widths_and_only_of_one_family() -> None:
    at = [NONE._replace(unix_s=n, per_s_by_width={"25": 1.0, "100": 9.0 if n < 595 else 0.0}) for n in range(600)]
    found = graphs_of(*at)["quality"]
    assert found["line"][:-1] == "█" * 9
    assert found["line"][-1] == "▁"
    assert (found["now"], found["most"]) == ("0.600", "0.870")
    assert "quality" not in graphs_of(*at, families=(FAMILY, FAMILY))
    assert list(graphs_of(*at))[4:6] == ["25 % ans/s", "100 % ans/s"]


@given(
    st.lists(st.tuples(st.floats(0, 2000), st.none() | st.floats(0, 1e9), st.floats(0, 1e9)), max_size=40),
    st.integers(-50, 400),
)
def test_every_line_has_as_many_cells_whatever_the_points(
    given_points: list[tuple[float, float | None, float]], cells: int
) -> None:
    points = [
        NONE._replace(unix_s=unix_s, latency_p99_s=latency_s, per_s_by_width={"25": per_s, "100": 1.0})
        for unix_s, latency_s, per_s in sorted(given_points, key=itemgetter(0))
    ]
    found = graphs_of(*points, cells=cells)
    assert {len(row["line"]) for row in found.values()} == ({min(150, max(1, cells))} if points else set())


def test_points_are_kept_for_ten_minutes_once_and_anew_when_the_clock_was_set_back() -> None:
    points = [NONE._replace(unix_s=1000.0 + n) for n in range(700)]
    kept = keep_points(keep_points((), event_of(*points[:650])), event_of(*points[600:]))
    assert kept == points[100:]
    assert keep_points(kept, event_of(NONE)) == [NONE]
    assert keep_points(kept, event_of()) == kept


def test_points_of_another_version_are_refused_and_more_keys_are_not() -> None:
    more = {"keys": (*Point._fields, "new"), "rows": [(*NONE, 3)]}
    assert keep_points((), more) == [NONE]
    for other in ({}, {"keys": [], "rows": []}, event_of() | {"rows": [(1.0,)]}):
        with pytest.raises((LookupError, ValueError)):
            keep_points((), other)


async def test_the_quality_served_is_told_of_one_family() -> None:
    document = await busy_document()
    [family] = document["families"]
    family["widths"] = [{"quality": q, "answered_per_s": per_s} for q, per_s in ((0.6, 1.0), (0.9, 3.0))]
    assert figures(document).splitlines()[2].startswith("quality 0.825 of at most 0.900 · 82.6 W, ")
    unknown = document | {"families_total": 2, "energy": {"power_w": None, "j_per_answer": None}}
    assert len(figures(unknown).splitlines()) == 2
