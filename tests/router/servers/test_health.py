from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import EjectionSettings
from orchestrator.router.servers.health import BackOff, ServerHealth
from orchestrator.snapshot import ModelName

A, B = ModelName("a"), ModelName("b")
SETTINGS = EjectionSettings(ejection_s=5)


def answering() -> ServerHealth:
    health = ServerHealth()
    health.note_reachable(now_s=0.0)
    return health


@given(st.integers(0, 5000))
def test_a_back_off_doubles_up_to_half_a_minute_however_often_a_model_fails(failures: int) -> None:
    health = answering()
    health.suspend([A], BackOff(failures))
    health.back_off(A, now_s=100.0)
    back_off = health.suspended[A]
    assert back_off.failures == failures + 1
    assert back_off.until_s - 100.0 == min(30.0, 2.0 ** min(failures, 32))


def test_a_model_that_failed_is_tried_after_a_while_and_forgotten_when_it_answers() -> None:
    health = answering()
    health.back_off(A, now_s=10.0)
    assert [health.is_trial_due(A, now_s=now_s) for now_s in (10.5, 11.0)] == [False, True]
    health.back_off(A, now_s=11.0)
    assert [health.is_trial_due(A, now_s=now_s) for now_s in (12.5, 13.0)] == [False, True]
    health.restore(A)
    assert not health.suspended


def test_what_is_suspended_again_keeps_its_back_off_and_what_is_not_served_is_forgotten() -> None:
    health = answering()
    health.back_off(A, now_s=10.0)
    health.suspend([A, B])
    assert [health.is_trial_due(name, now_s=10.0) for name in (A, B)] == [False, True]
    health.keep([B])
    assert set(health.suspended) == {B}


def test_an_ejected_server_is_out_and_tries_no_model_before_it_is_readmitted() -> None:
    health = answering()
    assert health.eject([A], SETTINGS, now_s=10.0) == 15.0
    assert not health.is_healthy
    assert not health.is_trial_due(A, now_s=20.0)
    health.readmit(now_s=15.0)
    assert health.is_healthy
    assert health.is_trial_due(A, now_s=15.0)


@pytest.mark.parametrize(("away_s", "returned_s"), [(0.5, None), (1.0, 11.0)])
def test_only_who_was_away_for_a_second_comes_back_slowly(away_s: float, returned_s: float | None) -> None:
    health = answering()
    assert health.note_unreachable("connection refused", now_s=10.0)
    assert not health.note_unreachable("still refused", now_s=10.1)
    assert (health.is_healthy, health.problem) == (False, "still refused")
    assert health.note_reachable(now_s=10.0 + away_s)
    assert (health.is_healthy, health.returned_s) == (True, returned_s)


def test_a_server_is_asked_again_soon_while_it_is_out_and_when_a_model_may_be_tried() -> None:
    assert ServerHealth().pause_s(60.0, now_s=0.0) == 0.25
    health = answering()
    assert health.pause_s(60.0, now_s=0.0) == 60.0
    health.back_off(A, now_s=0.0)
    assert health.pause_s(60.0, now_s=0.4) == pytest.approx(0.6)
    assert health.pause_s(60.0, now_s=5.0) == 0.05


def test_an_answer_ends_a_row_of_failures_and_is_a_sign_of_life() -> None:
    health = answering()
    assert health.heard_s == -math.inf
    health.note_failure(sent_s=1.0, now_s=2.0)
    health.note_answer(A, now_s=3.0)
    assert (health.heard_s, health.failures_in_row) == (3.0, 0)


def test_a_model_alone_is_suspect_where_another_has_answered_since() -> None:
    health = answering()
    health.note_answer(B, now_s=1.0)
    health.note_overdue(A, sent_s=2.0)
    assert (health.is_suspect, dict(health.suspects)) == (True, {A: 2.0})
    assert [health.silent_since_s(model) for model in (A, B)] == [2.0, 2.0]
    health.note_answer(B, now_s=3.0)
    health.is_suspect = False
    health.note_overdue(A, sent_s=2.5)
    assert (health.is_suspect, dict(health.suspects)) == (False, {A: 2.0})
    assert [health.silent_since_s(model) for model in (A, B)] == [2.0, None]
    health.note_answer(A, now_s=4.0)
    health.note_overdue(A, sent_s=3.5)
    assert (health.is_suspect, dict(health.suspects)) == (False, {})


def test_what_is_silent_is_expected_back_after_as_long_again_and_what_is_out_when_it_is_tried() -> None:
    health = answering()
    assert health.back_s(A, now_s=5.0) is None
    health.note_overdue(A, sent_s=2.0)
    assert health.back_s(A, now_s=5.0) == 8.0
    health.suspend([B])
    health.is_suspect = False
    assert health.back_s(B, now_s=5.0) == 5.0
    health.back_off(B, now_s=5.0)
    assert health.back_s(B, now_s=5.0) == 6.0


def test_failures_of_attempts_that_were_under_way_together_count_once() -> None:
    health = answering()
    for _ in range(5):
        health.note_failure(sent_s=1.0, now_s=2.0)
    assert health.failures_in_row == 1
    health.note_failure(sent_s=3.0, now_s=4.0)
    assert health.failures_in_row == 2


def test_ejections_grow_when_they_follow_each_other_and_are_forgiven_in_time() -> None:
    settings = EjectionSettings(ejection_s=5, ejection_max_s=30)
    health, now_s, lengths_s = answering(), 0.0, []
    for _ in range(5):
        until_s = health.eject([A], settings, now_s=now_s)
        assert health.ejected_until_s == until_s
        lengths_s.append(until_s - now_s)
        now_s = until_s
        health.readmit(now_s=now_s)
    assert lengths_s == [5, 10, 20, 30, 30]
    assert health.eject([A], settings, now_s=now_s + 1000) == now_s + 1000 + 5


@given(gone_s=st.floats(0, 100), more_s=st.floats(0, 100))
def test_what_returns_gets_a_share_that_grows_to_the_whole(gone_s: float, more_s: float) -> None:
    health = answering()
    health.readmit(now_s=50)
    early, late = (health.share(SETTINGS, now_s=50 + s) for s in (gone_s, gone_s + more_s))
    assert 0 < early <= late <= 1
    assert health.share(SETTINGS, now_s=50 + SETTINGS.slow_start_s) == 1
    assert answering().share(SETTINGS, now_s=0) == 1
