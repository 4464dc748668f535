from __future__ import annotations

from orchestrator.decision import Dispatch, Hold, Reason, Reject
from tests.policies.cases import Asker, line_candidate

NARROW = line_candidate("a", 50, per_item_s=0.005, fixed_s=0.01, items=8)
WIDE = line_candidate("a", 100, per_item_s=0.01, fixed_s=0.01, items=8)


def test_the_widest_that_fits_is_run_with_the_largest_batch_that_fits() -> None:
    # 45 ms of 50 are left: 3 items at the full width take 40 ms, 4 take 50.
    assert Asker("clockwork").choice([NARROW, WIDE], items=8, slack_s=0.05) == ("a", 100, 3)
    # 20 ms less 5: the full width takes 20 ms alone, the narrow one 15.
    assert Asker("clockwork").choice([NARROW, WIDE], items=8, slack_s=0.0201) == ("a", 50, 1)


def test_the_worst_of_the_last_ten_is_what_is_believed() -> None:
    asker = Asker("clockwork,ahead_s=0")
    asker.query([NARROW, WIDE])
    asker.observe(expected_s=0.01, took_s=0.02)
    for _ in range(9):
        asker.observe(expected_s=0.01, took_s=0.01)
    assert asker.choice([WIDE], items=8, slack_s=0.1)[2] == 4  # twice as slow: 2 · (40 + 10) ms
    asker.observe(expected_s=0.01, took_s=0.01)
    assert asker.choice([WIDE], items=8, slack_s=0.1)[2] == 8


def test_the_estimate_is_of_one_model_and_not_of_its_neighbours() -> None:
    asker = Asker("clockwork,ahead_s=0")
    asker.observe(width=100, expected_s=0.01, took_s=0.1)
    assert asker.choice([NARROW, WIDE], items=1, slack_s=0.05)[1] == 50


def test_a_head_that_can_not_be_in_time_is_dropped_while_an_answer_will_come() -> None:
    busy = line_candidate("b", 50, per_item_s=0.01, wait_s=0.2, server_items=4)
    assert Asker("clockwork").query([WIDE, busy], slack_s=0.01) == Reject(Reason.CANT_BE_IN_TIME)


def test_an_idle_fleet_is_tried_or_it_would_never_be_measured_again() -> None:
    asker = Asker("clockwork")
    for width in (50, 100):
        asker.observe(width=width, expected_s=0.01, took_s=10.0)
    decision = asker.query([NARROW, WIDE], slack_s=0.1)
    assert isinstance(decision, Dispatch)
    assert (decision.candidate.width, decision.reason) == (50, Reason.CANT_BE_IN_TIME)


def test_it_waits_for_a_busy_server_that_is_in_time() -> None:
    busy = line_candidate("a", per_item_s=0.01, wait_s=0.02, has_room=False, server_items=4)
    assert Asker("clockwork").query([busy], slack_s=0.05) == Hold(Reason.BETTER_SERVER_BUSY)
