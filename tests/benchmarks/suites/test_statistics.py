from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.suites.statistics import estimate_difference, estimate_ratio, less, probability_of_improvement
from orchestrator.evaluation.statistics import Estimate, Interval


def test_differences_are_paired_by_trace() -> None:
    noise = np.random.default_rng(0).normal(100, 30, 20)
    found = estimate_difference(noise + 1, noise)
    assert found.value == pytest.approx(1)
    assert found.interval is not None
    assert (found.interval.low, found.interval.high) == (pytest.approx(1), pytest.approx(1))
    ratio = estimate_ratio(0.8 * noise, noise)
    assert less(ratio).value == pytest.approx(0.2)


def test_less_turns_the_interval_round() -> None:
    assert less(Estimate(0.25, Interval(0.125, 0.5))) == Estimate(0.75, Interval(0.5, 0.875))


def test_the_probability_of_improvement_counts_wins_and_half_of_ties() -> None:
    better, than = [np.array([1.0, 2, 3, 4]), np.array([1.0, 1])], [np.array([0.0, 2, 5, 0]), np.array([0.0, 0])]
    assert probability_of_improvement(better, than).value == pytest.approx((2.5 / 4 + 1) / 2)


@given(st.lists(st.integers(0, 3), min_size=2, max_size=12), st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_improvement_of_either_over_the_other_adds_up_to_one(first: list[int], second: list[int]) -> None:
    a, b = np.array(first, float), np.array(second[: len(first)], float)
    assert probability_of_improvement([a], [b]).value + probability_of_improvement([b], [a]).value == pytest.approx(1)
