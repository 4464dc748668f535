"""Rates with bursts: never more than promised, and never less to a client that keeps to them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.token_bucket import FULL, Rate, take

rates = st.builds(Rate, st.floats(0.01, 1e5), st.floats(1, 1e5))
arrivals = st.lists(st.tuples(st.floats(0, 100), st.floats(0, 50)), max_size=60)


@given(rates, arrivals)
def test_no_span_of_time_lets_through_more_than_rate_and_burst(rate: Rate, gaps: list[tuple[float, float]]) -> None:
    state, now_s, admitted = FULL, 1e6, []
    for gap_s, amount in gaps:
        now_s, amount = now_s + gap_s, min(amount, rate.burst)
        left, wait_s = take(state, rate, amount, now_s=now_s)
        if wait_s == 0:
            admitted.append((now_s, amount))
        else:
            assert left == state, "what is refused takes nothing"
        state = left
    for first in range(len(admitted)):
        total = 0.0
        for at_s, amount in admitted[first:]:
            total += amount
            span_s = at_s - admitted[first][0]
            allowed = rate.per_s * span_s + rate.burst
            assert total <= allowed * (1 + 1e-6) + len(admitted) * rate.per_s * 1e-5


@given(rates, st.floats(0, 1e4), st.floats(0, 1e4))
def test_what_waits_as_asked_is_let_through(rate: Rate, first: float, second: float) -> None:
    state, _ = take(FULL, rate, min(first, rate.burst), now_s=5.0)
    second = min(second, rate.burst)
    _, wait_s = take(state, rate, second, now_s=5.0)
    assert take(state, rate, second, now_s=5.0 + wait_s + 1e-6)[1] == 0


@given(rates, st.floats(0, 100))
def test_a_clock_that_stands_gives_the_burst_and_no_more(rate: Rate, now_s: float) -> None:
    state, taken = FULL, 0
    while taken < 500:
        state, wait_s = take(state, rate, 1, now_s=now_s)
        if wait_s != 0:
            break
        taken += 1
    assert taken <= rate.burst + rate.per_s * 1e-4 + 1e-6
    assert taken >= min(500, int(rate.burst - 1e-6))


def test_times_are_exact() -> None:
    rate = Rate(per_s=10, burst=2)
    state = FULL
    for _ in range(2):
        state, wait_s = take(state, rate, 1, now_s=100.0)
        assert wait_s == 0
    assert take(state, rate, 1, now_s=100.0)[1] == pytest.approx(0.1)
    assert take(state, rate, 2, now_s=100.0)[1] == pytest.approx(0.2)
    assert take(state, rate, 1, now_s=100.1)[1] == 0


@given(rates, st.integers(1, 64))
def test_shares_add_up_to_the_whole_but_for_bursts_below_one(rate: Rate, workers: int) -> None:
    part = rate.share(1 / workers)
    assert part.per_s * workers == pytest.approx(rate.per_s)
    assert part.burst >= 1
    assert part.burst * workers <= max(rate.burst * (1 + 1e-9), workers)
