from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decision import Candidate, Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.policies.learned.policy_file import LEARNED_NAMES
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.policies.registry import policy_names
from orchestrator.snapshot import QueueState, Width
from tests.policies.cases import candidate

WIDTHS = tuple(Width(w) for w in (25, 50, 75, 100))
NAMES = [
    f"{server}{width}"
    for server in ("random", "round-robin", "jsq", "lert", "lect", "p2c", "p2c-jsq", "sed", "weighted-random")
    for width in ("", ":random", ":widest", ":narrowest", ":slack", ":50", ":33")
]


def situation(
    *,
    turn: int = 0,
    uniforms: tuple[float, float] = (0.0, 0.0),
    slack_s: float = 0.1,
    tail_s: float = 0.1,
    margin: float = 1.0,
) -> Situation:
    return Situation(
        QueueState(1, 1, slack_s, tail_s, WIDTHS), now_s=0.0, turn=turn, uniforms=uniforms, slack_margin=margin
    )


def chosen(policy: str, candidates: list[Candidate], **values: Any) -> tuple[str, int]:
    decision = parse_policy(policy).choose(candidates, situation(**values))
    assert isinstance(decision, Dispatch)
    return decision.candidate.server, decision.candidate.width


EIGHT = [candidate(server, width) for server in "ab" for width in WIDTHS]


def test_random_gives_every_server_and_width_the_same_chance() -> None:
    steps = [i / 40 for i in range(40)]
    counts = Counter(chosen("random", EIGHT, uniforms=(u, v)) for u in steps for v in steps)
    assert len(counts) == 8
    assert set(counts.values()) == {200}


def test_round_robin_counts_turns_over_servers_at_full_width() -> None:
    assert [chosen("round-robin", EIGHT, turn=turn) for turn in range(4)] == [("a", 100), ("b", 100)] * 2


def test_jsq_takes_the_server_with_fewest_items() -> None:
    assert chosen("jsq", [candidate("a", server_items=3), candidate("b", server_items=2)]) == ("b", 100)


def test_lert_takes_the_least_expected_completion_of_the_head() -> None:
    options = [
        candidate("a", completion_s=0.5, head_completion_s=0.03),
        candidate("b", completion_s=0.2, head_completion_s=0.05),
    ]
    assert chosen("lert", options) == ("a", 100)


def test_lert_holds_when_the_better_server_is_busy() -> None:
    options = [candidate("a", completion_s=0.03, has_room=False), candidate("b", completion_s=0.05)]
    assert parse_policy("lert").choose(options, situation()) == Hold(Reason.BETTER_SERVER_BUSY)


def test_early_binding_does_not_mind_a_busy_server() -> None:
    assert chosen("jsq", [candidate("a", has_room=False)]) == ("a", 100)


def test_random_batch_draws_server_width_and_a_power_of_two() -> None:
    options = [candidate(s, w, items=20, max_batch_size=24) for s in ("a", "b") for w in (25, 100)]
    drawn: Counter[tuple[str, int, int]] = Counter()
    for first in np.linspace(0, 1, 4000, endpoint=False):
        for second in (0.2, 0.7):
            decision = parse_policy("random-batch").choose(options, situation(uniforms=(float(first), second)))
            assert isinstance(decision, Dispatch)
            drawn[decision.candidate.server, decision.candidate.width, decision.candidate.items] += 1
    assert set(drawn) == {(s, w, n) for s in ("a", "b") for w in (25, 100) for n in (1, 2, 4, 8, 16)}
    assert all(count == pytest.approx(8000 / 20, rel=0.2) for count in drawn.values())


def test_random_batch_sends_what_waits_when_it_is_fewer_and_waits_for_its_server() -> None:
    few = [candidate("a", items=3)]
    sizes = set()
    for first in np.linspace(0, 1, 500, endpoint=False):
        decision = parse_policy("random-batch").choose(few, situation(uniforms=(float(first), 0.0)))
        assert isinstance(decision, Dispatch)
        sizes.add(decision.candidate.items)
    assert sizes == {1, 2, 3}
    full = [candidate("a", has_room=False), candidate("b")]
    assert parse_policy("random-batch").choose(full, situation(uniforms=(0.0, 0.0))) == Hold(Reason.BETTER_SERVER_BUSY)


def test_slack_takes_the_widest_that_meets_the_heads_deadline() -> None:
    options = [candidate("a", w, completion_s=w / 1000) for w in WIDTHS]
    assert chosen("lert:slack", options, slack_s=0.08) == ("a", 75)
    assert chosen("lert:slack", options, slack_s=0.08, margin=1.2) == ("a", 50)


