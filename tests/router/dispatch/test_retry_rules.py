from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import RetrySettings
from orchestrator.errors import (
    CapacityError,
    ConfigError,
    ConnectionLostError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.router.dispatch.retry_rules import (
    Cause,
    RetryBudget,
    Verdict,
    is_repeatable,
    judge_retry,
    overdue_after_s,
)

SETTINGS = RetrySettings(budget_ratio=0.1, minimum=10, burst=50)
FRESH: dict[str, Any] = {
    "cause": Cause.FAILED,
    "repeatable": True,
    "attempts": 1,
    "max_attempts": 3,
    "others": 0,
    "slack_s": None,
    "elsewhere_s": 0.01,
}


@given(steps=st.lists(st.one_of(st.integers(0, 40), st.none()), max_size=200), start=st.floats(0, 50))
def test_never_more_is_sent_again_than_the_budget_gives(steps: list[int | None], start: float) -> None:
    budget, spent, answered = RetryBudget(start, 0.0), 0, 0
    for step in steps:
        if step is None:
            after = budget.spent()
            spent, budget = (spent, budget) if after is None else (spent + 1, after)
        else:
            budget, answered = budget.answered(step, SETTINGS), answered + step
        assert 0 <= budget.tokens <= 50
    assert spent <= start + SETTINGS.budget_ratio * answered + 1e-6


@given(tokens=st.floats(0, 50), waits_s=st.lists(st.floats(0, 5), max_size=20))
def test_time_alone_fills_the_budget_to_its_minimum_and_never_takes_from_it(
    tokens: float, waits_s: list[float]
) -> None:
    budget, now_s = RetryBudget(tokens, 0.0), 0.0
    for wait_s in waits_s:
        now_s += wait_s
        after = budget.refilled(SETTINGS, now_s=now_s)
        assert budget.tokens <= after.tokens <= max(budget.tokens, 10)
        budget = after
    assert budget.refilled(SETTINGS, now_s=now_s + 10).tokens >= 10


def test_an_empty_budget_gives_nothing_and_ten_answers_give_one() -> None:
    empty = RetryBudget(0.0, 0.0)
    assert empty.spent() is None
    assert empty.answered(10, SETTINGS).spent() == RetryBudget(0.0, 0.0)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({}, Verdict.SEND_AGAIN),
        ({"others": 1}, Verdict.ELSEWHERE_ALREADY),
        ({"repeatable": False}, Verdict.NOT_REPEATABLE),
        ({"repeatable": False, "cause": Cause.OVERDUE}, Verdict.SEND_AGAIN),
        ({"attempts": 3}, Verdict.NO_ATTEMPTS_LEFT),
        ({"slack_s": 0.02}, Verdict.SEND_AGAIN),
        ({"slack_s": 0.01}, Verdict.TOO_LATE),
        ({"slack_s": -1.0, "elsewhere_s": None}, Verdict.TOO_LATE),
        ({"elsewhere_s": None}, Verdict.SEND_AGAIN),
        ({"elsewhere_s": None, "cause": Cause.OVERDUE}, Verdict.NOWHERE_ELSE),
        ({"elsewhere_s": None, "cause": Cause.HEDGE}, Verdict.NOWHERE_ELSE),
    ],
)
def test_what_becomes_of_a_request(change: dict[str, object], verdict: Verdict) -> None:
    assert judge_retry(**(FRESH | change)) is verdict


@pytest.mark.parametrize(
    ("error", "repeatable"),
    [
        (ServerUnavailableError("x", executed=False), True),
        (ConnectionLostError("x"), True),
        (CapacityError("x"), True),
        (DeadlineError("x", executed=False), True),
        (TransientError("x"), True),
        (WrongAnswerError("x"), True),
        (ModelNotFoundError("x"), True),
        (PermanentError("x"), False),
        (ConfigError("x"), False),
    ],
)
def test_what_a_pure_function_may_be_asked_again(error: SlimError, repeatable: bool) -> None:
    assert is_repeatable(error) is repeatable


@given(expected_s=st.floats(1e-6, 100))
def test_overdue_is_never_before_the_floor_nor_before_what_is_expected(expected_s: float) -> None:
    after_s = overdue_after_s(expected_s, SETTINGS)
    assert after_s is not None
    assert after_s >= max(expected_s, SETTINGS.overdue_floor_ms / 1e3)
    assert overdue_after_s(0.0, SETTINGS) is None
