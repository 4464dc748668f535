"""How sure one can be of a comparison: interquartile means, intervals, probability of improvement, hypervolume.

After Agarwal et al., "Deep RL at the edge of the statistical precipice" (NeurIPS 2021): the interquartile mean is moved
by outliers less than the mean and wastes less than the median; intervals come from a bootstrap that is stratified, so
each scenario keeps its share. Traces are resampled whole: what policies did on a trace stays together, so differences
between policies are paired and seeds of one trace are not taken for independent runs.

scipy draws the bootstrap: each stratum is one of its samples, made of the indices of the traces, and a statistic looks
up what it needs at these indices. moocore, of the authors of the usual algorithm, measures hypervolumes. The
probability of improvement is a mean of comparisons and written here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.reporting.claim import Claim, Interval

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
_CUT: Final = 0.25
NEEDS: Final = "evaluation needs scipy and moocore; install them with pip install 'slim-scheduler[sim]'"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how sure it is.

    Attributes:
        value: The number, over all traces.
        interval: Its 95 % interval; None when there are too few traces for one.
    """

    value: float
    interval: Interval | None = None


def interquartile_mean(values: Any, axis: int = -1) -> Any:
    """Return the mean of the middle half of the values along an axis; NaN where one of them is."""
    from scipy.stats import trim_mean

    # Trimming would drop a NaN for the largest value.
    return np.where(np.isnan(values).any(axis=axis), np.nan, trim_mean(values, _CUT, axis=axis))


def estimate(
    statistic: Callable[[Sequence[Indices]], Any], strata: Sequence[int], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return a statistic of the traces, with its interval by a stratified bootstrap.

    Args:
        statistic: A function of the indices of the traces of each stratum, int64 [..., traces]; returns [...].
        strata: How many traces each has.
        seed: The seed of the resampling.
        resamples: How often the traces are drawn.
    """
    from scipy.stats import bootstrap

    everything = [np.arange(count) for count in strata]
    value = float(statistic(everything))
    if min(strata) < 2 or np.isnan(value):
        return Estimate(value)
    found = bootstrap(
        everything,
        lambda *indices, axis: statistic(indices),
        n_resamples=resamples,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, Interval(float(found.low), float(found.high)))


def estimate_iqm(strata: Sequence[Floats], *, seed: int = 0, is_sure: bool = True) -> Estimate:
    """Return the interquartile mean of all values of all strata.

    Args:
        strata: Values by trace, one array a scenario.
        seed: The seed of the resampling.
        is_sure: Whether an interval is wanted.
    """
    everything = np.concatenate(strata)
    if not is_sure or np.isnan(everything).any():
        return Estimate(float(interquartile_mean(everything)))
    return estimate(
        lambda indices: interquartile_mean(
            np.concatenate([values[at] for values, at in zip(strata, indices, strict=True)], axis=-1)
        ),
        [len(values) for values in strata],
        seed=seed,
    )


def estimate_ratio(upper: Floats, lower: Floats, *, seed: int = 0) -> Estimate:
    """Return the interquartile mean of one policy over that of another on the same traces."""
    return estimate(
        lambda indices: interquartile_mean(upper[indices[0]]) / interquartile_mean(lower[indices[0]]),
        [len(upper)],
        seed=seed,
    )


def estimate_difference(upper: Floats, lower: Floats, *, seed: int = 0) -> Estimate:
    """Return the interquartile mean of one policy less that of another on the same traces."""
    return estimate(
        lambda indices: interquartile_mean(upper[indices[0]]) - interquartile_mean(lower[indices[0]]),
        [len(upper)],
        seed=seed,
    )


def estimate_closed(strata: Sequence[tuple[Floats, Floats, float]], *, seed: int = 0) -> Estimate:
    """Return which share of the way from another policy to a bound a policy has gone, mean over scenarios.

    Args:
        strata: Of each scenario the policy's values by trace, the other's on the same traces, and the bound, which is
            not where the other is.
        seed: The seed of the resampling.
    """

    def share(own: Floats, held: Floats, bound: float, at: Indices) -> Any:
        start = interquartile_mean(held[at])
        return (interquartile_mean(own[at]) - start) / (bound - start)

    return estimate(
        lambda indices: np.mean([share(*values, at) for values, at in zip(strata, indices, strict=True)], axis=0),
        [len(own) for own, _, _ in strata],
        seed=seed,
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


def probability_of_improvement(better: Sequence[Floats], than: Sequence[Floats], *, seed: int = 0) -> Estimate:
    """Return how likely the one is above the other on a random trace of a random scenario; ties count half.

    Args:
        better: Values of the one by trace, more is better, one array a scenario.
        than: Values of the other policy on the same traces.
        seed: The seed of the resampling.
    """
    wins = [(a > b) + 0.5 * (a == b) for a, b in zip(better, than, strict=True)]
    return estimate(
        lambda indices: np.mean([w[at].mean(axis=-1) for w, at in zip(wins, indices, strict=True)], axis=0),
        [len(w) for w in wins],
        seed=seed,
    )


def hypervolume(points: Floats) -> float:
    """Return the volume that points dominate in the unit cube, of which 0 is the reference point.

    Args:
        points: [points, objectives], more is better in each; what lies below 0 dominates nothing, above 1 is cut.
    """
    if not len(points):
        return 0.0
    try:
        from moocore import hypervolume as dominated
    except ImportError:
        raise ConfigError(NEEDS) from None
    return float(dominated(np.clip(points, 0.0, 1.0), ref=np.zeros(points.shape[1]), maximise=True))
