"""One promise, held against what was found.

A claim without a value is not met. It is shown all the same, so that a bar can't disappear from a report because what
it is about is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise.

    Attributes:
        name: What is promised, and of whom.
        value: What was measured; None where there is nothing to measure it on.
        unit: The unit of value, bar and interval; empty for counts.
        bar: What the value is held against.
        is_floor: Whether the value must be at least the bar, else at most.
        interval: How sure the value is; None where that is unknown.
        is_certain: Whether the whole interval must lie above 0 too.
        note: How to read it, what was compared, what fails.
    """

    name: str
    value: float | None
    unit: str
    bar: float
    is_floor: bool = False
    interval: Interval | None = None
    is_certain: bool = False
    note: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        if self.value is None or math.isnan(self.value):
            return False
        if self.is_certain and (self.interval is None or self.interval.low <= 0):
            return False
        return self.value >= self.bar if self.is_floor else self.value <= self.bar

    def __str__(self) -> str:
        """Return the claim as a line for a terminal."""
        value = "none" if self.value is None else f"{self.value:.2f}"
        sign, met = ">=" if self.is_floor else "<=", "met    " if self.is_met else "NOT MET"
        return f"{met}  {self.name}: {value} {sign} {self.bar:.2f} {self.unit}".rstrip()
