from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.fleet.qualities import relative_qualities

QUALITIES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=6)


@given(QUALITIES)
def test_qualities_of_any_scale_are_ratios_in_the_same_order(qualities: list[float]) -> None:
    relative = relative_qualities(qualities)
    seen = [relative[quality] for quality in sorted(set(qualities))]
    assert all(0 <= value <= 1 for value in seen)
    assert seen == sorted(seen)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_ratios_are_left_as_they_are(qualities: list[float]) -> None:
    assert all(quality == seen for quality, seen in relative_qualities(qualities).items())


@pytest.mark.parametrize(
    ("qualities", "seen"),
    [
        ([37.0, 45.0, 50.0], [0.74, 0.9, 1.0]),
        ([-0.3, -0.2], [0.6666667, 1.0]),
        ([-5.0, 5.0], [0.0, 1.0]),
        ([91.0, 91.1], [0.9989023, 1.0]),
    ],
)
def test_points_and_errors_keep_what_they_gain_in_parts_of_their_scale(
    qualities: list[float], seen: list[float]
) -> None:
    assert list(relative_qualities(qualities).values()) == pytest.approx(seen)
