from __future__ import annotations

import math
from dataclasses import astuple, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.planner.rates import Counters, Rates, measure_rates

counts = st.integers(0, 10_000)
seconds = st.floats(0, 1e5)
windows = st.floats(0.01, 1e4)


def grown(before: Counters, by: Counters) -> Counters:
    """Counters of a server that went on running; what is pending now is not cumulative."""
    return Counters(
        requests=before.requests + by.requests,
        failures=before.failures + by.failures,
        items=before.items + by.items,
        executions=before.executions + by.executions,
        queue_s=before.queue_s + by.queue_s,
        service_s=before.service_s + by.service_s,
        pending_requests=by.pending_requests,
    )


counters = st.builds(Counters, counts, counts, counts, counts, seconds, seconds, st.integers(0, 100))


def test_each_rate_is_what_was_added_a_second() -> None:
    before = Counters(requests=100, failures=7, items=400, executions=50, queue_s=3.0, service_s=9.0)
    after = Counters(requests=140, failures=9, items=560, executions=60, queue_s=4.0, service_s=11.0)
    rates = measure_rates(before, after, 2.0)
    assert rates == Rates(
        window_s=2.0,
        requests_per_s=20.0,
        failures_per_s=1.0,
        items_per_s=80.0,
        executions_per_s=5.0,
        waiting_requests=0.5,
        items_per_execution=16.0,
        service_s=0.05,
    )
    assert rates.busy_instances == pytest.approx(0.25)


@pytest.mark.parametrize("before", [None, Counters()])
@pytest.mark.parametrize("window_s", [0.0, -1.0])
def test_without_a_window_there_are_no_rates_but_who_waits_now_is_counted(
    before: Counters | None, window_s: float
) -> None:
    after = Counters(requests=10, failures=1, items=10, executions=10, queue_s=1, service_s=1, pending_requests=3)
    assert measure_rates(before, after, window_s) == Rates(waiting_requests=3.0)
    assert measure_rates(None, after, 1.0) == Rates(waiting_requests=3.0)


@pytest.mark.parametrize(
    "before",
    [
        Counters(requests=21, failures=2, items=80, executions=10, queue_s=0.4, service_s=2.0),
        Counters(requests=20, failures=2, items=80, executions=11, queue_s=0.4, service_s=2.0),
        Counters(requests=10**6, failures=10**6, items=10**6, executions=10**6, queue_s=1e6, service_s=1e6),
    ],
)
def test_a_counter_that_went_down_began_again_at_zero(before: Counters) -> None:
    after = Counters(requests=20, failures=2, items=80, executions=10, queue_s=0.4, service_s=2.0)
    assert measure_rates(before, after, 4.0) == Rates(4.0, 5.0, 0.5, 20.0, 2.5, 0.1, 8.0, 0.1)


def test_nothing_ran_has_no_mean_batch_and_is_not_busy() -> None:
    same = Counters(requests=5, failures=5, items=5, executions=5, queue_s=5, service_s=5)
    rates = measure_rates(same, replace(same, failures=8), 1.0)
    assert rates == Rates(window_s=1.0, failures_per_s=3.0)
    assert (rates.items_per_execution, rates.service_s) == (None, None)
    assert rates.busy_instances == 0.0


def test_whichever_is_more_of_those_who_wait_now_and_waited_on_average_counts() -> None:
    before = Counters(requests=1, items=1, executions=1)
    assert measure_rates(before, replace(before, queue_s=6.0, pending_requests=2), 2.0).waiting_requests == 3.0
    assert measure_rates(before, replace(before, queue_s=6.0, pending_requests=4), 2.0).waiting_requests == 4.0


@settings(deadline=None, max_examples=60)
@given(counters, counters, counters, windows, windows)
def test_two_windows_amount_to_the_whole(
    start: Counters, first: Counters, second: Counters, first_s: float, second_s: float
) -> None:
    middle = grown(start, first)
    end = grown(middle, second)
    whole = measure_rates(start, end, first_s + second_s)
    parts = (measure_rates(start, middle, first_s), measure_rates(middle, end, second_s))
    for name in ("requests_per_s", "failures_per_s", "items_per_s", "executions_per_s"):
        added = getattr(parts[0], name) * first_s + getattr(parts[1], name) * second_s
        assert getattr(whole, name) * (first_s + second_s) == pytest.approx(added, rel=1e-9, abs=1e-6)


@settings(deadline=None, max_examples=60)
@given(counters, counters, windows, st.integers(1, 50))
def test_the_unit_of_time_and_work_cancels(before: Counters, by: Counters, window_s: float, scale: int) -> None:
    """As much more of everything in as much more time is the same rate."""
    by = replace(by, pending_requests=0)
    scaled = Counters(*(value * scale for value in astuple(by)))
    once = measure_rates(before, grown(before, by), window_s)
    often = measure_rates(before, grown(before, scaled), window_s * scale)
    for name in ("requests_per_s", "failures_per_s", "items_per_s", "executions_per_s", "waiting_requests"):
        assert getattr(often, name) == pytest.approx(getattr(once, name), rel=1e-6, abs=1e-6)
    assert (often.service_s is None) == (once.service_s is None)


@settings(deadline=None, max_examples=100)
@given(counters, counters, windows)
def test_rates_of_a_running_server_are_finite_and_never_negative(
    before: Counters, by: Counters, window_s: float
) -> None:
    rates = measure_rates(before, grown(before, by), window_s)
    values = [value for value in astuple(rates) if value is not None]
    assert all(math.isfinite(value) and value >= 0 for value in [*values, rates.busy_instances])


@settings(deadline=None, max_examples=60)
@given(counters, counters, windows)
def test_after_a_restart_the_readings_before_it_do_not_matter(
    before: Counters, after: Counters, window_s: float
) -> None:
    assume(after.requests < before.requests or after.executions < before.executions)
    assert measure_rates(before, after, window_s) == measure_rates(Counters(), after, window_s)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 20)), min_size=1, max_size=20))
def test_littles_law_holds_for_a_queue_counted_tick_by_tick(requests: list[tuple[int, int]]) -> None:
    """Each request comes at a tick and waits for some; who waits is counted at every tick of a window of 100."""
    waiting_at = [sum(came <= tick < came + waits for came, waits in requests) for tick in range(100)]
    after = Counters(
        requests=len(requests),
        items=len(requests),
        executions=len(requests),
        queue_s=float(sum(waits for _, waits in requests)),
    )
    rates = measure_rates(Counters(), after, 100.0)
    assert rates.waiting_requests == pytest.approx(sum(waiting_at) / 100)
    mean_wait_s = sum(waits for _, waits in requests) / len(requests)
    assert rates.waiting_requests == pytest.approx(rates.requests_per_s * mean_wait_s)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 8), st.integers(1, 40), st.floats(0.001, 0.2))
def test_equal_batches_keep_as_many_instances_busy_as_their_durations_fill(
    requests_a_batch: int, batches: int, run_s: float
) -> None:
    requests = requests_a_batch * batches
    after = Counters(requests=requests, items=requests, executions=batches, service_s=requests * run_s)
    rates = measure_rates(Counters(), after, 10.0)
    assert rates.service_s == pytest.approx(run_s)
    assert rates.items_per_execution == pytest.approx(requests_a_batch)
    assert rates.busy_instances == pytest.approx(batches * run_s / 10.0)
