"""What a policy may decide, and when it is not asked any more."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decision import Dispatch, Hold, Reason, Reject
from orchestrator.policies.circuit_breaker import Breaker, Fault, find_fault
from orchestrator.policies.protocol import Binding
from tests.policies.test_policies import candidate, situation

FREE, FULL = candidate("a", items=4), candidate("b", has_room=False)
HOLD = Hold(Reason.BETTER_SERVER_BUSY)


def fault(
    decision: object, *, binding: Binding = Binding.LATE, is_idle: bool = False, some: bool = True
) -> Fault | None:
    return find_fault(decision, [FREE, FULL] if some else [], situation(), binding=binding, is_idle=is_idle)


def test_what_was_offered_may_be_chosen_with_a_smaller_batch_too() -> None:
    assert fault(Dispatch(FREE, Reason.DRAWN)) is None
    assert fault(Dispatch(FREE.with_items(1), Reason.DRAWN)) is None
    assert fault(Reject(Reason.NONE_IN_TIME)) is None
    assert fault(HOLD) is None


def test_a_fuller_batch_of_what_waits_may_be_chosen() -> None:
    """By a policy that gives up the head's deadline to drain the queue."""
    usual = situation()
    waiting = replace(usual, queue=replace(usual.queue, items=40))
    for items, expected in ((5, None), (32, None), (33, Fault.NOT_OFFERED)):
        chosen = Dispatch(FREE.with_items(items), Reason.DRAWN)
        assert find_fault(chosen, [FREE], waiting, binding=Binding.LATE, is_idle=False) is expected
    few = replace(usual, queue=replace(usual.queue, items=6))
    chosen = Dispatch(FREE.with_items(7), Reason.DRAWN)
    assert find_fault(chosen, [FREE], few, binding=Binding.LATE, is_idle=False) is Fault.NOT_OFFERED


@pytest.mark.parametrize(
    "decision",
    [
        None,
        "a",
        Dispatch(replace(FREE, items=5), Reason.DRAWN),
        Dispatch(replace(FREE, items=0), Reason.DRAWN),
        Dispatch(candidate("c"), Reason.DRAWN),
        Dispatch(candidate("a", 50), Reason.DRAWN),
        Dispatch(None, Reason.DRAWN),  # type: ignore[arg-type]
        Dispatch(FULL, Reason.DRAWN),
        Dispatch(replace(FULL, has_room=True), Reason.DRAWN),
        Dispatch(FREE, "because"),  # type: ignore[arg-type]
        Hold(object()),  # type: ignore[arg-type]
        Reject(None),  # type: ignore[arg-type]
    ],
)
def test_what_was_not_offered_is_a_fault(decision: object) -> None:
    assert fault(decision) is Fault.NOT_OFFERED


def test_early_binding_needs_no_room() -> None:
    assert fault(Dispatch(FULL, Reason.DRAWN), binding=Binding.EARLY) is None


def test_holding_while_nothing_is_under_way_is_a_fault_unless_it_ends_before_the_head_is_due() -> None:
    assert fault(HOLD, is_idle=True) is Fault.STARVING
    assert fault(HOLD, is_idle=True, some=False) is None  # there is nothing to choose
    for until_s in (math.nan, -1.0, 0.0, 0.11, math.inf):
        assert fault(Hold(Reason.BETTER_SERVER_BUSY, until_s), is_idle=True) is Fault.STARVING
    assert fault(Hold(Reason.BETTER_SERVER_BUSY, 0.05), is_idle=True) is None


LIMITS = {"limit": 3, "window_s": 10.0, "pause_s": 30.0}


def test_the_breaker_opens_after_repeated_faults_and_tries_again() -> None:
    breaker = Breaker()
    for now_s in (0.0, 1.0):
        breaker = breaker.failed(now_s, **LIMITS)
        assert not breaker.is_open(now_s)
    breaker = breaker.worked()  # between faults, which is no excuse
    breaker = breaker.failed(2.0, **LIMITS)
    assert breaker.is_open(2.0)
    assert breaker.is_open(31.9)
    assert not breaker.is_open(32.0)
    assert breaker.failed(33.0, **LIMITS).is_open(62.9)  # the trial failed
    closed = breaker.worked()
    assert not closed.failed(33.0, **LIMITS).is_open(33.0)


def test_faults_far_apart_open_nothing() -> None:
    breaker = Breaker()
    for n in range(20):
        breaker = breaker.failed(n * 6.0, **LIMITS).worked()
        assert not breaker.is_open(n * 6.0)


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 20)), max_size=60))
def test_the_breaker_is_never_open_for_longer_than_its_pause_without_a_new_fault(
    steps: list[tuple[bool, float]],
) -> None:
    breaker, now_s, last_fault_s = Breaker(), 0.0, -math.inf
    for is_fault, pause_s in steps:
        now_s += pause_s
        if breaker.is_open(now_s):
            assert now_s < last_fault_s + 30.0
        elif is_fault:
            breaker, last_fault_s = breaker.failed(now_s, **LIMITS), now_s
        else:
            breaker = breaker.worked()
