"""How much better or worse a candidate is, and how sure that is at whatever moment one looks.

A rollout is looked at after every block, and ends as soon as it may. An interval of a fixed number of blocks, as of a
t-test, would be left by chance sooner or later. So this is a confidence sequence: with a probability of 95 % the true
mean is within it at all times together. It is the normal mixture of Robbins (1970) with the variance that was observed,
as in Waudby-Smith et al., "Time-uniform central limit theory and asymptotic confidence sequences" (2024), widened as
Student's t is for the few blocks of the beginning.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from orchestrator.reporting.student import quantile_95

_ALPHA: Final = 0.05
_NORMAL_95: Final = 1.96
_EXPECTED: Final = 0.05**2
"""Squared utility that the mixture is tightest around, over all blocks; it stands for a variance not yet observed: of
blocks that are all alike it takes a dozen to know a difference to a hundredth, and three to know one of four."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """What blocks have shown; immutable.

    Attributes:
        requests: of the candidate, in all blocks.
        mean: by how much its requests were worth more than those of the policy in force.
        squares: the sum of squared distances from the mean.
    """

    blocks: int = 0
    requests: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def added(self, difference: float, requests: int) -> Evidence:
        """Return the evidence with one more block (Welford's update)."""
        blocks = self.blocks + 1
        away = difference - self.mean
        mean = self.mean + away / blocks
        return Evidence(blocks, self.requests + requests, mean, self.squares + away * (difference - mean))

    @property
    def half(self) -> float:
        """Half of the interval; infinite for fewer than three blocks, which say nothing of their variance."""
        if self.blocks < 3:
            return math.inf
        observed = self.squares * self.blocks / (self.blocks - 1)
        ratio = (observed + _EXPECTED) / _EXPECTED
        few = quantile_95(self.blocks - 1) / _NORMAL_95
        return few * math.sqrt((observed + _EXPECTED) * (math.log(ratio) - 2 * math.log(_ALPHA))) / self.blocks

    def __str__(self) -> str:
        return f"{self.mean:+.4f} ± {self.half:.4f} of utility in {self.blocks} blocks"
