"""Accuracy at a price in joules, worked by hand."""

from __future__ import annotations

from dataclasses import replace

from orchestrator.decision import Candidate, Dispatch, Hold, Reason
from orchestrator.routing import Situation
from orchestrator.snapshot import Preference, QueueState
from tests.routing.cases import WIDTHS, Asker, line_candidate


def server(name: str, *, dear: float = 1.0, wait_s: float = 0.0, has_room: bool = True) -> list[Candidate]:
    """Two widths, 50 with a third of the joules of 100."""
    return [
        replace(
            line_candidate(name, width, item_s=0.01, wait_s=wait_s, has_room=has_room, accuracy=accuracy),
            item_j=joules * dear,
            group_j=0.0,
        )
        for width, accuracy, joules in ((50, 0.6, 1.0), (100, 0.8, 3.0))
    ]


def test_the_price_is_that_of_the_fleet_so_only_frugal_servers_run_wide() -> None:
    # ē is (3 + 9)/2 = 6. On the frugal server the wide width costs 2/6 more for a position that is 1 better, on the
    # dear one 6/6 more: at a price of 1.5 that is 0.5 against 1, and 1.5 against 1.
    policy = "thrift,energy=1.5,latency=0,patience=10"
    frugal, dear = server("a"), server("b", dear=3.0)
    assert Asker(policy).choice([*frugal, *dear])[:2] == ("a", 100)
    busy = [replace(c, has_room=False) for c in frugal]
    assert Asker(policy).choice([*busy, *dear])[:2] == ("b", 50)
    assert Asker("thrift,energy=0,latency=0,patience=10").choice([*busy, *dear])[:2] == ("b", 100)


def test_a_better_server_that_is_busy_is_waited_for_only_when_it_is_better_by_more_than_the_patience() -> None:
    fleet = [*server("a", wait_s=0.01, has_room=False), *server("b", dear=3.0)]
    # Best on a: 1 − 1.5·3/6 = 0.25 at width 100; best on b: −1.5·3/6 = −0.75 at width 50. One apart.
    waits = Asker("thrift,energy=1.5,latency=0,patience=0.9").ask(fleet)
    assert waits == Hold(Reason.BETTER_SERVER_BUSY)
    sends = Asker("thrift,energy=1.5,latency=0,patience=1.1").ask(fleet)
    assert isinstance(sends, Dispatch)
    assert sends.reason is Reason.BEST_BY_PREFERENCE


def test_deadlines_come_first_and_what_can_not_be_in_time_drains() -> None:
    fleet = server("a", wait_s=0.2)
    assert Asker("thrift,energy=0").choice(fleet, slack_s=0.25)[1] == 100
    late = Asker("thrift,energy=0").ask(fleet, slack_s=0.05)
    assert isinstance(late, Dispatch)
    assert late.reason is Reason.NONE_IN_TIME


def test_a_request_s_own_preference_takes_the_place_of_the_knobs() -> None:
    asker = Asker("thrift,energy=10,patience=10")
    fleet = server("a")
    assert asker.choice(fleet)[1] == 50
    queue = QueueState(1, 1, 0.1, 0.1, WIDTHS, preference=Preference(0.9, 0.0, 0.1))
    decision = asker.policy.choose(fleet, Situation(queue, 0.0, 0, (0.0, 0.0), 1.0))
    assert isinstance(decision, Dispatch)
    assert decision.candidate.width == 100


def test_unknown_joules_are_no_reason_to_run_narrow_or_to_fail() -> None:
    unknown = [replace(c, item_j=None, group_j=None) for c in server("a")]
    assert Asker("thrift,energy=1").choice(unknown)[1] == 100
