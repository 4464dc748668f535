from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profile import LatencyFit, LatencyTable
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import served_model

A = ServerName("a")
sizes = st.lists(st.integers(1, 64), min_size=2, max_size=30).filter(lambda ns: len(set(ns)) > 1)


def fit(observations: list[tuple[int, float]]) -> LatencyFit:
    result = LatencyFit()
    for items, service_s in observations:
        result = result.observe(items, service_s)
    return result


@given(sizes, st.floats(1e-4, 0.1), st.floats(1e-4, 0.1))
def test_a_straight_line_is_found_exactly(ns: list[int], slope_s: float, group_s: float) -> None:
    found = fit([(n, slope_s * n + group_s) for n in ns]).line()
    assert found == pytest.approx((slope_s, group_s), rel=1e-4, abs=1e-7)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 1)), min_size=1, max_size=30))
def test_neither_part_is_ever_negative(observations: list[tuple[int, float]]) -> None:
    slope_s, group_s = fit(observations).line()
    assert slope_s >= 0
    assert group_s >= 0


def test_nothing_observed_is_instant() -> None:
    assert LatencyFit().line() == (0, 0)


def test_groups_of_one_size_lay_the_time_on_the_items() -> None:
    assert fit([(4, 0.2), (4, 0.2)]).line() == pytest.approx((0.05, 0))


def test_falling_times_are_a_constant_and_a_negative_start_is_none() -> None:
    slope_s, group_s = fit([(1, 0.2), (8, 0.1)]).line()
    assert slope_s == 0
    assert 0.1 < group_s < 0.2
    slope_s, group_s = fit([(1, 0.01), (8, 0.8)]).line()
    assert group_s == 0
    assert 0.09 < slope_s < 0.1


def test_a_machine_that_throttles_is_noticed() -> None:
    before = [(n, 0.01 * n + 0.002) for n in (1, 8)] * 50
    after = [(n, 0.02 * n + 0.004) for n in (1, 8)] * 30
    assert fit(before + after).line() == pytest.approx((0.02, 0.004), rel=0.1)


def test_a_width_never_seen_is_scaled_from_the_nearest_one_by_flops_or_else_by_its_square() -> None:
    models = (served_model(25), served_model(50), served_model(100))
    table = LatencyTable().observe(A, Width(50), 1, 0.012).observe(A, Width(100), 1, 0.045)
    assert table.line(A, models[0], models) == pytest.approx((0.003, 0))
    plain = tuple(type(m)(**{**{f: getattr(m, f) for f in m.__slots__}, "flops": None}) for m in models)
    assert table.line(A, plain[0], plain) == pytest.approx((0.003, 0))


def test_the_table_keeps_servers_and_widths_apart() -> None:
    models = (served_model(100),)
    table = LatencyTable().observe(A, Width(100), 1, 0.5)
    assert table.line(ServerName("b"), models[0], models) == (0, 0)
    assert LatencyTable().fits == {}
