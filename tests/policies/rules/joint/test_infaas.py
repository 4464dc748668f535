from __future__ import annotations

from dataclasses import replace

from orchestrator.decision import Candidate, Dispatch, Reason
from tests.policies.cases import Asker, line_candidate


def fleet(**values: float) -> list[Candidate]:
    return [
        line_candidate(server, width, per_item_s=width / 100 * speed, **values)
        for server, speed in (("a", 0.02), ("b", 0.04))
        for width in (50, 100)
    ]


def test_the_cheapest_width_within_the_objective_goes_to_the_worker_with_the_least_traffic() -> None:
    asker = Asker("infaas")
    assert [asker.choice(fleet(), slack_s=0.1) for _ in range(3)] == [("a", 50, 1), ("b", 50, 1), ("a", 50, 1)]


def test_traffic_is_forgotten_in_time() -> None:
    asker = Asker("infaas")
    only_b = fleet()[2:]
    for _ in range(4):
        asker.choice(only_b)
    assert asker.choice(fleet(), now_s=0.0)[0] == "a"
    asker.choice(fleet(), now_s=10.0)  # a again: 0.001 of a query against 0.004
    assert asker.choice(fleet(), now_s=10.0)[0] == "b"


def test_cost_is_joules_where_all_are_known() -> None:
    dear_narrow = [replace(c, per_item_j=2.0 if c.width == 50 else 1.0, fixed_j=0.0) for c in fleet()]
    assert Asker("infaas").choice(dear_narrow)[1] == 100
    one_unknown = [replace(c, per_item_j=None) if c.server == "b" else c for c in dear_narrow]
    assert Asker("infaas").choice(one_unknown)[1] == 50


def test_a_worker_beyond_the_objective_gets_nothing_however_idle() -> None:
    asker = Asker("infaas")
    assert {asker.choice(fleet(), slack_s=0.015)[0] for _ in range(4)} == {"a"}


def test_where_none_is_within_the_objective_the_soonest_is_taken() -> None:
    decision = Asker("infaas").query(fleet(), slack_s=0.001)
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.server, decision.candidate.width) == ("a", 50)
    assert decision.reason is Reason.LEAST_COMPLETION
