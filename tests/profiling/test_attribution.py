from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.profiling.assembly import attribute_energy

joules = st.floats(0, 1e6)
busy = st.lists(st.floats(0, 10), max_size=20)


@given(joules, st.floats(0, 100), st.floats(0, 1e3), busy)
def test_shares_and_idle_add_up_to_the_counter_and_none_is_negative(
    energy_j: float, duration_s: float, idle_w: float, busy_s: list[float]
) -> None:
    idle_j, shares_j = attribute_energy(energy_j, duration_s=duration_s, idle_w=idle_w, busy_s=busy_s)
    assert idle_j + math.fsum(shares_j) == pytest.approx(energy_j, rel=1e-9, abs=1e-9)
    assert len(shares_j) == len(busy_s)
    assert min(shares_j, default=0) >= 0
    assert idle_j >= 0


def test_what_is_above_idle_is_shared_by_busy_time() -> None:
    idle_j, shares_j = attribute_energy(100.0, duration_s=2.0, idle_w=20.0, busy_s=[0.5, 1.5])
    assert idle_j == 40.0
    assert shares_j == pytest.approx((15.0, 45.0))


@pytest.mark.parametrize("busy_s", [[], [0.0, 0.0]])
def test_a_window_in_which_nothing_ran_is_idle(busy_s: list[float]) -> None:
    assert attribute_energy(70.0, duration_s=2.0, idle_w=20.0, busy_s=busy_s)[0] == 70.0


def test_a_window_that_drew_less_than_idle_is_idle() -> None:
    idle_j, shares_j = attribute_energy(30.0, duration_s=2.0, idle_w=20.0, busy_s=[1.0])
    assert (idle_j, shares_j) == (30.0, (0.0,))
