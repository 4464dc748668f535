"""Of all answers as many come within the margin as are promised, whatever the answers do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.profile.margin import (
    CONFIDENCE,
    FORGET_S,
    Margin,
    first_margin,
    margin_ratio,
    observed_margin,
    recent_ratio,
    remembered_margin,
)

Ratios = NDArray[np.float64]
WINDOW = 200
ALLOWED = 0.02


def follow(ratios: Sequence[float] | Ratios, prior: float = 1.25) -> tuple[NDArray[np.bool_], float]:
    """Return which answers came within the margin that was allowed when they were sent, and the margin at the end."""
    margin, within = first_margin(prior, 0.0), []
    for ratio in ratios:
        allowed = margin_ratio(margin)
        within.append(ratio <= allowed)
        margin = observed_margin(margin, float(ratio), allowed, 0.0)
    return np.array(within), margin_ratio(margin)


def _quiet(random: np.random.Generator) -> Ratios:
    return np.exp(random.normal(0, 0.03, 3000))


def _heavy_tails(random: np.random.Generator) -> Ratios:
    return np.exp(0.08 * random.standard_t(2, 3000))


def _stalls(random: np.random.Generator) -> Ratios:
    return np.exp(random.normal(0, 0.05, 3000) + (random.random(3000) < 0.03) * random.exponential(1.5, 3000))


def _throttled(random: np.random.Generator) -> Ratios:
    """A server becomes three times slower and recovers; what is expected follows as a fit does."""
    slow = np.r_[np.ones(1000), np.full(1000, 3.0), np.ones(1000)] * np.exp(random.normal(0, 0.1, 3000))
    expected_s, ratios = 1.0, []
    for took_s in slow:
        ratios.append(took_s / expected_s)
        expected_s = 0.95 * expected_s + 0.05 * min(took_s, 3 * expected_s)
    return np.array(ratios)


def _hog_comes_and_goes(random: np.random.Generator) -> Ratios:
    is_busy = (np.arange(3000) // 500) % 2 == 1
    return np.exp(np.where(is_busy, random.normal(0.3, 0.3, 3000), random.normal(0, 0.05, 3000)))


def _one_like_the_last(random: np.random.Generator) -> Ratios:
    scores = [0.0]
    for step in random.normal(0, 0.1, 2999):
        scores.append(0.9 * scores[-1] + step)
    return np.exp(np.array(scores))


@pytest.mark.parametrize("draw", [_quiet, _heavy_tails, _stalls, _throttled, _hog_comes_and_goes, _one_like_the_last])
def test_the_promised_share_is_within_the_margin_in_every_two_hundred_answers(
    draw: Callable[[np.random.Generator], Ratios],
) -> None:
    shares = []
    for seed in range(5):
        within, _ = follow(draw(np.random.default_rng(seed)))
        shares.append(np.convolve(within, np.ones(WINDOW) / WINDOW, "valid"))
    assert abs(np.mean(shares) - CONFIDENCE) < 0.005
    assert np.mean(np.abs(np.concatenate(shares) - CONFIDENCE) <= ALLOWED + 1e-9) > 0.9


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=400))
def test_misses_are_bounded_whatever_comes(ratios: list[float]) -> None:
    within, margin = follow(ratios)
    # Each miss raises the number of deviations by STEP · CONFIDENCE, and that is bounded; the margin is, too.
    assert 0.5 <= margin <= 20.0
    if max(ratios) <= 20.0:
        assert len(within) - within.sum() <= (1 - CONFIDENCE) * len(within) + 22 / 0.5 + 1


def test_a_quiet_server_needs_less_than_the_settings_say_and_a_noisy_one_more() -> None:
    random = np.random.default_rng(0)
    assert follow(_quiet(random))[1] < 1.15
    assert follow(_heavy_tails(random))[1] > 1.15


def test_the_first_margin_is_the_one_of_the_settings() -> None:
    assert margin_ratio(first_margin(1.25, 0.0)) == pytest.approx(1.25)
    assert margin_ratio(first_margin(1.0, 0.0)) == pytest.approx(1.0, abs=0.03)
    assert recent_ratio(math.nan, 0.0, 1.25, 100.0) == 1.25


def test_what_was_observed_long_ago_counts_little() -> None:
    assert recent_ratio(4.0, 10.0, 1.25, 10.0) == 4.0
    assert recent_ratio(4.0, 10.0, 1.25, 10.0 + FORGET_S) == pytest.approx((4.0 + 1.25) / 2)
    assert recent_ratio(4.0, 10.0, 1.25, 1e6) == pytest.approx(1.25, abs=0.001)


@given(st.floats(-3, 3), st.floats(0.01, 3), st.floats(-2, 20), st.floats(0, 1000), st.floats(1, 10))
def test_an_answer_after_a_long_silence_counts_what_was_before_it_less(
    mean: float, deviation: float, deviations: float, idle_s: float, prior: float
) -> None:
    margin, first = Margin(mean, deviation, deviations, 5.0), first_margin(prior, 5.0 + idle_s)
    remembered = remembered_margin(margin, first)
    if idle_s <= FORGET_S:
        assert remembered == margin
        return
    assert remembered.observed_s == first.observed_s
    for part, known, begun in zip(remembered[:3], margin, first, strict=False):
        assert abs(part - begun) <= abs(known - begun) * FORGET_S / idle_s + 1e-9


def test_an_answer_a_minute_brings_a_margin_back_within_minutes() -> None:
    margin = Margin(1.5, 0.5, 8.0, 0.0)
    assert margin_ratio(margin) == 20.0
    for now_s in (60.0, 120.0, 180.0):
        allowed = recent_ratio(margin_ratio(margin), margin.observed_s, 1.25, now_s)
        margin = observed_margin(remembered_margin(margin, first_margin(1.25, now_s)), 1.0, allowed, now_s)
    assert margin_ratio(margin) <= 1.5
