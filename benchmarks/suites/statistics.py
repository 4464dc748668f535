"""How sure one can be of two policies on the same traces: ratios, differences, and claims on them.

Traces are resampled whole (orchestrator.evaluation.statistics), so every comparison is paired by trace.
"""

from __future__ import annotations

from orchestrator.evaluation.statistics import Estimate, Floats, estimate, interquartile_mean
from orchestrator.reporting.claim import Claim, Interval


def estimate_ratio(upper: Floats, lower: Floats) -> Estimate:
    """Return the interquartile mean of one policy over that of another on the same traces."""
    return estimate(
        lambda indices: interquartile_mean(upper[indices[0]]) / interquartile_mean(lower[indices[0]]),
        [len(upper)],
    )


def estimate_difference(upper: Floats, lower: Floats) -> Estimate:
    """Return the interquartile mean of one policy less that of another on the same traces."""
    return estimate(
        lambda indices: interquartile_mean(upper[indices[0]]) - interquartile_mean(lower[indices[0]]),
        [len(upper)],
    )


def claim_ratio(
    name: str,
    found: Estimate | None,
    bar: float,
    *,
    is_floor: bool = True,
    is_certain: bool = False,
    note: str = "",
) -> Claim:
    """Return a claim on an estimated ratio; None where there is nothing to estimate it on."""
    value, interval = (None, None) if found is None else (found.value, found.interval)
    return Claim(name, value, "ratio", bar, is_floor, interval, is_certain, note)


def less(ratio: Estimate) -> Estimate:
    """Return a ratio of the one to the other as the part by which the one is less."""
    ends = ratio.interval
    return Estimate(1 - ratio.value, None if ends is None else Interval(1 - ends.high, 1 - ends.low))
