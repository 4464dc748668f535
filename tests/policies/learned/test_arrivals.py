"""Rates of arrival as a policy sees them, decision by decision."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.learned.memory import follow_arrivals, quick_rps, slow_rps, swing
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Table, new_column
from orchestrator.policies.tables.memory import new_memory

DEADLINE_S = 0.1


class Stream:
    """Requests of one item that come at given times."""

    def __init__(self, deadline_s: float = DEADLINE_S) -> None:
        self.memory: Table = new_memory(1, 1)
        self.arrived = 0.0
        self._deadline_s = deadline_s

    def decide(self, now_s: float) -> None:
        """Be asked about what has come so far."""
        query = new_column(col.QUERY_FIELDS)
        query[col.NOW_S], query[col.ARRIVED_ITEMS] = now_s, self.arrived
        query[col.HEAD_ARRIVED_S], query[col.HEAD_DEADLINE_S] = now_s, now_s + self._deadline_s
        follow_arrivals(self.memory, query)

    def run(self, times_s: Iterable[float], *, each: int = 1) -> Stream:
        """Let one item come at each time; with each ``each``-th something is decided."""
        for number, now_s in enumerate(times_s, 1):
            self.arrived += 1
            if number % each == 0:
                self.decide(now_s)
        return self


@pytest.mark.parametrize("each", [1, 5])
def test_a_steady_stream_has_its_rate_soon(each: int) -> None:
    first = Stream().run(np.arange(101) * 0.001, each=each)
    assert 850 < quick_rps(first.memory) < 1000
    stream = Stream().run(np.arange(4001) * 0.001, each=each)
    assert quick_rps(stream.memory) == pytest.approx(1000, rel=0.01)
    assert slow_rps(stream.memory) == pytest.approx(1000, rel=0.01)
    assert swing(stream.memory) < 0.01


def test_who_was_not_asked_for_long_takes_what_came_meanwhile_for_no_crowd() -> None:
    """As a candidate that decides in a part of the time."""
    stream = Stream().run(np.arange(0, 4, 0.001))
    stream.arrived += 19_000
    stream.decide(23.0)
    assert quick_rps(stream.memory) == pytest.approx(1000, rel=0.01)
    assert slow_rps(stream.memory) == pytest.approx(1000, rel=0.01)
    assert swing(stream.memory) < 0.01


def test_what_came_before_the_first_decision_is_no_rate() -> None:
    stream = Stream()
    stream.arrived = 50.0
    stream.decide(0.0)
    assert (quick_rps(stream.memory), slow_rps(stream.memory)) == (0, 0)


def test_a_crowd_shows_in_the_quick_rate_first_and_in_how_uneven_it_has_been() -> None:
    calm = Stream().run(np.arange(0, 4, 0.01))
    assert swing(calm.memory) < 0.05
    crowd = calm.run(4 + np.arange(0, 0.1, 0.001))
    # After a deadline of ten times the rate: 100 + 900·(1 − 1/e), and 100 + 900·(1 − exp(−1/8)).
    assert quick_rps(crowd.memory) == pytest.approx(100 + 900 * (1 - math.exp(-1)), rel=0.05)
    assert slow_rps(crowd.memory) == pytest.approx(100 + 900 * (1 - math.exp(-1 / 8)), rel=0.05)
    assert swing(crowd.memory) > 0.3


def test_rates_fall_when_nothing_comes() -> None:
    stream = Stream().run(np.arange(0, 2, 0.001))
    stream.decide(2 + DEADLINE_S)
    assert quick_rps(stream.memory) == pytest.approx(1000 / math.e, rel=0.03)


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=60), st.floats(0.1, 100), st.integers(1, 9))
def test_rates_have_no_unit_but_time(gaps_s: list[float], factor: float, each: int) -> None:
    times_s = np.cumsum(gaps_s)
    one, other = Stream().run(times_s, each=each), Stream(DEADLINE_S * factor).run(times_s * factor, each=each)
    for rate in (quick_rps, slow_rps):
        assert rate(other.memory) * factor == pytest.approx(rate(one.memory), rel=1e-6)
        assert 0 <= rate(one.memory) < math.inf
    assert swing(other.memory) == pytest.approx(swing(one.memory), rel=1e-6, abs=1e-9)
