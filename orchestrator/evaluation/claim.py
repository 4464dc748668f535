"""One promise of a suite, held against what was found.

A claim without a value is not met; it is drawn all the same, so that a bar can't disappear from a report because what
it is about is missing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.evaluation.statistics import Estimate, Interval


@dataclass(frozen=True, slots=True)
class Claim:
    """One promise.

    Attributes:
        name: what is promised, and of whom.
        found: what was measured; None: there is nothing to measure it on.
        bar: that it is held against.
        unit: of both.
        is_floor: whether the value must be at least the bar, else at most.
        is_certain: whether the interval must lie on the right side of 0 too.
        holds: whether what the claim takes for granted (the same accuracy, the same deadlines met) is so.
        note: how to read it, what was compared, what fails.
    """

    name: str
    found: Estimate | None
    bar: float
    unit: str
    is_floor: bool = True
    is_certain: bool = False
    holds: bool = True
    note: str = ""

    @property
    def value(self) -> float | None:
        """What was measured."""
        return None if self.found is None else self.found.value

    @property
    def interval(self) -> Interval | None:
        """Of the value."""
        return None if self.found is None else self.found.interval

    @property
    def is_met(self) -> bool:
        """Whether the promise is kept."""
        if self.found is None or not self.holds or math.isnan(self.found.value):
            return False
        if self.is_certain and (self.interval is None or self.interval.low <= 0):
            return False
        return self.found.value >= self.bar if self.is_floor else self.found.value <= self.bar
