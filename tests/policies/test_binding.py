"""Policies bound otherwise than they were written for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.decision import Dispatch, Hold, Reason
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, ObservingPolicy, Outcome, rebind
from orchestrator.policies.registry import policy_names
from orchestrator.policies.tables.memory import Memory
from orchestrator.snapshot import ServerName, Width
from tests.policies.test_policies import candidate, situation

BUSY = [candidate("a", completion_s=0.02, has_room=False), candidate("b", completion_s=0.05)]
WAITING = ("nexus", "control-limit")
LATE = [n for n in policy_names() if parse_policy(n).binding is Binding.LATE and n not in WAITING]
EARLY = [name for name in policy_names() if parse_policy(name).binding is Binding.EARLY]


@pytest.mark.parametrize("name", LATE)
def test_a_late_rule_bound_early_takes_the_server_that_it_would_wait_for(name: str) -> None:
    policy = rebind(parse_policy(name), Binding.EARLY)
    decision = policy.choose([BUSY[0]], situation())
    assert isinstance(decision, Dispatch)
    assert decision.candidate.server == "a"
    assert (policy.name, policy.binding) == (name, Binding.EARLY)


@pytest.mark.parametrize("name", WAITING)
def test_a_rule_that_waits_for_a_batch_does_so_bound_early(name: str) -> None:
    decision = rebind(parse_policy(name), Binding.EARLY).choose([BUSY[0]], situation())
    assert isinstance(decision, Hold)
    assert decision.reason is Reason.WAITS_FOR_BATCH


def test_what_a_policy_remembers_it_remembers_however_bound() -> None:
    policy, memory = rebind(parse_policy("clipper-aimd"), Binding.EARLY), Memory()
    assert isinstance(policy, ObservingPolicy)
    assert policy.is_observing
    for _ in range(3):
        decision = policy.choose([candidate("a", items=9)], replace(situation(), memory=memory))
        assert isinstance(decision, Dispatch)
        items = decision.candidate.items
        policy.observe(memory, Outcome(ServerName("a"), Width(100), items, 0.01, 0.01, 0.0, True, 0.0))
    assert items == 3
    assert not rebind(parse_policy("lert"), Binding.EARLY).is_observing  # type: ignore[attr-defined]


def test_least_completion_bound_early_counts_the_waiting() -> None:
    assert parse_policy("lert").choose(BUSY, situation()) == Hold(Reason.BETTER_SERVER_BUSY)
    decision = rebind(parse_policy("lert"), Binding.EARLY).choose(BUSY, situation())
    assert isinstance(decision, Dispatch)
    assert decision.candidate.server == "a"


@pytest.mark.parametrize("name", EARLY)
def test_an_early_rule_bound_late_sees_only_what_has_room(name: str) -> None:
    policy = rebind(parse_policy(name), Binding.LATE)
    for turn in range(3):
        decision = policy.choose(BUSY, situation(turn=turn, uniforms=(0.5, turn / 3)))
        assert isinstance(decision, Dispatch)
        assert decision.candidate.server == "b"
    assert policy.choose(BUSY[:1], situation()) == Hold(Reason.BETTER_SERVER_BUSY)
    assert policy.choose([], situation()) == Hold(Reason.NO_CANDIDATE)
    assert policy.binding is Binding.LATE


@pytest.mark.parametrize("name", policy_names())
def test_a_policy_bound_as_it_was_written_stays_as_it_is(name: str) -> None:
    policy = parse_policy(name)
    assert rebind(policy, policy.binding) is policy
