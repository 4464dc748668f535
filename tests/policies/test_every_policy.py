"""What holds for every policy, whatever the fleet, the queue and the random numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, note, settings
from hypothesis import strategies as st

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason, Reject
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, Situation, is_sendable
from orchestrator.policies.registry import has_width_rule, policy_names
from orchestrator.profile.fit import LatencyTable
from orchestrator.snapshot import QueueState, ServerState
from tests.policies.fleets import build_candidates, fleets, queues

CENTRAL = ("slackfit", "slackfit-accuracy", "max-accuracy", "max-batch")
WIDTH_RULES = ("", ":random", ":widest", ":narrowest", ":slack", ":reserve", ":50")
CENTRAL_POLICIES = [parse_policy(name) for name in (*CENTRAL, "slackfit:1", "slackfit-accuracy:64")]
POLICIES = [
    *(parse_policy(f"{name}{width}") for name in policy_names() if has_width_rule(name) for width in WIDTH_RULES),
    *(parse_policy(name) for name in policy_names() if not has_width_rule(name) and name not in CENTRAL),
    *map(parse_policy, ("lert:brownout", "thrift:brownout")),
    *CENTRAL_POLICIES,
]
MARGIN = 1.25

situations = st.builds(
    lambda queue, turn, uniforms: Situation(queue, 0.0, turn, uniforms, MARGIN),
    queues(),
    st.integers(0, 10**6),
    st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
)
Fleet = tuple[list[ServerState], LatencyTable]


def candidates_of(fleet: Fleet, queue: QueueState) -> tuple[Candidate, ...]:
    servers, latency = fleet
    return build_candidates(servers, queue, latency, now_s=0.0, slack_margin=MARGIN)


@settings(deadline=None)
@given(fleets(), situations, st.randoms(use_true_random=False))
def test_a_decision_is_allowed_repeatable_and_blind_to_the_order_of_servers(
    fleet: Fleet, situation: Situation, shuffler: random.Random
) -> None:
    queue = situation.queue
    candidates = candidates_of(fleet, queue)
    servers = {s.name: s for s in fleet[0]}
    shuffled = list(fleet[0])
    shuffler.shuffle(shuffled)
    as_shuffled = candidates_of((shuffled, fleet[1]), queue)
    for policy in POLICIES:
        decision = policy.choose(candidates, situation)
        note(f"{policy.name}: {decision}")
        if isinstance(decision, Dispatch):
            choice = decision.candidate
            assert is_sendable(choice, candidates, queue)
            if not policy.name.startswith("thrift"):  # which takes full batches to drain a queue
                offered = {(c.server, c.width): c.items for c in candidates}
                assert choice.items <= offered[choice.server, choice.width]
            assert choice.has_room or policy.binding is Binding.EARLY
            assert choice.width in queue.allowed_widths
            assert choice.accuracy >= queue.min_accuracy
            assert servers[choice.server].healthy
            assert choice.width in {m.width for m in servers[choice.server].models}
        elif candidates:
            assert policy.binding is Binding.LATE
            assert_is_no_stall(decision, candidates, situation)
        else:
            assert decision == Hold(Reason.NO_CANDIDATE)
        assert parse_policy(policy.name).choose(candidates, situation) == decision
        assert policy.choose(as_shuffled, situation) == decision


def assert_is_no_stall(decision: Decision, candidates: Sequence[Candidate], situation: Situation) -> None:
    """Hold only for a server that has work, so that its answer comes, or until a time at which the head may be due."""
    if isinstance(decision, Reject):
        assert decision.reason is Reason.CANT_BE_IN_TIME
    elif isinstance(decision, Hold) and decision.reason is Reason.WAITS_FOR_BATCH:
        assert decision.until_s is not None
        assert situation.now_s < decision.until_s <= situation.queue.head_deadline_s
    elif isinstance(decision, Hold) and decision.until_s is not None:
        assert decision.reason is Reason.BETTER_SERVER_BUSY
        assert situation.now_s < decision.until_s < situation.now_s + max(c.wait_s for c in candidates)
    else:
        assert decision == Hold(Reason.BETTER_SERVER_BUSY)
        assert not all(c.has_room for c in candidates)


@settings(deadline=None)
@given(fleets(), situations)
def test_central_policies_are_in_time_when_anything_is(fleet: Fleet, situation: Situation) -> None:
    candidates = candidates_of(fleet, situation.queue)
    timely = [c for c in candidates if situation.is_in_time(c)]
    for policy in CENTRAL_POLICIES:
        decision = policy.choose(candidates, situation)
        note(f"{policy.name}: {decision}")
        if any(c.has_room for c in timely):
            assert isinstance(decision, Dispatch)
            assert situation.is_in_time(decision.candidate)
            assert decision.reason is not Reason.NONE_IN_TIME
        elif timely:
            assert decision == Hold(Reason.BETTER_SERVER_BUSY)
        elif isinstance(decision, Dispatch):
            assert decision.reason is Reason.NONE_IN_TIME


@settings(deadline=None)
@given(fleets(), situations)
def test_the_slack_rule_is_in_time_when_a_width_is_for_head_and_queue(fleet: Fleet, situation: Situation) -> None:
    candidates = candidates_of(fleet, situation.queue)
    tail_slack_s = situation.queue.tail_deadline_s - situation.now_s
    timely = [c for c in candidates if situation.is_in_time(c) and c.drain_s * MARGIN <= tail_slack_s]
    for policy in POLICIES:
        # lect believes other times than those of the candidates; test_policies has a case of its own.
        if not policy.name.endswith(":slack") or policy.name.startswith("lect"):
            continue
        decision = policy.choose(candidates, situation)
        note(f"{policy.name}: {decision}")
        if timely and isinstance(decision, Dispatch):
            keys = {(c.server, c.width): c for c in timely}
            choice = decision.candidate
            assert keys[choice.server, choice.width].with_items(choice.items) == choice
            assert decision.candidate.width == max(c.width for c in timely)


@settings(deadline=None)
@given(fleets(), queues())
def test_a_smaller_batch_is_expected_as_if_it_had_been_built_so(fleet: Fleet, queue: QueueState) -> None:
    for candidate in candidates_of(fleet, queue):
        assert candidate.with_items(candidate.items) == candidate
        assert candidate.with_items(queue.head_items).completion_s == candidate.head_completion_s
