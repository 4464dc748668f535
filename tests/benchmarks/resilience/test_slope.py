from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.resilience.slope import fit_slope

AT_S = [float(second) for second in range(0, 1500, 2)]


@given(st.floats(-1e3, 1e3), st.floats(-1e6, 1e6))
def test_a_straight_line_is_found_with_certainty(per_s: float, start: float) -> None:
    slope = fit_slope(AT_S, [start + per_s * at for at in AT_S], block_s=60)
    assert slope.per_s == pytest.approx(per_s, abs=1e-6)
    assert slope.margin_per_s == pytest.approx(0, abs=1e-6)


def test_the_interval_holds_the_truth_about_as_often_as_it_says_though_readings_hang_together() -> None:
    rng, held, times = np.random.default_rng(0), 0, 400
    for _ in range(times):
        noise = np.convolve(rng.normal(size=len(AT_S) + 10), np.ones(10) / 10, mode="same")[: len(AT_S)]
        slope = fit_slope(AT_S, list(0.01 * np.array(AT_S) + noise), block_s=60)
        held += slope.low_per_s <= 0.01 <= slope.high_per_s
    assert 0.9 < held / times < 0.99


def test_too_few_blocks_are_sure_of_nothing() -> None:
    assert math.isinf(fit_slope([0, 1, 2], [1, 2, 3], block_s=60).margin_per_s)
    assert math.isinf(fit_slope([0, 70], [1, 2], block_s=60).margin_per_s)
