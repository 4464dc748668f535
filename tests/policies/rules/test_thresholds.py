from __future__ import annotations

import math

import pytest

from orchestrator.decision import Hold, Reason
from tests.policies.cases import Asker, line_candidate

SLOW = line_candidate("slow", per_item_s=0.03)  # a third of the speed, so θ = theta · 2
BUSY = line_candidate("fast", per_item_s=0.01, has_room=False)
FAST = line_candidate("fast", per_item_s=0.01)


def test_the_fastest_has_no_threshold() -> None:
    assert Asker("achq:widest,theta=100").choice([FAST, SLOW], uniform=0.999) == ("fast", 100, 1)


@pytest.mark.parametrize(("items", "used"), [(7, False), (8, False), (9, True)])
def test_a_slower_one_is_used_beyond_a_backlog(items: int, used: bool) -> None:
    decision = Asker("achq:widest,theta=4,temperature=0.001").query([BUSY, SLOW], items=items, uniform=0.6)
    if used:
        assert not isinstance(decision, Hold)
    else:
        assert decision == Hold(Reason.BETTER_SERVER_BUSY)


def test_the_threshold_is_soft() -> None:
    chance = 1 / (1 + math.exp(-(9 - 8) / 2))  # σ((q − θ)/T)
    asker = Asker("achq:widest,theta=4,temperature=2")
    assert asker.choice([BUSY, SLOW], items=9, uniform=chance - 1e-9)[0] == "slow"
    assert asker.query([BUSY, SLOW], items=9, uniform=chance + 1e-9) == Hold(Reason.BETTER_SERVER_BUSY)


def test_each_server_has_its_own_by_its_rank() -> None:
    slower = line_candidate("slower", per_item_s=0.05)  # θ = theta · 4
    asker = Asker("achq:widest,theta=100/1,temperature=0.001")
    assert asker.choice([BUSY, SLOW, slower], items=5, uniform=0.5)[0] == "slower"


def test_like_servers_are_used_at_once() -> None:
    asker = Asker("achq:widest,theta=1000,temperature=0.001")
    assert asker.choice([BUSY, line_candidate("other", per_item_s=0.01)], uniform=0.99)[0] == "other"


def test_one_that_was_never_seen_keeps_no_other_from_working() -> None:
    unseen = line_candidate("unseen", per_item_s=0.0, has_room=False)
    assert Asker("achq:widest,theta=100").choice([SLOW, unseen], uniform=0.99)[0] == "slow"
