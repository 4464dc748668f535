from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.policies.rules.joint.alert import slow_down
from tests.policies.cases import Asker, line_candidate

NARROW = line_candidate("a", 50, per_item_s=0.02)
WIDE = line_candidate("a", 100, per_item_s=0.04)


def test_one_measurement_corrects_every_width() -> None:
    asker = Asker("alert,sigmas=0")
    assert asker.choice([NARROW, WIDE], slack_s=0.05)[1] == 100
    asker.observe(width=50, expected_s=0.02, took_s=0.04)
    assert asker.choice([NARROW, WIDE], slack_s=0.05)[1] == 50


def test_the_filter_is_as_worked_by_hand() -> None:
    asker = Asker("alert")
    asker.observe(expected_s=0.1, took_s=0.2)
    gain = 0.2 / 0.21  # (P + Q)/(P + Q + R) of 0.1, 0.1 and 0.01
    mean, variance = slow_down(asker.memory.table("alert"))
    assert mean == pytest.approx(1 + gain)
    assert variance == pytest.approx((1 - gain) * 0.2)
    process = 0.7 * 0.1 + 0.3 * gain**2
    asker.observe(expected_s=0.1, took_s=0.2)
    following = (variance + process) / (variance + process + 0.01)
    assert slow_down(asker.memory.table("alert"))[0] == pytest.approx(mean + following * (2 - mean))


def test_the_filter_finds_a_slow_down_that_stays() -> None:
    asker = Asker("alert")
    for _ in range(200):
        asker.observe(expected_s=0.1, took_s=0.15)
    mean, variance = slow_down(asker.memory.table("alert"))
    assert mean == pytest.approx(1.5, abs=1e-3)
    assert variance < 0.01


def test_doubt_is_held_against_the_deadline() -> None:
    assert Asker("alert,sigmas=0").choice([NARROW, WIDE], slack_s=0.041)[1] == 100
    assert Asker("alert,sigmas=1").choice([NARROW, WIDE], slack_s=0.041)[1] == 50  # 1 + √0.1


def test_the_goal_may_be_energy() -> None:
    frugal = replace(NARROW, per_item_j=1.0, fixed_j=0.0)
    wide = replace(WIDE, per_item_j=3.0, fixed_j=0.0)
    decision = Asker("alert,goal=1").query([frugal, wide], slack_s=1.0)
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.width, decision.reason) == (50, Reason.LEAST_ENERGY)
    unknown = replace(frugal, per_item_j=None)
    assert Asker("alert,goal=1").choice([unknown, wide], slack_s=1.0)[1] == 100


def test_it_waits_for_what_is_in_time_and_else_drains() -> None:
    busy = line_candidate("b", 100, per_item_s=0.01, has_room=False)
    assert Asker("alert,sigmas=0").query([WIDE, busy], slack_s=0.03) == Hold(Reason.BETTER_SERVER_BUSY)
    late = Asker("alert,sigmas=0").query([WIDE], slack_s=0.03)
    assert isinstance(late, Dispatch)
    assert late.reason is Reason.NONE_IN_TIME
