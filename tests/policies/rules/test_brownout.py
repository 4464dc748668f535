"""A ceiling on width that what becomes of requests moves."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.policies.rules.brownout import (
    AGAIN_S,
    AHEAD_S,
    CALM_S,
    EFFICIENCY,
    LONGEST_PAUSE_S,
    PRICE,
    SHORTEST_PAUSE_S,
    STEP_S,
)
from tests.policies.cases import WIDTHS, Asker, line_candidate

NARROWEST, WIDEST = WIDTHS[0], WIDTHS[-1]
IN_TIME = [line_candidate("a", width, per_item_s=0.0001 * width, drain_s=0.0) for width in WIDTHS]
"""All of them: the widest takes 10 ms of 100."""


def width_at(asker: Asker, now_s: float, candidates: list[Candidate] | None = None, *, slack_s: float = 0.1) -> int:
    return asker.choice(candidates or IN_TIME, now_s=now_s, slack_s=slack_s)[1]


def widths_until(asker: Asker, from_s: float, until_s: float) -> list[tuple[float, int]]:
    """What is decided every tenth of a step."""
    count = round((until_s - from_s) / (STEP_S / 10))
    return [(at_s, width_at(asker, at_s)) for at_s in (from_s + n * STEP_S / 10 for n in range(count))]


def new_asker() -> Asker:
    asker = Asker("lert:brownout")
    assert width_at(asker, 0.0) == WIDEST
    return asker


def test_while_nothing_is_missed_the_widest_in_time_runs() -> None:
    asker = new_asker()
    asker.observe(slack_used=0.4)
    assert {width for _, width in widths_until(asker, 0.0, 3.0)} == {WIDEST}
    assert width_at(asker, 3.0, slack_s=0.006) == 50  # 5 ms


@pytest.mark.parametrize("how", ["refused", "late"])
def test_a_request_that_was_missed_is_followed_by_a_second_of_the_narrowest(how: str) -> None:
    asker = new_asker()
    for at_s in (10.0, 10.7):
        if how == "refused":
            asker.miss(at_s)
        else:
            asker.observe(slack_used=1.1, now_s=at_s)
        assert width_at(asker, at_s) == NARROWEST
    seen = widths_until(asker, 10.7, 10.7 + CALM_S + 3 * STEP_S)
    assert {width for at_s, width in seen if at_s < 10.7 + CALM_S} == {NARROWEST}
    assert [width for width in dict.fromkeys(width for _, width in seen)] == list(WIDTHS)  # one after another


@pytest.mark.parametrize("how", ["refused", "late"])
@pytest.mark.parametrize(
    ("after_s", "width"),
    [
        (0.9 * CALM_S, 25),
        (CALM_S + 0.5 * STEP_S, 50),
        (CALM_S + 1.5 * STEP_S, 75),
        (CALM_S + 2.5 * STEP_S, 100),
        (20.0, 100),
    ],
)
def test_who_comes_after_a_while_without_requests_finds_the_ceiling_risen(how: str, after_s: float, width: int) -> None:
    asker = new_asker()
    assert width_at(asker, 10.0) == WIDEST
    if how == "refused":
        asker.miss(10.1)
    else:
        asker.observe(slack_used=1.1, now_s=10.1)
    assert width_at(asker, 10.1 + after_s) == width


def test_time_in_which_the_ceiling_could_not_rise_does_not_let_it_rise_by_more_afterwards() -> None:
    asker = new_asker()
    asker.miss(1.0)
    # 400 a second at the narrowest: what comes keeps it there.
    seen = {width_at(asker, 1.0 + number / 420) for number in range(5 * 420)}
    assert seen == {NARROWEST}
    later = [width_at(asker, 6.0 + number / 5) for number in range(20)]
    assert list(dict.fromkeys(later)) == list(WIDTHS)


def test_an_answer_that_used_most_of_its_spare_time_costs_one_width_for_a_step() -> None:
    asker = new_asker()
    asker.observe(slack_used=0.9, now_s=5.0)
    assert width_at(asker, 5.0) == 75
    assert width_at(asker, 5.0 + CALM_S) == WIDEST


def test_a_decision_says_whether_the_ceiling_has_narrowed_it() -> None:
    asker = new_asker()
    assert asker.query(IN_TIME, now_s=1.0).reason is Reason.LEAST_COMPLETION
    asker.miss(1.5)
    assert asker.query(IN_TIME, now_s=2.0).reason is Reason.BELOW_CEILING


@pytest.mark.parametrize("accuracy", [0.02, 0.9, 1.0])
def test_a_request_that_takes_one_width_alone_is_below_no_ceiling_and_raises_none(accuracy: float) -> None:
    asker, pinned = new_asker(), [line_candidate("a", 75, per_item_s=0.0075, drain_s=0.0, accuracy=accuracy)]
    asker.miss(1.0)
    assert width_at(asker, 1.0) == NARROWEST
    assert asker.query(pinned, now_s=2.1).reason is Reason.LEAST_COMPLETION
    assert width_at(asker, 2.1) == 50  # one further than the narrowest, as without it


@pytest.mark.parametrize("accuracy", [0.02, 0.9, 0.999])
def test_a_ceiling_between_the_widths_that_a_request_takes_is_that_of_the_narrower(accuracy: float) -> None:
    asker = new_asker()
    assert {width for _, width in widths_until(asker, 0.0, 5.0)} == {WIDEST}
    asker.observe(slack_used=0.9, now_s=5.0)
    assert width_at(asker, 5.0) == 75
    two = [replace(IN_TIME[0], accuracy=accuracy), replace(IN_TIME[3], accuracy=1.0)]
    assert width_at(asker, 5.0, two) == NARROWEST
    assert width_at(asker, 5.0) == 75  # which a request that can't run there has not lowered


def test_what_was_sent_before_the_ceiling_fell_does_not_lower_it_again() -> None:
    asker = new_asker()
    asker.observe(slack_used=0.9, now_s=5.0)
    assert width_at(asker, 5.0) == 75
    asker.observe(slack_used=0.9, took_s=0.05, now_s=5.01)  # at the widest, and sent before
    assert width_at(asker, 5.01) == 75
    asker.observe(width=75, slack_used=0.9, took_s=0.005, now_s=5.02)
    assert width_at(asker, 5.02) == 50


@pytest.mark.parametrize("misses", [1, 3, 6, 1000])
def test_a_width_that_fails_is_tried_again_once_what_it_cost_is_half_of_what_it_gains(misses: int) -> None:
    asker, rate_rps = new_asker(), 100
    accuracies = {c.width: c.accuracy for c in IN_TIME}
    gained_rps = PRICE * rate_rps * (accuracies[WIDEST] / accuracies[75] - 1)
    pause_s = min(LONGEST_PAUSE_S, misses / gained_rps)
    tried_s: list[float] = []
    for number in range(5 * int(LONGEST_PAUSE_S) * rate_rps):
        now_s = 1.0 + number / rate_rps
        if width_at(asker, now_s) == WIDEST:  # which is too much
            tried_s.append(now_s)
            for _ in range(misses):
                asker.miss(now_s)
            assert width_at(asker, now_s) == NARROWEST
    gaps_s = [later - earlier for earlier, later in pairwise(tried_s)]
    rise_s = CALM_S + 3 * STEP_S
    assert all(gap_s <= max(rise_s, SHORTEST_PAUSE_S * 2**tries) + 2 * STEP_S for tries, gap_s in enumerate(gaps_s))
    gaps_s = gaps_s[-3:]  # it has failed often
    assert all(max(CALM_S, pause_s) - 0.1 <= gap_s <= max(rise_s, pause_s) + 2 * STEP_S for gap_s in gaps_s), gaps_s


def test_a_width_that_has_done_well_meanwhile_is_tried_again_at_once_when_it_fails() -> None:
    asker, rate_rps, misses = new_asker(), 100, 1000
    missed_s, widest_s = [], []
    for number in range(60 * rate_rps):
        now_s = 1.0 + number / rate_rps
        if width_at(asker, now_s) == WIDEST:
            widest_s.append(now_s)
            if now_s > (missed_s[-1] if missed_s else 0) + 2 * AGAIN_S:
                missed_s.append(now_s)
                for _ in range(misses):
                    asker.miss(now_s)
    back_s = [next(s for s in widest_s if s > missed + CALM_S / 2) - missed for missed in missed_s[:-1]]
    assert len(back_s) > 3
    assert max(back_s) <= CALM_S + 3 * STEP_S + 0.1


def test_a_width_that_failed_under_more_load_is_tried_again_at_once() -> None:
    asker = new_asker()
    for number in range(400):
        width_at(asker, 1.0 + number / 200)
    for _ in range(1000):
        asker.miss(3.0)
    seen = [width_at(asker, 3.0 + number / 50) for number in range(5 * 50)]
    assert seen[0] == NARROWEST
    assert seen[-1] == WIDEST, "and not after a minute"


def test_a_miss_at_the_narrowest_is_not_put_down_to_a_wider_one() -> None:
    asker = new_asker()
    asker.miss(1.0)
    for at_s in (1.0, 1.5, 2.0, 2.5):
        assert width_at(asker, at_s) == NARROWEST
        asker.miss(at_s)
    assert width_at(asker, 2.6) == NARROWEST
    assert width_at(asker, 2.6 + CALM_S) == 50  # the pause that the widest has does not grow
    assert width_at(asker, 2.6 + CALM_S + 2 * STEP_S) > 50


@pytest.mark.parametrize(("rate_rps", "width"), [(50, 100), (110, 75), (150, 75), (300, 50)])
def test_the_ceiling_stays_a_width_above_where_servers_can_answer_what_arrives(rate_rps: int, width: int) -> None:
    # In full batches the server answers 100 a second at the widest, 133 at 75 %, 200 at 50 % and 400 at 25 %.
    asker = new_asker()
    asker.miss(1.0)
    seen = [width_at(asker, 1.0 + number / rate_rps) for number in range(10 * rate_rps)]
    assert set(seen[-3 * rate_rps :]) == {width}
    if width == WIDEST:
        return
    # What then comes more often than it can answer lowers the ceiling before anybody has waited for it.
    burst = [width_at(asker, 11.0 + number / 450) for number in range(5 * 450)]
    assert burst[0] == width
    assert set(burst[-450:]) == {NARROWEST}


def test_who_allows_no_narrow_width_gets_the_narrowest_that_he_allows() -> None:
    asker = new_asker()
    asker.miss(1.0)
    assert width_at(asker, 1.0, IN_TIME[2:]) == 75
    assert width_at(asker, 1.1) == NARROWEST


def test_a_miss_of_a_request_that_allows_one_width_narrows_the_others() -> None:
    asker = new_asker()
    asker.miss(1.0)
    assert width_at(asker, 1.0, IN_TIME[-1:]) == WIDEST
    assert width_at(asker, 1.1) == NARROWEST


def test_where_nothing_is_in_time_what_drains_first_below_the_ceiling_runs() -> None:
    asker = new_asker()
    asker.miss(1.0)
    # By what was observed, the narrowest has become the slowest; it has been the only one to be observed.
    late = [line_candidate("a", width, per_item_s=1.0, drain_s=2.0 - width / 100) for width in WIDTHS]
    assert width_at(asker, 1.0, late) == NARROWEST


@given(st.lists(st.tuples(st.floats(0.001, 2.0), st.sampled_from(["miss", "used", "fine"])), min_size=1, max_size=60))
def test_within_a_second_of_a_miss_nothing_wider_than_the_narrowest_runs(story: list[tuple[float, str]]) -> None:
    asker = new_asker()
    now_s, missed_s = 0.0, -10.0
    for after_s, what in story:
        now_s += after_s
        if what == "miss":
            asker.miss(now_s)
            missed_s = now_s
        else:
            asker.observe(slack_used=0.9 if what == "used" else 0.1, now_s=now_s)
        chosen = width_at(asker, now_s)
        assert chosen == NARROWEST or now_s - missed_s >= CALM_S
    # Whatever was: who is left alone for long enough runs at the widest.
    for _ in range(200):
        now_s += STEP_S
        chosen = width_at(asker, now_s)
    assert chosen == WIDEST


def test_its_numbers_can_be_set() -> None:
    asker = Asker("lert:brownout,calm_s=3,step_s=0.5,used=0.95")
    assert width_at(asker, 0.0) == WIDEST
    asker.observe(slack_used=0.9, now_s=5.0)
    assert width_at(asker, 5.0) == WIDEST  # three fifths would have been enough
    asker.miss(5.15)
    seen = {at_s: width_at(asker, at_s) for at_s in (5.2, 8.1, 8.2, 8.6, 8.7)}
    assert list(seen.values()) == [NARROWEST, NARROWEST, 50, 50, 75]


def test_thrift_below_a_ceiling_is_thrift_until_a_request_is_missed() -> None:
    asker, thrift = Asker("thrift:brownout"), Asker("thrift")
    for number in range(40):
        now_s = number * 0.05
        slack_s = 0.002 * (1 + number % 20)
        assert width_at(asker, now_s, slack_s=slack_s) == width_at(thrift, now_s, slack_s=slack_s)
    asker.miss(2.0)
    assert width_at(asker, 2.0) == NARROWEST != width_at(thrift, 2.0)
    assert asker.query(IN_TIME, now_s=2.5).reason is Reason.BELOW_CEILING
    seen = [width for _, width in widths_until(asker, 2.5, 2.0 + CALM_S + 5 * STEP_S)]
    assert list(dict.fromkeys(seen)) == list(WIDTHS)  # one after another


def full_candidate(width: int, *, per_item_s: float, fixed_s: float, wait_s: float = 0.0) -> Candidate:
    """One whose batch could be full."""
    return line_candidate(
        "a", width, per_item_s=per_item_s, fixed_s=fixed_s, wait_s=wait_s, items=32, max_batch_size=32, drain_s=0.0
    )


@given(per_item_s=st.floats(0.0001, 0.01), fixed_s=st.floats(0.0, 0.05))
def test_a_batch_that_could_be_narrower_is_as_small_as_is_efficient(per_item_s: float, fixed_s: float) -> None:
    candidates = [full_candidate(width, per_item_s=per_item_s, fixed_s=fixed_s) for width in WIDTHS]
    _, width, items = new_asker().choice(candidates, items=40, slack_s=10.0)
    assert width == WIDEST

    def rate_rps(count: int) -> float:
        return count / (per_item_s * count + fixed_s)

    def is_enough(count: int) -> bool:
        is_long = per_item_s * (count + 1) + fixed_s > AHEAD_S * (1 + 1e-6)
        return is_long and rate_rps(count) >= EFFICIENCY * rate_rps(32) * (1 - 1e-6)

    assert is_enough(items) or items == 32
    assert items == 1 or not (
        per_item_s * items + fixed_s > AHEAD_S * (1 + 1e-6)
        and rate_rps(items - 1) >= EFFICIENCY * rate_rps(32) * (1 + 1e-6)
    )


def test_a_batch_that_could_not_be_narrower_is_full() -> None:
    alone = [full_candidate(100, per_item_s=0.002, fixed_s=0.001)]
    assert new_asker().choice(alone, items=40, slack_s=10.0) == ("a", 100, 32)
    asker = new_asker()
    asker.miss(1.0)
    candidates = [full_candidate(width, per_item_s=0.002, fixed_s=0.001) for width in WIDTHS]
    assert asker.choice(candidates, now_s=1.0, items=40, slack_s=10.0) == ("a", NARROWEST, 32)


def test_a_busy_server_is_sent_a_wider_batch_when_it_is_almost_free() -> None:
    def asked(wait_s: float, width: int = 100, policy: str = "lert:brownout") -> Decision:
        widths = WIDTHS if width != NARROWEST else (NARROWEST,)
        candidates = [full_candidate(width, per_item_s=0.001, fixed_s=0.001, wait_s=wait_s) for width in widths]
        return Asker(policy).query(candidates, now_s=7.0, items=40, slack_s=10.0)

    held = asked(0.02)
    assert isinstance(held, Hold)
    assert held.until_s == pytest.approx(7.02 - AHEAD_S)
    assert isinstance(asked(AHEAD_S), Dispatch)
    assert isinstance(asked(0.02, NARROWEST), Dispatch)
    assert isinstance(asked(0.02, policy="jsq:brownout"), Dispatch)  # binds on arrival, whatever a server has
