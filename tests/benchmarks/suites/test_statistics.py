from __future__ import annotations

import numpy as np
import pytest

from benchmarks.suites.statistics import estimate_difference, estimate_ratio, less
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