def test_slack_leaves_time_for_those_behind_the_head() -> None:
    options = [candidate("a", w, completion_s=0.01, drain_s=w / 100) for w in WIDTHS]
    assert chosen("lert:slack", options, tail_s=0.6) == ("a", 50)


def test_reserve_leaves_half_of_that_time_to_what_comes_meanwhile() -> None:
    options = [candidate("a", w, completion_s=0.01, drain_s=w / 100) for w in WIDTHS]
    assert chosen("lert:slack", options, tail_s=0.75) == ("a", 75)
    assert chosen("lert:reserve", options, tail_s=0.75) == ("a", 25)
    assert chosen("lert:reserve", options, tail_s=2.1) == ("a", 100)
    # Of the servers of that width, too, only such count.
    assert chosen("jsq:reserve", [candidate("a", drain_s=0.4), candidate("b", drain_s=0.3)], tail_s=0.7)[0] == "b"
    # A larger margin counts in place of the factor.
    assert chosen("lert:reserve", options, tail_s=2.1, margin=3) == ("a", 50)


def test_slack_drains_fastest_when_no_width_is_in_time() -> None:
    options = [candidate("a", w, completion_s=5.0, drain_s=w / 100) for w in WIDTHS]
    assert chosen("lert:slack", options) == ("a", 25)


def test_slack_at_one_width_prefers_servers_that_are_in_time() -> None:
    options = [candidate("a", completion_s=0.2, server_items=0), candidate("b", completion_s=0.05, server_items=9)]
    assert chosen("jsq:slack", options) == ("b", 100)


def test_a_fixed_width_gives_way_to_the_nearest_allowed_one() -> None:
    assert chosen("lert:50", EIGHT)[1] == 50
    assert chosen("lert:50", [candidate(width=75), candidate(width=100)])[1] == 75


def test_lect_is_lert_while_servers_are_in_time() -> None:
    options = [candidate("a", completion_s=0.03), candidate("b", completion_s=0.05)]
    assert parse_policy("lect").choose(options, situation()) == parse_policy("lert").choose(options, situation())


def test_lect_turns_away_from_a_server_whose_answers_should_have_come() -> None:
    options = [candidate("a", completion_s=0.03, overdue_ratio=2.0), candidate("b", completion_s=0.05)]
    assert chosen("lert", options) == ("a", 100)
    assert chosen("lect", options) == ("b", 100)
    # It is the expected completion that is stretched, so one that is still sooner stays.
    assert chosen("lect", [options[0], candidate("b", completion_s=0.07)]) == ("a", 100)


def test_lect_takes_no_width_for_timely_on_a_server_that_is_overdue() -> None:
    options = [
        candidate("a", 100, completion_s=0.06, overdue_ratio=2.0),
        candidate("b", 50, completion_s=0.05),
    ]
    assert chosen("lert:slack", options) == ("a", 100)
    assert chosen("lect:slack", options) == ("b", 50)


THREE = [candidate("a", completion_s=0.5), candidate("b", completion_s=0.2), candidate("c", completion_s=0.1)]


def test_p2c_takes_the_sooner_of_two_distinct_servers() -> None:
    # Ordered pairs: ab, ac, ba, bc, ca, cb.
    assert [chosen("p2c", THREE, uniforms=(0.0, (pair + 0.5) / 6))[0] for pair in range(6)] == list("bcbccc")
    assert chosen("p2c", THREE[:1]) == ("a", 100)
    assert chosen("p2c", THREE[:2]) == ("b", 100)


def test_p2c_draws_every_pair_of_servers_equally_often() -> None:
    options = [candidate(name, completion_s=index) for index, name in enumerate("abcde")]
    counts = Counter(chosen("p2c", options, uniforms=(0.0, (n + 0.5) / 200))[0] for n in range(200))
    # The k-th best of 5 is the better one in 5 − k of 10 pairs.
    assert counts == {"a": 80, "b": 60, "c": 40, "d": 20}


def test_p2c_jsq_looks_at_items_alone() -> None:
    options = [candidate("a", completion_s=0.5, server_items=1), candidate("b", completion_s=0.2, server_items=2)]
    assert chosen("p2c-jsq", options) == ("a", 100)
    assert chosen("p2c", options) == ("b", 100)


def test_sed_weighs_items_by_capacity() -> None:
    fast = {"per_item_s": 1 / 300, "max_batch_size": 8}
    assert chosen("sed", [candidate("a", server_items=2), candidate("b", server_items=7, **fast)]) == ("b", 100)
    assert chosen("sed", [candidate("a", server_items=2), candidate("b", server_items=9, **fast)]) == ("a", 100)
    assert chosen("sed", [candidate("a"), candidate("b", per_item_s=0.0, server_items=99)]) == ("b", 100)


