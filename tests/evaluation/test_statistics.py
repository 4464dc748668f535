from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.evaluation.statistics import Interval, estimate_iqm, interquartile_mean


def test_the_interquartile_mean_is_that_of_the_middle_half() -> None:
    assert interquartile_mean(np.array([-1000.0, 1, 2, 3, 4, 5, 6, 9999])) == pytest.approx((2 + 3 + 4 + 5) / 4)
    assert list(interquartile_mean(np.array([[0.0, 1, 2, 100], [5, 5, 5, 5]]))) == [1.5, 5]


def test_an_unknown_value_makes_the_mean_unknown_rather_than_being_trimmed() -> None:
    assert math.isnan(interquartile_mean(np.array([1.0, 2, 3, math.nan])))
    assert estimate_iqm([np.array([1.0, math.nan])]).interval is None


def test_strata_keep_their_share_when_traces_are_drawn_again() -> None:
    # Were all traces thrown together, resamples would differ in how many are of which scenario.
    apart = estimate_iqm([np.zeros(20), np.ones(20)])
    assert apart.value == 0.5
    assert apart.interval == Interval(0.5, 0.5)
    together = estimate_iqm([np.concatenate([np.zeros(20), np.ones(20)])])
    assert together.interval is not None
    assert together.interval.high - together.interval.low > 0.2


def test_an_interval_covers_the_true_value_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for seed in range(120):
        interval = estimate_iqm([rng.normal(5, 1, 30)], seed=seed).interval
        assert interval is not None
        covered += interval.low <= 5 <= interval.high
    assert 105 <= covered <= 119
