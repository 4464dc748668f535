"""How sure one can be of two policies on the same traces: ratios, differences, wins, and claims on them.

Traces are resampled whole (orchestrator.evaluation.statistics), so every comparison is paired by trace.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from orchestrator.evaluation.statistics import Estimate, Floats, Indices, estimate, interquartile_mean
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


def estimate_closed(strata: Sequence[tuple[Floats, Floats, float]]) -> Estimate:
    """Return which share of the way from another policy to a bound a policy has gone, mean over scenarios.

    Each of the strata is a scenario: the policy's values by trace, the other's on the same traces, and the bound, which
    is not where the other is.
    """

    def share(own: Floats, held: Floats, bound: float, at: Indices) -> Any:
        start = interquartile_mean(held[at])
        return (interquartile_mean(own[at]) - start) / (bound - start)

    return estimate(
        lambda indices: np.mean([share(*values, at) for values, at in zip(strata, indices, strict=True)], axis=0),
        [len(own) for own, _, _ in strata],
    )


def claim_ratio(
    name: str,
    found: Estimate | None,
    bar: float,
    *,
    is_floor: bool = True,
    is_certain: bool = False,
    holds: bool = True,
    note: str = "",
) -> Claim:
    """Return a claim on an estimated ratio; None where there is nothing to estimate it on."""
    value, interval = (None, None) if found is None else (found.value, found.interval)
    return Claim(name, value, "ratio", bar, is_floor, interval, is_certain, holds, note)


def less(ratio: Estimate) -> Estimate:
    """Return a ratio of the one to the other as the part by which the one is less."""
    ends = ratio.interval
    return Estimate(1 - ratio.value, None if ends is None else Interval(1 - ends.high, 1 - ends.low))


def probability_of_improvement(better: Sequence[Floats], than: Sequence[Floats]) -> Estimate:
    """Return how likely the one is above the other on a random trace of a random scenario; ties count half.

    Both are values by trace, more is better, one array a scenario.
    """
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(better, than, strict=True)]
    return estimate(
        lambda indices: np.mean([w[at].mean(axis=-1) for w, at in zip(wins, indices, strict=True)], axis=0),
        [len(w) for w in wins],
    )
