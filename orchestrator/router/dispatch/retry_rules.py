"""Whether a request is sent once more, and from what budget; pure.

Three things send a request again: its attempt failed, its attempt is far over what was expected (*overdue*), or, where
hedging is on, it takes longer than most. All three cost a server work that somebody else may be waiting for, and all
three come in crowds when a fleet is in trouble. So they draw on one budget, a tenth of the requests that are answered:
at the worst a fleet that fails does a tenth more work than one that does not (Finagle's and Envoy's retry budgets). A
fixed minimum lets a fleet with little traffic get over the death of a server.

A failed attempt may be repeated when no answer of it can come. For a slimmable network that is every failure that may
pass elsewhere, because inference is a pure function of the input: whether the first server ran it does not matter.
Other models keep the strict rule (not executed), see the gateway's data plane.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.config import RetrySettings
from orchestrator.errors import ModelNotFoundError, SlimError, TransientError
from orchestrator.token_bucket import Rate, TokenBucket

_REFILL_S = 10.0
"""Time in which an empty budget fills up to its minimum by itself."""


@dataclass(frozen=True, slots=True)
class RetryBudget(TokenBucket):
    """How many requests may be sent again now: one token a request, which time and answered requests bring back."""

    def refilled(self, settings: RetrySettings, *, now_s: float) -> RetryBudget:
        """Return the budget with what time alone gives: up to the minimum, never beyond."""
        if self.tokens >= settings.minimum:
            return replace(self, at_s=now_s)
        return self.refilled_by(Rate(settings.minimum / _REFILL_S, settings.minimum), now_s=now_s)

    def answered(self, requests: int, settings: RetrySettings) -> RetryBudget:
        """Return the budget after so many requests were answered."""
        most = max(settings.minimum, settings.burst)
        return replace(self, tokens=min(most, self.tokens + settings.budget_ratio * requests))


class Cause(StrEnum):
    """Why a request might be sent again."""

    FAILED = "its attempt failed"
    OVERDUE = "its attempt is overdue"
    HEDGE = "it takes longer than most"


class Verdict(StrEnum):
    """What becomes of a request; all but the first two leave it to what is under way, or fail it where nothing is."""

    SEND_AGAIN = "is sent again"
    ELSEWHERE_ALREADY = "another attempt is queued or under way"
    NOT_REPEATABLE = "the failure would come again"
    NO_ATTEMPTS_LEFT = "max_attempts are used up"
    TOO_LATE = "no server could answer before its deadline"
    NOWHERE_ELSE = "no other server serves it"
    NO_BUDGET = "the retry budget is used up"


def judge_retry(
    cause: Cause,
    *,
    repeatable: bool,
    attempts: int,
    max_attempts: int,
    others: int,
    slack_s: float | None,
    elsewhere_s: float | None,
) -> Verdict:
    """Return whether a request is to be sent again, the budget apart.

    A failed one may wait for the server it failed on, which may be the only one there is. A copy beside an attempt that
    is under way goes to another server, or nowhere.

    Whether it is ``repeatable`` counts for failures alone. ``others`` are the attempts under way, or queued, beside the
    one in question; ``slack_s`` is the time until its deadline, None when its caller gave none; ``elsewhere_s`` is the
    expected time until another server would have answered it, None when there is no other.
    """
    if others > 0:
        return Verdict.ELSEWHERE_ALREADY
    if cause is Cause.FAILED and not repeatable:
        return Verdict.NOT_REPEATABLE
    if attempts >= max_attempts:
        return Verdict.NO_ATTEMPTS_LEFT
    if cause is not Cause.FAILED and elsewhere_s is None:
        return Verdict.NOWHERE_ELSE
    if slack_s is not None and slack_s <= (elsewhere_s or 0.0):
        return Verdict.TOO_LATE
    return Verdict.SEND_AGAIN


def is_repeatable(error: SlimError) -> bool:
    """Return whether an attempt that failed so may succeed elsewhere, for a model that is a pure function."""
    return isinstance(error, ModelNotFoundError | TransientError)


def overdue_after_s(expected_s: float, settings: RetrySettings) -> float | None:
    """Return after which time an attempt is overdue; None when nothing is expected of it yet."""
    if expected_s <= 0:
        return None
    return max(settings.overdue_floor_ms / 1e3, settings.overdue_factor * expected_s)
