"""Smooth weighted round robin, and its plainer neighbours."""

from __future__ import annotations

from collections import Counter

from tests.policies.cases import Asker, candidate, line_candidate


def test_turns_are_in_proportion_to_capacity_and_spread_out() -> None:
    fleet = [
        line_candidate("a", per_item_s=0.01),
        line_candidate("b", per_item_s=0.05),
        line_candidate("c", per_item_s=0.05),
    ]
    asker = Asker("weighted-round-robin")  # weights 5, 1, 1
    assert "".join(asker.choice(fleet)[0] for _ in range(14)) == "aabacaa" * 2


def test_a_server_that_was_never_seen_counts_as_the_fastest() -> None:
    fleet = [
        line_candidate("a", per_item_s=0.02),
        line_candidate("b", per_item_s=0.01),
        line_candidate("c", per_item_s=0.0),
    ]
    asker = Asker("weighted-round-robin")
    assert Counter(asker.choice(fleet)[0] for _ in range(10)) == {"a": 2, "b": 4, "c": 4}


def test_servers_that_come_and_go_keep_the_turns_of_the_others() -> None:
    a, b, c = (line_candidate(name, per_item_s=0.01) for name in "abc")
    asker = Asker("weighted-round-robin")
    assert "".join(asker.choice(fleet)[0] for fleet in ([a, b], [a, b], [a, c], [a, b, c], [a, b, c])) == "abacb"


def test_the_least_work_is_that_which_ends_first_whatever_the_head_would_take() -> None:
    slow_idle = line_candidate("a", per_item_s=0.5, wait_s=0.01, backlog_s=0.01)
    fast_busy = line_candidate("b", per_item_s=0.01, wait_s=0.02, backlog_s=0.02)
    assert Asker("least-work").choice([slow_idle, fast_busy])[0] == "a"
    assert Asker("lert").choice([slow_idle, fast_busy])[0] == "b"


def test_least_work_counts_what_is_bound_already() -> None:
    assert (
        Asker("least-work").choice(
            [candidate("a", wait_s=0.1, backlog_s=0.3), candidate("b", wait_s=0.1, backlog_s=0.2)]
        )[0]
        == "b"
    )
