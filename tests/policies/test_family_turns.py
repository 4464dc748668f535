"""Whose turn it is among families."""

from __future__ import annotations

import math
import random

import pytest

from orchestrator.policies.family_turns import LEAD_S, LONGEST_PART, FamilyTurns
from orchestrator.snapshot import Family

CATS, DOGS = Family("cats"), Family("dogs")
BOTH = {CATS, DOGS}


def serve(turns: FamilyTurns, seconds: float, run_s: float = 0.02, prefers: Family = CATS) -> dict[Family, float]:
    """Return how many seconds each family gets of one server while both wait all the time and one is due first."""
    got = dict.fromkeys(BOTH, 0.0)
    while sum(got.values()) < seconds:
        leading = turns.leading(BOTH)
        family = min(BOTH, key=lambda f: (f in leading, f != prefers))
        turns.charge(family, run_s, 0.1, now_s=sum(got.values()))
        got[family] += run_s
    return got


def test_who_is_always_due_first_gets_no_more_than_half() -> None:
    got = serve(FamilyTurns(), 10.0)
    assert got[CATS] == pytest.approx(got[DOGS], abs=0.05)


def test_weights_are_kept() -> None:
    got = serve(FamilyTurns({"dogs": 3.0}), 10.0)
    assert got[DOGS] / got[CATS] == pytest.approx(3.0, rel=0.02)


def test_within_the_lead_deadlines_decide() -> None:
    turns = FamilyTurns()
    assert turns.leading(BOTH) == frozenset()
    turns.charge(CATS, LEAD_S, 0.1, now_s=0.0)
    assert turns.leading(BOTH) == frozenset()
    turns.charge(CATS, 0.001, 0.1, now_s=0.0)
    assert turns.leading(BOTH) == {CATS}
    assert turns.leading({CATS}) == frozenset(), "who waits alone leads nobody"


def test_nobody_saves_up_and_nobody_owes() -> None:
    turns, now_s = FamilyTurns(), 0.0
    for _ in range(500):  # cats alone
        turns.leading({CATS})
        turns.charge(CATS, 0.02, 0.1, now_s=now_s)
        now_s += 0.02
    got = serve(turns, 2.0)
    assert got[CATS] == pytest.approx(1.0, abs=0.05), "dogs have no claim to what they did not use"


def test_who_has_more_than_its_share_may_hold_up_others_for_a_part_of_their_time() -> None:
    turns = FamilyTurns()
    for step in range(100):  # cats have 1.5 servers of 2, dogs 0.2
        turns.charge(CATS, 0.15, 0.1, now_s=step / 10)
        turns.charge(DOGS, 0.02, 0.08, now_s=step / 10)
    assert turns.fair_share(CATS, 2, now_s=10.0).longest_run_s == pytest.approx(LONGEST_PART * 0.08)
    assert turns.fair_share(DOGS, 2, now_s=10.0).longest_run_s == math.inf
    assert turns.fair_share(CATS, 4, now_s=10.0).longest_run_s == math.inf, "of four servers that is not more than half"
    assert turns.fair_share(CATS, 2, now_s=30.0).longest_run_s == math.inf, "nobody else has used any lately"


def test_who_has_far_more_time_than_another_may_hold_it_up_for_a_part_of_its_time_within_its_share_too() -> None:
    turns = FamilyTurns()
    turns.charge(CATS, 0.1, 2.0, now_s=0.0)
    turns.charge(DOGS, 0.1, 0.08, now_s=0.0)
    assert turns.fair_share(CATS, 2, now_s=0.0).longest_run_s == pytest.approx(LONGEST_PART * 0.08)
    assert turns.fair_share(DOGS, 2, now_s=0.0).longest_run_s == math.inf
    assert turns.fair_share(CATS, 2, now_s=30.0).longest_run_s == math.inf, "nobody else has used any lately"


def test_a_family_counts_on_its_weight_s_part_of_the_servers_and_on_what_others_leave() -> None:
    turns = FamilyTurns({"cats": 3.0})
    for step in range(1001):  # cats have 1.5 servers of 2, dogs 0.2
        turns.charge(CATS, 0.015, 0.1, now_s=step / 100)
        turns.charge(DOGS, 0.002, 0.08, now_s=step / 100)
    assert turns.fair_share(CATS, 2, now_s=10.0).share == pytest.approx(0.9, abs=0.02), "what dogs leave"
    assert turns.fair_share(DOGS, 2, now_s=10.0).share == pytest.approx(0.25, abs=0.02), "its weight's part"
    assert turns.fair_share(DOGS, 8, now_s=10.0).share == pytest.approx(0.81, abs=0.03), "what cats leave of eight"
    assert turns.fair_share(DOGS, 0, now_s=10.0).share == 0.25, "of servers that others drive"
    assert turns.fair_share(DOGS, 2, now_s=30.0).share == 1.0, "nobody else has used any lately"
    assert FamilyTurns().fair_share(CATS, 2, now_s=0.0).share == 1.0


def test_a_family_that_is_alone_is_never_held_back() -> None:
    turns, uniforms = FamilyTurns({"cats": 0.1}), random.Random(1)
    for step in range(200):
        assert turns.leading({CATS}) == frozenset()
        turns.charge(CATS, uniforms.uniform(0.01, 1), 0.1, now_s=step / 50)
        assert turns.fair_share(CATS, 1, now_s=step / 50).longest_run_s == math.inf
