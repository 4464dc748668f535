"""The rate of arrivals counts what came, whatever became of it."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.rules.demand import FIRST_WINDOW_S, RATE_RPS, follow_demand
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import new_column
from orchestrator.policies.tables.memory import WHOLE, new_memory

WINDOW_S = 0.25


def rate_rps(arrived: list[tuple[float, int]], *, queued: int = 0) -> float:
    """The rate after decisions at these times, by when so many items had come in all."""
    memory, query = new_memory(1, 1), new_column(col.QUERY_FIELDS)
    for now_s, items in arrived:
        query[col.NOW_S], query[col.ARRIVED_ITEMS], query[col.QUEUE_ITEMS] = now_s, items, queued
        follow_demand(WINDOW_S, memory, query)
    return float(memory[WHOLE][RATE_RPS])


@given(rps=st.integers(1, 5000), every=st.integers(1, 50), queued=st.integers(0, 1000))
def test_a_steady_rate_is_found_however_seldom_one_decides_and_however_much_waits(
    rps: int, every: int, queued: int
) -> None:
    seen = [(1000.0 + n / rps, n) for n in range(0, max(6 * rps, 3 * every), every)]
    found = rate_rps(seen, queued=queued)
    assert math.isclose(found, rps, rel_tol=0.02)


def test_what_was_refused_or_sent_elsewhere_counts_and_nothing_is_known_before_a_window_is_over() -> None:
    assert rate_rps([(0.0, 1_000_000)]) == 0
    assert rate_rps([(0.0, 1_000_000), (FIRST_WINDOW_S / 2, 1_000_100)]) == 0
    assert rate_rps([(0.0, 1_000_000), (FIRST_WINDOW_S, 1_000_100)]) == 100 / FIRST_WINDOW_S


def test_a_crowd_is_noticed_before_its_window_is_over() -> None:
    steady = [(n / 100, n) for n in range(1000)]
    crowd = [(10.0 + n / 10_000, 1000 + n) for n in range(500)]
    assert rate_rps([*steady, *crowd]) >= 500 / WINDOW_S > 10 * rate_rps(steady)


def test_the_latest_window_counts_half() -> None:
    steady = [(n / 100, n) for n in range(200)]
    assert math.isclose(rate_rps(steady), 100, rel_tol=0.02)
    ended = [(2.0 + n / 100, 200 + 3 * n) for n in range(40)]
    assert 150 < rate_rps([*steady, *ended]) < 300
