"""Rates and quantiles between two readings of the metrics."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.page.traffic import Reading, Traffic, compare, end_of, point_of, quantile, read_snapshot
from orchestrator.gateway.statuses import _ENDS
from tests.gateway.page.fleets import Gateway

BOUNDS = (0.01, 0.1, 1.0)


def between(*, before: Gateway, after: Gateway, seconds: float = 10.0) -> Traffic:
    return compare(
        read_snapshot(before.metrics.snapshot(), 100.0, 7.0),
        read_snapshot(after.metrics.snapshot(), 100.0 + seconds, 7.0 + seconds),
    )


def ended(**outcomes: int) -> Gateway:
    gateway = Gateway()
    for outcome, count in outcomes.items():
        gateway.end(outcome, count, width=50 if outcome == "ok" else "", server="a")
    return gateway


def test_every_outcome_of_the_gateway_is_answered_late_refused_a_callers_or_a_failure() -> None:
    ends = {word: end_of(word) for _, _, word in _ENDS} | {"ok": end_of("ok"), "streamed": end_of("streamed")}
    assert {end for end in ends.values()} == {"answered", "late", "refused", "callers", "failed"}
    assert {word for word, end in ends.items() if end == "failed"} == {"unavailable", "failed"}
    assert end_of("refused") == "failed"  # by a server


def test_rates_are_of_what_came_between_two_readings() -> None:
    traffic = between(before=ended(ok=100, shed=7), after=ended(ok=140, shed=9, deadline=1))
    assert traffic.total == {"answered": 4.0, "late": 0.1, "refused": 0.2, "failed": 0.0, "callers": 0.0}
    assert traffic.widths == {"50": 4.0}


def test_what_a_process_took_with_it_counts_as_nothing_new() -> None:
    assert sum(between(before=ended(ok=100), after=ended(ok=3)).total.values()) == 0


def test_nothing_but_zeros_and_unknown_before_anything_came() -> None:
    empty = read_snapshot(MetricSnapshot(), 1.0, 1.0)
    point = point_of(compare(empty, empty))
    assert (point.answered_per_s, point.latency_p95_s, point.queue_items, point.per_s_by_width) == (0, None, 0, {})


def test_latency_is_of_answers_alone() -> None:
    gateway = Gateway()
    gateway.end("ok", 10, width=25, latency_s=0.02)
    gateway.end("shed", 1000, latency_s=0.0001)
    p50_s = between(before=Gateway(), after=gateway).quantile_s(0.5)
    assert p50_s is not None
    assert 0.015 <= p50_s <= 0.025


def test_families_have_latencies_of_their_own() -> None:
    gateway = Gateway()
    gateway.end("ok", 10, family="quick", width=25, latency_s=0.002)
    gateway.end("ok", 10, family="slow", width=25, latency_s=2.0)
    traffic = between(before=Gateway(), after=gateway)
    quick_s, slow_s = traffic.quantile_s(0.95, "quick"), traffic.quantile_s(0.95, "slow")
    assert quick_s is not None
    assert slow_s is not None
    assert quick_s < 0.003 < 1.0 < slow_s
    assert traffic.quantile_s(0.95, "unknown") is None


@pytest.mark.parametrize(
    ("buckets", "ratio", "expected"),
    [
        ((10, 0, 0, 0), 0.5, 0.005),
        ((5, 5, 0, 0), 0.5, 0.01),
        ((5, 5, 0, 0), 0.75, 0.055),
        ((0, 0, 0, 3), 0.5, 1.0),
        ((0, 0, 0, 0), 0.5, None),
        ((), 0.5, None),
    ],
)
def test_quantiles_are_linear_within_a_bucket(buckets: tuple[float, ...], ratio: float, expected: float | None) -> None:
    assert quantile(buckets, BOUNDS, ratio) == pytest.approx(expected)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.floats(0.01, 0.98))
def test_quantiles_never_fall_with_their_ratio(buckets: list[int], ratio: float) -> None:
    lower, upper = quantile(buckets, BOUNDS, ratio), quantile(buckets, BOUNDS, ratio + 0.01)
    assert (lower is None) == (upper is None) == (sum(buckets) == 0)
    assert lower is None or upper is None or 0 <= lower <= upper <= BOUNDS[-1]


def test_readings_of_processes_add_up() -> None:
    total = MetricSnapshot()
    for gateway in (ended(ok=3), ended(ok=4, unavailable=2)):
        total.add(gateway.metrics.snapshot(), MEASURES)
    reading: Reading = read_snapshot(total, 1.0, 1.0)
    assert sum(reading.requests.values()) == 9
