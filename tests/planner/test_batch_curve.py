from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planner.state import CLASS_MEMORY_S, BatchCurve

durations = st.floats(1e-4, 0.1)
observations = st.lists(st.tuples(st.floats(1, 128), durations), min_size=1, max_size=30)


def curve_of(seen: list[tuple[float, float]], *, step_s: float = 1.0) -> BatchCurve:
    curve = BatchCurve()
    for index, (items, run_s) in enumerate(seen):
        curve = curve.observe(items, run_s, now_s=index * step_s)
    return curve


def test_nothing_seen_has_no_line() -> None:
    assert BatchCurve().line() is None


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 64), st.lists(st.floats(1, 1.22), min_size=1, max_size=20), durations)
def test_sizes_that_are_all_about_the_same_say_nothing(size: float, factors: list[float], run_s: float) -> None:
    assert curve_of([(size * factor, run_s) for factor in factors]).line() is None


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(1, 128), min_size=2, max_size=30).filter(lambda ns: max(ns) > 3 * min(ns)), durations, durations
)
def test_a_straight_line_is_found_whatever_the_sizes(sizes: list[float], per_item_s: float, batch_s: float) -> None:
    """Means of points on a line lie on the line, so a class may mix sizes."""
    line = curve_of([(n, per_item_s * n + batch_s) for n in sizes]).line()
    if line is not None:  # means of two classes may still come too close
        assert line == pytest.approx((per_item_s, batch_s), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("sizes", [(1, 8), (1, 2), (4, 32), (1, 2, 4, 8, 16)])
def test_two_clearly_different_sizes_are_enough(sizes: tuple[int, ...]) -> None:
    assert curve_of([(n, 0.001 * n + 0.004) for n in sizes]).line() == pytest.approx((0.001, 0.004))


def test_the_fixed_part_is_remembered_when_all_batches_have_become_large() -> None:
    seen = [(1, 0.005), (2, 0.006)] + [(16, 0.020)] * 300
    assert curve_of(seen).line() == pytest.approx((0.001, 0.004))


def test_a_size_not_seen_for_long_is_forgotten() -> None:
    small = BatchCurve().observe(1, 0.005, now_s=0.0)
    assert small.observe(16, 0.020, now_s=CLASS_MEMORY_S).line() == pytest.approx((0.001, 0.004))
    assert small.observe(16, 0.020, now_s=CLASS_MEMORY_S + 1).line() is None


def test_a_machine_that_became_slower_is_noticed() -> None:
    before = [(n, 0.001 * n + 0.004) for n in (1, 8)] * 20
    after = [(n, 0.002 * n + 0.008) for n in (1, 8)] * 20
    assert curve_of(before + after).line() == pytest.approx((0.002, 0.008), rel=0.02)


@settings(deadline=None, max_examples=100)
@given(observations)
def test_neither_part_is_ever_negative_and_both_stay_in_reach_of_what_was_seen(
    seen: list[tuple[float, float]],
) -> None:
    line = curve_of(seen).line()
    if line is not None:
        per_item_s, batch_s = line
        assert per_item_s >= 0
        assert batch_s >= 0
        assert batch_s <= max(run_s for _, run_s in seen) * (1 + 1e-9)


@settings(deadline=None, max_examples=50)
@given(observations)
def test_a_class_is_as_young_as_its_last_window_and_within_what_it_saw(seen: list[tuple[float, float]]) -> None:
    curve = curve_of(seen)
    for kept in curve.classes.values():
        items, run_s = seen[int(kept.seen_s)]
        assert min(n for n, _ in seen) * (1 - 1e-9) <= kept.items <= max(n for n, _ in seen) * (1 + 1e-9)
        assert min(s for _, s in seen) * (1 - 1e-9) <= kept.run_s <= max(s for _, s in seen) * (1 + 1e-9)
        # The newest window counts a fifth at least.
        assert abs(kept.items - items) <= 0.8 * 128
        assert abs(kept.run_s - run_s) <= 0.8 * 0.1


def test_nothing_is_changed_in_place() -> None:
    curve = BatchCurve().observe(1, 0.005, now_s=0.0)
    curve.observe(1, 0.5, now_s=1.0)
    curve.observe(8, 0.5, now_s=1e6)
    assert curve == BatchCurve().observe(1, 0.005, now_s=0.0)
