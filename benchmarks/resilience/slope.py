"""A straight line through readings of something that may grow, and how sure its slope is.

Readings of memory hang together (an allocator that has taken an arena keeps it), so they are no independent errors,
and the textbook's uncertainty over all of them would be far too small. So readings are averaged over blocks that are
long against such spells, the line goes through the blocks, and the interval is Student's with what blocks are left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from orchestrator.reporting.student import quantile_95


@dataclass(frozen=True, slots=True)
class Slope:
    """How quickly something grows.

    Attributes:
        per_s: The fitted slope.
        margin_per_s: Half of its 95 % interval; infinite with fewer than three blocks.
    """

    per_s: float
    margin_per_s: float

    @property
    def low_per_s(self) -> float:
        """Lower end of the interval."""
        return self.per_s - self.margin_per_s

    @property
    def high_per_s(self) -> float:
        """Upper end of the interval."""
        return self.per_s + self.margin_per_s


def fit_slope(at_s: Sequence[float], values: Sequence[float], *, block_s: float) -> Slope:
    """Return the slope of readings, taken at ascending times, by averages over blocks of ``block_s``."""
    blocks: dict[int, list[tuple[float, float]]] = {}
    for at, value in zip(at_s, values, strict=True):
        blocks.setdefault(int((at - at_s[0]) // block_s), []).append((at, value))
    xs = [mean(at for at, _ in block) for block in blocks.values()]
    ys = [mean(value for _, value in block) for block in blocks.values()]
    if len(xs) < 2:
        return Slope(0.0, math.inf)
    x, y = mean(xs), mean(ys)
    spread = sum((each - x) ** 2 for each in xs)
    per_s = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / spread
    freedom = len(xs) - 2
    if freedom < 1:
        return Slope(per_s, math.inf)
    left = sum((b - y - per_s * (a - x)) ** 2 for a, b in zip(xs, ys, strict=True))
    return Slope(per_s, quantile_95(freedom) * math.sqrt(left / freedom / spread))
