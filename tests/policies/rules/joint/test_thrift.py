"""Accuracy at a price in joules, worked by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.decision import Candidate, Dispatch, Hold, Reason
from orchestrator.policies.protocol import Situation
from orchestrator.snapshot import Preference, QueueState
from tests.policies.cases import WIDTHS, Asker, line_candidate


def server(name: str, *, dear: float = 1.0, wait_s: float = 0.0, has_room: bool = True) -> list[Candidate]:
    """Two widths, 50 with a third of the joules of 100."""
    return [
        replace(
            line_candidate(name, width, per_item_s=0.01, wait_s=wait_s, has_room=has_room, accuracy=accuracy),
            per_item_j=joules * dear,
            fixed_j=0.0,
        )
        for width, accuracy, joules in ((50, 0.6, 1.0), (100, 0.8, 3.0))
    ]


def test_the_price_is_that_of_the_fleet_so_only_frugal_servers_run_wide() -> None:
    # ē is (3 + 9)/2 = 6. On the frugal server the wide width costs 2/6 more for a position that is 1 better, on the
    # dear one 6/6 more: at a price of 1.5, which a worth of 0.3 is in a range of 0.2, that is 0.5 against 1, and 1.5
    # against 1.
    policy = "thrift,worth=0.3,latency=0,patience=10"
    frugal, dear = server("a"), server("b", dear=3.0)
    assert Asker(policy).choice([*frugal, *dear])[:2] == ("a", 100)
    busy = [replace(c, has_room=False) for c in frugal]
    assert Asker(policy).choice([*busy, *dear])[:2] == ("b", 50)
    assert Asker("thrift,worth=0,latency=0,patience=10").choice([*busy, *dear])[:2] == ("b", 100)


def test_a_better_server_that_is_busy_is_waited_for_only_when_it_is_better_by_more_than_the_patience() -> None:
    fleet = [*server("a", wait_s=0.01, has_room=False), *server("b", dear=3.0)]
    # Best on a: 1 − 1.5·3/6 = 0.25 at width 100; best on b: −1.5·3/6 = −0.75 at width 50. One apart.
    waits = Asker("thrift,worth=0.3,latency=0,patience=0.9").query(fleet)
    assert waits == Hold(Reason.BETTER_SERVER_BUSY)
    sends = Asker("thrift,worth=0.3,latency=0,patience=1.1").query(fleet)
    assert isinstance(sends, Dispatch)
    assert sends.reason is Reason.BEST_BY_PREFERENCE


def test_once_its_ceiling_has_fallen_whatever_answers_first_is_taken_and_no_better_server_waited_for() -> None:
    fleet = [*server("a", wait_s=0.01, has_room=False), *server("b", dear=3.0)]
    asker = Asker("thrift:brownout,worth=0.3,latency=0,patience=0.3")
    assert asker.query(fleet) == Hold(Reason.BETTER_SERVER_BUSY)
    asker.miss(0.1)
    assert asker.choice(fleet, now_s=0.1)[:2] == ("b", 50)


def test_a_better_server_that_could_not_do_all_that_waits_in_time_is_not_waited_for() -> None:
    fleet = [*server("a", wait_s=0.01, has_room=False), *server("b", dear=3.0)]
    # In 0.3 s server a, free after 0.01 s, would answer 29 items of 0.01 s.
    policy = "thrift,worth=0.3,latency=0,patience=0.9,reserve=1"
    assert Asker(policy).query(fleet, slack_s=0.3, items=28) == Hold(Reason.BETTER_SERVER_BUSY)
    assert Asker(policy).choice(fleet, slack_s=0.3, items=30)[0] == "b"


def test_deadlines_come_first_and_what_can_not_be_in_time_drains() -> None:
    fleet = server("a", wait_s=0.2)
    assert Asker("thrift,worth=0").choice(fleet, slack_s=0.45)[1] == 100  # half of that is in reserve
    late = Asker("thrift,worth=0").query(fleet, slack_s=0.05)
    assert isinstance(late, Dispatch)
    assert late.reason is Reason.NONE_IN_TIME


def test_a_request_s_own_preference_takes_the_place_of_the_knobs() -> None:
    asker = Asker("thrift,worth=1,patience=10")
    fleet = server("a")
    assert asker.choice(fleet)[1] == 50
    queue = QueueState(1, 1, 0.1, 0.1, WIDTHS, preference=Preference(0.9, 0.0, 0.1))
    decision = asker.policy.choose(fleet, Situation(queue, 0.0, 0, (0.0, 0.0), 1.0))
    assert isinstance(decision, Dispatch)
    assert decision.candidate.width == 100


def test_unknown_joules_are_no_reason_to_run_narrow_or_to_fail() -> None:
    unknown = [replace(c, per_item_j=None, fixed_j=None) for c in server("a")]
    assert Asker("thrift,worth=0.2").choice(unknown)[1] == 100


def test_a_fuller_batch_is_waited_for_when_it_saves_enough_and_until_the_head_must_go() -> None:
    # One width: an item takes 10 ms and 1 J, a launch 4 J. ē, of full batches of 8, is 1.5 J. Alone, an item pays all
    # of a launch; of 8 an eighth: at a price of 0.4 that is worth 0.4·(4 − 0.5)/1.5 = 0.93.
    (wide,) = [
        replace(c, per_item_j=1.0, fixed_j=4.0, accuracy=0.7, max_batch_size=8)
        for c in [line_candidate("a", 100, per_item_s=0.01, wait_s=0.0, has_room=True, accuracy=0.7)]
    ]
    held = Asker("thrift,worth=0.004,fill=0.9,reserve=2").query([wide], slack_s=0.3)
    assert isinstance(held, Hold)
    assert held.reason is Reason.WAITS_FOR_BATCH
    assert held.until_s == pytest.approx(0.3 - 2 * 8 * 0.01)  # twice what the batch takes
    assert isinstance(Asker("thrift,worth=0.004,fill=0.95").query([wide], slack_s=0.3), Dispatch)
    assert isinstance(
        Asker("thrift,worth=0.004,fill=0.9,reserve=2").query([wide], now_s=0.2, slack_s=0.1, arrived_s=0.0), Dispatch
    )
    unknown = replace(wide, per_item_j=None, fixed_j=None)
    assert isinstance(Asker("thrift,worth=0.004,fill=0").query([unknown], slack_s=0.3), Dispatch)


def test_who_waits_alone_in_vain_is_soon_held_no_more_and_who_meets_others_is_again() -> None:
    wide = replace(
        line_candidate("a", 100, per_item_s=0.01, accuracy=0.7, max_batch_size=8), per_item_j=1.0, fixed_j=4.0
    )
    asker, now_s = Asker("thrift,worth=0.004,fill=0.1,reserve=2"), 0.0

    def call(joined: int) -> bool:
        """Let one request come, and others later; return whether the one was held."""
        nonlocal now_s
        now_s += 10
        first = asker.query([wide], now_s=now_s, slack_s=0.3, arrived_s=now_s)
        if isinstance(first, Hold):
            more = replace(wide, items=1 + joined)
            sent = asker.query([more], now_s=now_s + 0.25, items=1 + joined, slack_s=0.05, arrived_s=now_s)
            assert isinstance(sent, Dispatch)  # the head is due
        return isinstance(first, Hold)

    alone = [call(0) for _ in range(500)]
    assert all(alone[:5])
    assert 1 <= sum(alone[100:]) <= 20  # some find out whether it is still so
    together = [call(7) for _ in range(500)]
    assert all(together[-300:])


def test_a_hold_that_somebody_else_ended_teaches_nothing() -> None:
    wide = replace(
        line_candidate("a", 100, per_item_s=0.01, accuracy=0.7, max_batch_size=8), per_item_j=1.0, fixed_j=4.0
    )
    asker = Asker("thrift,worth=0.004,fill=0.1,reserve=2")
    for turn in range(300):  # each head is held, then gone: sent by a policy that rests on this one
        assert isinstance(asker.query([wide], now_s=10.0 * turn, slack_s=0.3, arrived_s=10.0 * turn), Hold)
