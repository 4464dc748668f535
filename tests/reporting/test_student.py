from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import t, ttest_1samp

from orchestrator.reporting.student import half_interval, quantile_95


def test_quantiles_are_those_of_scipy_and_never_too_small() -> None:
    for freedom in range(1, 31):
        assert quantile_95(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=5.1e-4)
    assert t.ppf(0.975, 1000) < quantile_95(1000) == quantile_95(31)


@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30).filter(lambda values: max(values) - min(values) > 1e-3))
def test_an_interval_is_that_of_scipys_t_test(values: list[float]) -> None:
    interval = ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert half_interval(values) == pytest.approx((interval.high - interval.low) / 2, rel=5e-4)


def test_one_value_is_sure_of_nothing_and_values_alike_are_sure() -> None:
    assert half_interval([1.0]) == math.inf
    assert half_interval([2.5, 2.5, 2.5]) == 0
