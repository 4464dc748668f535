"""Nexus and the control limit: two policies that wait for a batch."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.decision import Candidate, Hold, Reason, Reject
from tests.policies.cases import Asker, line_candidate


def server(name: str = "a", *, items: int, **values: Any) -> Candidate:
    """Return one on which b items take 10 ms · b + 10 ms."""
    return line_candidate(name, per_item_s=0.01, fixed_s=0.01, items=items, **values)


def test_nexus_sends_a_batch_that_fits_twice_into_the_deadline() -> None:
    # SLO 100 ms: 4 items take 50 ms, which is half of it; 5 take more.
    assert Asker("nexus:100").choice([server(items=9)], items=4, slack_s=0.1, arrived_s=0.0) == ("a", 100, 4)


def test_nexus_waits_for_a_batch_until_it_would_be_late() -> None:
    asker, few = Asker("nexus:100"), [server(items=3)]
    decision = asker.query(few, items=3, now_s=5.0, slack_s=0.08, arrived_s=4.98)
    assert isinstance(decision, Hold)
    assert decision.reason is Reason.WAITS_FOR_BATCH
    assert decision.until_s == pytest.approx(5.08 - 0.05)
    late = asker.query(few, items=3, now_s=5.031, slack_s=0.049, arrived_s=4.98)
    assert not isinstance(late, Hold | Reject)
    assert late.reason is Reason.HEAD_IS_DUE
    assert late.candidate.items == 3


def test_nexus_takes_the_slack_margin_and_the_servers_wait_into_account() -> None:
    decision = Asker("nexus:100", margin=1.5).query([server(items=3, wait_s=0.01)], items=3, slack_s=0.1, arrived_s=0.0)
    assert isinstance(decision, Hold)
    assert decision.until_s == pytest.approx(0.1 - 1.5 * (0.01 + 0.05))


def test_nexus_drops_a_head_that_nobody_can_answer_in_time() -> None:
    asker = Asker("nexus:slack")
    assert asker.query([server("a", items=1), server("b", items=1, wait_s=0.1)], slack_s=0.019) == Reject(
        Reason.CANT_BE_IN_TIME
    )
    assert not isinstance(asker.query([server("a", items=1)], slack_s=0.021), Reject)


def test_where_the_arrival_is_unknown_the_slack_stands_for_the_objective() -> None:
    assert Asker("nexus:100").choice([server(items=9)], items=9, slack_s=0.08)[2] == 3


def test_a_control_limit_fires_at_so_many() -> None:
    asker = Asker("control-limit:100,limit=4")
    assert asker.choice([server(items=4)], items=4, slack_s=1.0) == ("a", 100, 4)
    # With more waiting than that, as much as fits goes at once.
    assert asker.choice([server(items=9)], items=9, slack_s=1.0) == ("a", 100, 9)
    waiting = asker.query([server(items=3)], items=3, slack_s=1.0)
    assert isinstance(waiting, Hold)
    assert waiting.until_s == pytest.approx(1.0 - 0.05)


def test_a_control_limit_is_that_of_the_servers_rank() -> None:
    slow = line_candidate("slow", per_item_s=0.02, items=5)
    fast = line_candidate("fast", per_item_s=0.01, items=5, has_room=False)
    asker = Asker("control-limit:100,limit=2/6")
    assert isinstance(asker.query([fast, slow], items=5, slack_s=1.0), Hold)
    assert asker.choice([fast, slow], items=6, slack_s=1.0)[0] == "slow"


def test_a_limit_beyond_the_models_largest_batch_is_that_batch() -> None:
    small = line_candidate(per_item_s=0.01, items=2, max_batch_size=2)
    assert Asker("control-limit:100,limit=50").choice([small], items=2, slack_s=1.0)[2] == 2
