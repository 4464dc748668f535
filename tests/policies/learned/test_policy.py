"""What a learned policy decides: at first what its base does, later what its weights say, and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings

from orchestrator.decision import Decision, Dispatch, Hold, Reason, Reject
from orchestrator.errors import ConfigError, UntrustedError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, BATCHES, FIRST_SEND, HOLD_ACTION
from orchestrator.policies.learned.network import (
    HIDDEN,
    HIDDEN_LINES,
    best_action,
    pack,
    score,
    untrained,
)
from orchestrator.policies.learned.paper import paper_shapes
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PolicyFile
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.tables.compiled import new_column, new_table
from orchestrator.policies.tables.memory import Memory
from orchestrator.snapshot import QueueState, ServerName, Width
from tests.policies.fleets import fleets
from tests.policies.learned.views import numpy_scores
from tests.policies.test_every_policy import Fleet, candidates_of, situations
from tests.policies.test_policies import candidate

WITH_MARGIN = "thrift,slack_margin=1.4"
BASES = (
    "lert:slack",
    "lert:narrowest",
    "thrift",
    WITH_MARGIN,
    "slackfit",
    "slackfit-accuracy",
    "max-accuracy",
    "max-batch",
    "nexus",
)


def slim(base: str = "lert:slack", **values: object) -> PolicyFile:
    ranges = {
        "low": np.full(feat.FEATURES + feat.CONTEXT, -1, np.float32),
        "high": np.ones(feat.FEATURES + feat.CONTEXT, np.float32),
    }
    return replace(PolicyFile("ppo-slim", base, untrained(), **ranges), **values)  # type: ignore[arg-type]


def same(one: Decision, other: Decision) -> bool:
    """Whether two decisions do the same, whatever their reasons."""
    if isinstance(one, Dispatch) and isinstance(other, Dispatch):
        return one.candidate == other.candidate
    if isinstance(one, Reject):
        return isinstance(other, Reject)
    return isinstance(one, Hold) and isinstance(other, Hold) and one.until_s == other.until_s


@pytest.mark.parametrize("base", BASES)
def test_an_untrained_policy_is_its_base(base: str) -> None:
    policy, rule = LearnedPolicy(slim(base)), parse_policy(base)

    @settings(deadline=None, max_examples=40)
    @given(fleets(), situations)
    def check(fleet: Fleet, situation: Situation) -> None:
        candidates = candidates_of(fleet, situation.queue)
        assert same(policy.choose(candidates, situation), rule.choose(candidates, situation))

    check()


@settings(deadline=None, max_examples=40)
@given(fleets(), situations)
def test_a_base_with_a_margin_of_its_own_goes_by_that_whatever_was_learned_of_servers(
    fleet: Fleet, situation: Situation
) -> None:
    policy, rule = LearnedPolicy(slim(WITH_MARGIN)), parse_policy(WITH_MARGIN)
    candidates = candidates_of(fleet, situation.queue)
    learned = [replace(each, margin=5.0) for each in candidates]
    assert same(policy.choose(learned, situation), policy.choose(candidates, situation))
    assert same(policy.choose(learned, situation), rule.choose(learned, situation))


def trained(seed: int = 1) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    rng = np.random.default_rng(seed)
    return {n: (w + 0.3 * rng.standard_normal(w.shape)).astype(np.float32) for n, w in untrained(seed).items()}


@settings(deadline=None, max_examples=60)
@given(fleets(), situations)
def test_whatever_the_weights_only_what_has_room_is_sent(fleet: Fleet, situation: Situation) -> None:
    candidates = candidates_of(fleet, situation.queue)
    decision = LearnedPolicy(slim(weights=trained(), strength=0.0)).choose(candidates, situation)
    if isinstance(decision, Dispatch):
        assert decision.candidate.has_room
        assert decision.reason is Reason.HIGHEST_SCORE
    elif isinstance(decision, Hold) and decision.until_s is not None:
        assert situation.now_s < decision.until_s <= situation.queue.head_deadline_s


def test_the_compiled_network_computes_what_numpy_does() -> None:
    rng = np.random.default_rng(3)
    params = pack(trained())
    for considered in (0, 1, 16, feat.ROWS):
        lines, context = new_table(feat.ROWS, feat.FEATURES), new_column(feat.CONTEXT)
        for line in range(considered):
            for feature in range(feat.FEATURES):
                lines[line][feature] = rng.uniform(-1, 1)
        for place in range(feat.CONTEXT):
            context[place] = rng.uniform(-1, 1)
        found = new_column(ACTIONS)
        hidden = np.zeros((HIDDEN_LINES, HIDDEN), np.float32)
        score(lines, considered, context, params, 5.0, hidden, found)
        expected = numpy_scores(trained(), lines[:considered], context, 5.0)
        np.testing.assert_allclose(found, expected, atol=2e-5)
        assert np.abs(np.array(found)).max() > 0.1


def test_the_order_of_servers_does_not_matter_to_the_scores() -> None:
    rng = np.random.default_rng(4)
    params, context, hidden = pack(trained()), new_column(feat.CONTEXT), np.zeros((HIDDEN_LINES, HIDDEN), np.float32)
    values = rng.uniform(-1, 1, (12, feat.FEATURES))
    scores = []
    order = rng.permutation(12)
    for arranged in (values, values[order]):
        lines, found = new_table(feat.ROWS, feat.FEATURES), new_column(ACTIONS)
        for line in range(12):
            for feature in range(feat.FEATURES):
                lines[line][feature] = arranged[line][feature]
        score(lines, 12, context, params, 5.0, hidden, found)
        scores.append(np.array(found))
    sent = [found[FIRST_SEND : FIRST_SEND + BATCHES * 12].reshape(12, BATCHES) for found in scores]
    np.testing.assert_allclose(sent[0][order], sent[1], atol=1e-5)
    np.testing.assert_allclose(scores[0][:FIRST_SEND], scores[1][:FIRST_SEND], atol=1e-5)


def test_the_first_of_equal_scores_is_taken_and_only_what_is_allowed() -> None:
    scores, mask = new_column(ACTIONS), new_column(ACTIONS)
    scores[4], scores[5], scores[7], scores[12] = 9.0, 1.0, 1.0, 5.0
    mask[5] = mask[7] = mask[12] = mask[HOLD_ACTION] = 1
    assert best_action(scores, mask, 4) == 5  # the line of action 12 is not used
    scores[HOLD_ACTION] = 1.0
    assert best_action(scores, mask, 4) == HOLD_ACTION
    mask[HOLD_ACTION] = 0
    assert best_action(scores, mask, 5) == 12
    mask[5] = mask[7] = mask[12] = 0
    assert best_action(scores, mask, 4) == HOLD_ACTION


def two_choices() -> tuple[list[object], Situation]:
    wide = candidate("a", 100, accuracy=0.95, completion_s=0.05)
    candidates = [candidate("a", 25, accuracy=0.7), wide, candidate("b", 25, accuracy=0.7)]
    queue = QueueState(40, 1, 0.1, 0.1, (Width(25), Width(100)))
    return candidates, Situation(queue, 0.0, 0, (0.0, 0.0), 1.0)  # type: ignore[return-value]


def test_what_training_has_not_seen_is_not_decided() -> None:
    candidates, situation = two_choices()
    low = np.full(feat.FEATURES + feat.CONTEXT, -1, np.float32)
    high = np.ones(feat.FEATURES + feat.CONTEXT, np.float32)
    high[feat.FEATURES] = 0.001  # so long a queue
    with pytest.raises(UntrustedError, match=r"queue lies outside of -1 to 0.001"):
        LearnedPolicy(slim(low=low, high=high)).choose(candidates, situation)  # type: ignore[arg-type]
    high[feat.FEATURES] = 0.26  # within the tolerance of 0.05
    LearnedPolicy(slim(low=low, high=high)).choose(candidates, situation)  # type: ignore[arg-type]


def test_the_scale_of_qualities_is_decided_as_the_nearest_that_training_has_seen_and_another_price_is_not() -> None:
    candidates, situation = two_choices()
    low, high = np.full(feat.FEATURES + feat.CONTEXT, -1, np.float32), np.ones(feat.FEATURES + feat.CONTEXT, np.float32)
    low[feat.ACCURACY], high[feat.ACCURACY] = 0.8, 0.85  # qualities are 0.7 and 0.95
    high[feat.FEATURES + feat.CONTEXT_ACCURACY_SPREAD] = 0.05
    assert isinstance(LearnedPolicy(slim(low=low, high=high)).choose(candidates, situation), Dispatch)  # type: ignore[arg-type]
    # Nor does what waits in other queues, which a fit to one family has never seen.
    others = replace(situation, queue=replace(situation.queue, other_queues=3, other_items=50))
    high[feat.FEATURES + feat.CONTEXT_CLASSES] = high[feat.FEATURES + feat.CONTEXT_OTHERS] = 0.0
    assert isinstance(LearnedPolicy(slim(low=low, high=high)).choose(candidates, others), Dispatch)  # type: ignore[arg-type]
    low[feat.FEATURES + feat.CONTEXT_PREFER_ENERGY] = 0.7  # that of families of 0.05 of spread
    with pytest.raises(UntrustedError, match="prefer_energy lies outside"):
        LearnedPolicy(slim(low=low, high=high)).choose(candidates, situation)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", ["jsq", "lect", "nonsense"])
def test_only_a_base_that_binds_late_and_changes_nothing_is_taken(base: str) -> None:
    with pytest.raises(ConfigError):
        LearnedPolicy(slim(base))


def paper(fleet: tuple[int, int, int], out: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> LearnedPolicy:
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(*fleet).items()}
    weights["choices.bias"] = out.astype(np.float32)
    return LearnedPolicy(slim(kind="ppo-paper", weights=weights, fleet=fleet))


def test_ppo_paper_that_knows_its_widths_decides_where_some_of_them_are_not_loaded() -> None:
    candidates, situation = two_choices()
    trained_for = paper((3, 3, 3), np.array([1, 0, 0, 0, 9, 1, 0, 0, 1]))  # the likeliest width is not there
    policy = LearnedPolicy(replace(trained_for.file, widths=(25, 50, 100)))
    decision = policy.choose(candidates, situation)  # type: ignore[arg-type]
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.server, decision.candidate.width) == ("a", 100)
    stranger = LearnedPolicy(replace(trained_for.file, widths=(25, 50, 75)))
    with pytest.raises(UntrustedError, match="3 servers of 3 widths and is shown 2 of 2"):
        stranger.choose(candidates, situation)  # type: ignore[arg-type]


def test_ppo_paper_takes_server_width_and_batch_apart() -> None:
    candidates, situation = two_choices()
    both = [*candidates, candidate("b", 100, items=4, has_room=False)]
    #                              servers  widths  batches 1, 2, 4
    decision = paper((2, 2, 3), np.array([0, 1, 1, 0, 0, 1, 0])).choose(both, situation)  # type: ignore[arg-type]
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.server, decision.candidate.width, decision.candidate.items) == ("b", 25, 1)
    # b at 100 has no room: the three together are impossible, so it waits, though b at 25 could be sent.
    assert isinstance(paper((2, 2, 3), np.array([0, 1, 0, 1, 0, 1, 0])).choose(both, situation), Hold)  # type: ignore[arg-type]
    # A server that has room for nothing is not chosen, however likely.
    full = [candidates[0], *(candidate("b", width, items=4, has_room=False) for width in (25, 100))]
    decision = paper((2, 2, 3), np.array([0, 9, 0, 1, 0, 0, 1])).choose(full, situation)  # type: ignore[arg-type]
    assert isinstance(decision, Dispatch)
    assert decision.candidate.server == "a"
    with pytest.raises(UntrustedError, match="3 servers of 2 widths and is shown 2 of 2"):
        paper((3, 2, 1), np.zeros(6)).choose(both, situation)  # type: ignore[arg-type]


def test_ppo_paper_waits_for_the_batch_that_it_chooses_and_for_half_of_the_time_at_most() -> None:
    memory = Memory()

    def decided(batch: int, items: int, now_s: float) -> Decision:
        queue = QueueState(items, 1, 0.11, 0.11, (Width(100),), head_arrived_s=0.0)
        situation = Situation(queue, now_s, 0, (0.0, 0.0), 1.0, memory)
        policy = paper((2, 1, 4), np.concatenate([np.zeros(3), np.eye(4)[batch]]))  # batches of 1, 2, 4, 8
        return policy.choose([candidate(server, items=items, max_batch_size=8) for server in "ab"], situation)

    def sent(decision: Decision) -> int:
        assert isinstance(decision, Dispatch)
        return decision.candidate.items

    assert sent(decided(0, 3, 0.0)) == 3  # a batch of 1 waits for nobody, and takes all that are there
    for items, now_s in ((1, 0.0), (7, 0.02), (7, 0.049)):
        held = decided(3, items, now_s)
        assert isinstance(held, Hold)
        assert held.until_s == pytest.approx(0.05)  # half of 0.11 s, less 0.01 s to answer
    assert sent(decided(3, 8, 0.049)) == 8
    assert isinstance(decided(3, 2, 0.0), Hold)
    assert sent(decided(3, 7, 0.051)) == 7  # nobody came; it has waited


def test_ppo_paper_holds_no_head_for_longer_because_another_queues_is_held_in_between() -> None:
    memory, policy = Memory(), paper((1, 1, 4), np.array([0, 0, 0, 0, 0, 1]))  # for eight

    def held_until_s(deadline_s: float, now_s: float) -> float | None:
        queue = QueueState(2, 1, deadline_s, deadline_s, (Width(100),), head_arrived_s=deadline_s - 0.11)
        situation = Situation(queue, now_s, 0, (0.0, 0.0), 1.0, memory)
        decision = policy.choose([candidate("a", items=2, max_batch_size=8)], situation)
        return decision.until_s if isinstance(decision, Hold) else None

    for now_s in (0.01, 0.02, 0.03):
        assert held_until_s(0.11, now_s) == pytest.approx(0.05)
        assert held_until_s(0.12, now_s) == pytest.approx(0.06)
    assert held_until_s(0.11, 0.051) is None


def test_ppo_paper_knows_candidates_by_their_places_whatever_else_is_loaded() -> None:
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(2, 2, 3).items()}
    weights["first.weight"][2 * feat.FEATURES + feat.HAS_ROOM, 0] = weights["second.weight"][0, 0] = 1  # of b at 25
    weights["choices.weight"][0, :2], weights["choices.bias"][0] = (0, 9), 1  # then server b instead of a
    policy = LearnedPolicy(slim(kind="ppo-paper", weights=weights, fleet=(2, 2, 3), widths=(25, 100)))
    _, situation = two_choices()

    def server(*there: tuple[str, int, bool]) -> str:
        shown = [candidate(name, width, items=4, has_room=has_room) for name, width, has_room in there]
        decision = policy.choose(shown, situation)
        assert isinstance(decision, Dispatch)
        return decision.candidate.server

    a25, a100, b25, b100 = (("a", 25, True), ("a", 100, True), ("b", 25, True), ("b", 100, False))
    assert server(a25, a100, b25, b100) == server(a100, b25, b100) == server(a25, b25, b100) == "b"
    assert server(a25, a100, ("b", 25, False), ("b", 100, True)) == server(a25, a100, ("b", 100, True)) == "a"


def test_ppo_paper_does_not_take_a_server_that_it_does_not_know_for_one_that_it_knows() -> None:
    memory, policy = Memory(), paper((2, 1, 1), np.array([1, 0, 0, 0]))
    queue = QueueState(1, 1, 0.11, 0.11, (Width(100),))
    situation = Situation(queue, 0.0, 0, (0.0, 0.0), 1.0, memory)
    memory.include({ServerName("a"), ServerName("b"), ServerName("c")}, {Width(100)})
    with pytest.raises(UntrustedError, match="2 servers of 1 widths and is shown 3 of 1"):
        policy.choose([candidate(name) for name in "bc"], situation)  # a is down
    assert isinstance(policy.choose([candidate("b")], situation), Dispatch)


def test_ppo_paper_does_not_decide_by_what_devices_show_where_training_knew_nothing_of_it() -> None:
    candidates, situation = two_choices()
    busy = [replace(each, utilisation_ratio=1.0) for each in candidates]  # type: ignore[type-var]
    weights = {name: np.zeros(shape, np.float32) for name, shape in paper_shapes(2, 2, 3).items()}
    weights["first.weight"][feat.UTILISATION, 0] = weights["second.weight"][0, 0] = 1
    weights["choices.weight"][0, :2], weights["choices.bias"][0] = (0, 9), 1  # server b instead of a
    policy = LearnedPolicy(slim(kind="ppo-paper", weights=weights, fleet=(2, 2, 3)))
    servers = [getattr(policy.choose(each, situation), "candidate", None) for each in (candidates, busy)]  # type: ignore[arg-type]
    assert [each and each.server for each in servers] == ["a", "b"]
    high = policy.file.high.copy()
    high[feat.UTILISATION] = 0
    unknowing = LearnedPolicy(replace(policy.file, high=high)).choose(busy, situation)  # type: ignore[arg-type]
    assert isinstance(unknowing, Dispatch)
    assert unknowing.candidate.server == "a"


def test_ppo_paper_waits_while_no_server_has_room_as_training_never_asks_then() -> None:
    _, situation = two_choices()
    full = [candidate(server, 100, items=4, has_room=False) for server in ("a", "b")]
    trained = paper((2, 1, 3), np.array([0, 1, 0, 0, 1, 0])).file
    nothing_known = (
        np.full(feat.FEATURES + feat.CONTEXT, 2, np.float32),
        np.full(feat.FEATURES + feat.CONTEXT, 3, np.float32),
    )
    policy = LearnedPolicy(replace(trained, low=nothing_known[0], high=nothing_known[1]))
    assert isinstance(policy.choose(full, situation), Hold)  # type: ignore[arg-type]
    with_room = [*full[:1], candidate("b", 100, items=4)]
    with pytest.raises(UntrustedError, match="lies outside"):
        policy.choose(with_room, situation)  # type: ignore[arg-type]
