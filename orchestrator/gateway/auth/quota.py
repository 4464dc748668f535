"""Rates with bursts, as pure functions from a state and a time to a verdict.

The generic cell rate algorithm (ITU-T I.371): a token bucket whose whole state is one number, the time at which the
bucket would be full again. ``amount`` moves it ``amount / per_s`` seconds on, and what would put it more than
``burst / per_s`` seconds ahead of now is refused and changes nothing. So in any span of t seconds no more than
``per_s * t + burst`` is let through, whatever the order and size of what comes.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """What is allowed.

    Attributes:
        per_s: in the long run.
        burst: at once, after a pause; at least what one request takes.
    """

    per_s: float
    burst: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether an amount is let through.

    Attributes:
        full_at_s: the new state.
        wait_s: 0 when it is let through; else after how long it would be, None when never.
    """

    full_at_s: float
    wait_s: float | None


def take(full_at_s: float, rate: Rate, amount: float, *, now_s: float) -> Verdict:
    """Return the verdict on an amount that comes now.

    Args:
        full_at_s: the state; any time that has passed stands for a full bucket.
        rate: that is allowed.
        amount: at least 0.
        now_s: on a clock that never goes back.
    """
    if amount > rate.burst:
        return Verdict(full_at_s, None)
    after_s = max(full_at_s, now_s) + amount / rate.per_s
    wait_s = after_s - now_s - rate.burst / rate.per_s
    if wait_s > _SLACK_S:
        return Verdict(full_at_s, wait_s)
    return Verdict(after_s, 0.0)


# Rounding must not refuse the last of a burst; clocks of a machine that is up for years still resolve this.
_SLACK_S = 1e-6


def split(rate: Rate, share: float) -> Rate:
    """Return the part of a rate for one of several workers; the burst never falls below one."""
    return Rate(rate.per_s * share, max(1.0, rate.burst * share))