def test_capacity_is_that_of_full_batches_on_all_instances() -> None:
    assert candidate(per_item_s=0.01, fixed_s=0.08, max_batch_size=8).capacity_rps == pytest.approx(50)
    assert candidate(per_item_s=0.01, fixed_s=0.08, max_batch_size=8, instances=3).capacity_rps == pytest.approx(150)
    assert candidate(per_item_s=0.0, fixed_s=0.0).capacity_rps == float("inf")


def test_weighted_random_draws_by_capacity() -> None:
    options = [
        candidate("a", per_item_s=1 / 100),
        candidate("b", per_item_s=1 / 500),
        candidate("c", per_item_s=1 / 200),
    ]
    counts = Counter(chosen("weighted-random", options, uniforms=(0.0, (n + 0.5) / 80))[0] for n in range(80))
    assert counts == {"a": 10, "b": 50, "c": 20}
    assert chosen("weighted-random", options, uniforms=(0.0, 1 - 2**-53)) == ("c", 100)


def test_weighted_random_tries_servers_that_were_never_seen_first() -> None:
    options = [candidate("a"), candidate("b", per_item_s=0.0), candidate("c", per_item_s=0.0)]
    assert {chosen("weighted-random", options, uniforms=(0.0, n / 10))[0] for n in range(10)} == {"b", "c"}


@pytest.mark.parametrize("name", ["p2c", "p2c-jsq", "sed", "weighted-random"])
def test_rules_of_load_balancers_bind_early(name: str) -> None:
    assert parse_policy(name).binding is Binding.EARLY
    assert parse_policy(name).name == name


def test_ties_go_to_the_wider_then_the_first_name() -> None:
    assert chosen("lert", [candidate("b"), candidate("a")]) == ("a", 100)
    assert chosen("lert:slack", EIGHT) == ("a", 100)


@pytest.mark.parametrize("name", NAMES)
def test_without_candidates_every_policy_holds(name: str) -> None:
    assert parse_policy(name).choose([], situation()) == Hold(Reason.NO_CANDIDATE)


@given(
    st.sampled_from(NAMES),
    st.lists(
        st.builds(
            lambda server, width, c, d, n, room: candidate(
                server, width, completion_s=c, drain_s=d, server_items=n, has_room=room
            ),
            st.sampled_from("abcd"),
            st.sampled_from(WIDTHS),
            st.floats(0, 1),
            st.floats(0, 1),
            st.integers(0, 99),
            st.booleans(),
        ),
        min_size=1,
        unique_by=lambda c: (c.server, c.width),
    ),
    st.integers(0, 10**6),
    st.tuples(st.floats(0, 1, exclude_max=True), st.floats(0, 1, exclude_max=True)),
    st.floats(-1, 1),
)
def test_every_policy_returns_a_candidate_it_was_given_and_one_with_room_if_it_binds_late(
    name: str, candidates: list[Candidate], turn: int, uniforms: tuple[float, float], slack_s: float
) -> None:
    policy = parse_policy(name)
    candidates.sort(key=lambda c: (c.server, c.width))
    decision = policy.choose(candidates, situation(turn=turn, uniforms=uniforms, slack_s=slack_s))
    if isinstance(decision, Dispatch):
        assert decision.candidate in candidates
        assert decision.candidate.has_room or policy.binding is Binding.EARLY
    else:
        assert policy.binding is Binding.LATE
        assert decision.reason is Reason.BETTER_SERVER_BUSY
    assert decision == policy.choose(candidates, situation(turn=turn, uniforms=uniforms, slack_s=slack_s))


def test_an_unknown_name_is_answered_with_every_policy_in_one_line() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_policy("fastest")
    known = set(re.split(r"[\s,;]+", str(caught.value)))
    assert {*policy_names(), *LEARNED_NAMES} <= known
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        (
            "fastest",
            "unknown policy 'fastest'; known are ppo-slim, ppo-paper, which are learned; fitted, which is what a file "
            "holds; the rules random, ",
        ),
        ("lert:0.25", "unknown width rule '0.25' in policy 'lert:0.25'; known: random"),
        ("lert:0", "unknown width rule '0'"),
        ("p2c:slackfit", "unknown width rule 'slackfit' in policy 'p2c:slackfit'"),
        (
            "",
            "unknown policy ''; known are .*sed, weighted-random, .*, .*; and slackfit, .*max-batch, ",
        ),
        ("slackfit:0", "bad number of buckets '0' in policy 'slackfit:0'; from 1 to 1024"),
        ("slackfit-accuracy:slack", "bad number of buckets 'slack'"),
        ("max-batch:50", "max-batch chooses the width itself and takes nothing after a colon"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_policy(name)
