"""Leases on widths."""

from __future__ import annotations

import math

import pytest

from orchestrator.controller.demands import MAX_DEMANDS, MAX_HOLD_S, Demands
from orchestrator.errors import CapacityError, ConfigError
from orchestrator.snapshot import ModelName
from tests.controller.worlds import W025, W050


def test_a_lease_ends_at_its_time_and_not_before() -> None:
    demands = Demands().hold(W025, 10, now_s=5).hold(W050, 20, now_s=5)
    assert demands.at(14.9).until_s == {W025: 15, W050: 25}
    assert demands.at(15).until_s == {W050: 25}
    assert demands.at(25) == Demands()


def test_the_longer_lease_of_a_model_stands() -> None:
    demands = Demands().hold(W025, 100, now_s=0)
    assert demands.hold(W025, 10, now_s=50).until_s == {W025: 100}
    assert demands.hold(W025, 100, now_s=50).until_s == {W025: 150}


@pytest.mark.parametrize("hold_s", [0, -1, math.nan, math.inf, MAX_HOLD_S + 1])
def test_what_is_no_time_to_hold_is_refused(hold_s: float) -> None:
    with pytest.raises(ConfigError, match=r"fashion_w025 can't be held for .* s; ask for more than 0 and at most 3600"):
        Demands().hold(W025, hold_s, now_s=0)


def test_leases_are_bounded_and_make_room_when_they_end() -> None:
    demands = Demands()
    for number in range(MAX_DEMANDS):
        demands = demands.hold(ModelName(str(number)), 10, now_s=0)
    with pytest.raises(CapacityError, match="256 models are asked for already"):
        demands.hold(W025, 10, now_s=9)
    assert demands.hold(ModelName("0"), 20, now_s=9).until_s[ModelName("0")] == 29
    assert set(demands.hold(W025, 10, now_s=10).until_s) == {W025}
