"""A token bucket as a pure function from a state and a time to a new state.

What comes may be let through at a steady rate, and after a pause in a burst. So in any span of t seconds no more than
``per_s * t + burst`` is let through, whatever the order and size of what comes (ITU-T I.371). Tenants' quotas, retries
and what a peer of a connection may do for nothing all go by this one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Final, Self

_SLACK_S: Final = 1e-6
"""How much too early is in time: rounding must not refuse the last of a burst."""


@dataclass(frozen=True, slots=True)
class Rate:
    """What is allowed.

    Attributes:
        per_s: tokens that come back in the long run.
        burst: tokens that may be taken at once, after a pause; at least what one request takes.
    """

    per_s: float
    burst: float

    def share(self, ratio: float) -> Rate:
        """Return the part of a rate for one of several gateways; the burst never falls below one."""
        return Rate(self.per_s * ratio, max(1.0, self.burst * ratio))


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """How much may be taken now.

    Attributes:
        tokens: that are left.
        at_s: when that was, seconds on a clock that never goes back.
    """

    tokens: float
    at_s: float

    def refilled_by(self, rate: Rate, *, now_s: float) -> Self:
        """Return the bucket with what time has brought back, never more than the burst."""
        grown = self.tokens + rate.per_s * max(0.0, now_s - self.at_s)
        return replace(self, tokens=min(rate.burst, grown), at_s=now_s)

    def spent(self, amount: float = 1.0) -> Self | None:
        """Return the bucket after an amount was taken; None when it holds less."""
        return replace(self, tokens=self.tokens - amount) if self.tokens >= amount else None


FULL: Final = TokenBucket(math.inf, 0.0)
"""A bucket that is full at any rate."""


def take(bucket: TokenBucket, rate: Rate, amount: float, *, now_s: float) -> tuple[TokenBucket, float]:
    """Return the bucket after an amount, from 0 to the burst, that comes now, and 0 where it is let through.

    Where it is not, nothing is taken, and the second value is after how many seconds it would be.
    """
    filled = bucket.refilled_by(rate, now_s=now_s)
    wait_s = (amount - filled.tokens) / rate.per_s
    if wait_s > _SLACK_S:
        return bucket, wait_s
    return replace(filled, tokens=filled.tokens - amount), 0.0
