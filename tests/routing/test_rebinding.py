"""Policies bound otherwise than they were written for."""

from __future__ import annotations

import pytest

from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.routing import Binding, parse_policy, policy_names, rebind
from tests.routing.test_policies import candidate, situation

BUSY = [candidate("a", completion_s=0.02, has_room=False), candidate("b", completion_s=0.05)]
LATE = [name for name in policy_names() if parse_policy(name).binding is Binding.LATE]
EARLY = [name for name in policy_names() if parse_policy(name).binding is Binding.EARLY]


@pytest.mark.parametrize("name", LATE)
def test_a_late_rule_bound_early_takes_the_server_that_it_would_wait_for(name: str) -> None:
    policy = rebind(parse_policy(name), Binding.EARLY)
    decision = policy.choose([BUSY[0]], situation())
    assert isinstance(decision, Dispatch)
    assert decision.candidate.server == "a"
    assert (policy.name, policy.binding) == (name, Binding.EARLY)


def test_least_completion_bound_early_counts_the_waiting() -> None:
    assert parse_policy("lert").choose(BUSY, situation()) == Hold(Reason.BETTER_SERVER_BUSY)
    decision = rebind(parse_policy("lert"), Binding.EARLY).choose(BUSY, situation())
    assert isinstance(decision, Dispatch)
    assert decision.candidate.server == "a"


@pytest.mark.parametrize("name", EARLY)
def test_an_early_rule_bound_late_sees_only_what_has_room(name: str) -> None:
    policy = rebind(parse_policy(name), Binding.LATE)
    for turn in range(3):
        decision = policy.choose(BUSY, situation(turn=turn, lots=(0.5, turn / 3)))
        assert isinstance(decision, Dispatch)
        assert decision.candidate.server == "b"
    assert policy.choose(BUSY[:1], situation()) == Hold(Reason.BETTER_SERVER_BUSY)
    assert policy.choose([], situation()) == Hold(Reason.NO_CANDIDATE)
    assert policy.binding is Binding.LATE


@pytest.mark.parametrize("name", policy_names())
def test_a_policy_bound_as_it_was_written_stays_as_it_is(name: str) -> None:
    policy = parse_policy(name)
    assert rebind(policy, policy.binding) is policy
