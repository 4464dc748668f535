"""How sure one can be of a figure: interquartile means and intervals.

After Agarwal et al., "Deep RL at the edge of the statistical precipice" (NeurIPS 2021): the interquartile mean is moved
by outliers less than the mean and wastes less than the median; intervals come from a bootstrap that is stratified, so
each scenario keeps its share. Traces are resampled whole: what policies did on a trace stays together, so differences
between policies are paired and seeds of one trace are not taken for independent runs.

scipy draws the bootstrap: each stratum is one of its samples, made of the indices of the traces, and a statistic looks
up what it needs at these indices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.reporting.claim import Interval

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
RESAMPLES: Final = 2000
CONFIDENCE: Final = 0.95
_CUT: Final = 0.25


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number over all traces with its 95 % interval, which is None when there are too few traces for one."""

    value: float
    interval: Interval | None = None


def interquartile_mean(values: Any) -> Any:
    """Return the mean of the middle half of the values along the last axis; NaN where one of them is."""
    from scipy.stats import trim_mean

    # Trimming would drop a NaN for the largest value.
    return np.where(np.isnan(values).any(axis=-1), np.nan, trim_mean(values, _CUT, axis=-1))


def estimate(statistic: Callable[[Sequence[Indices]], Any], strata: Sequence[int], *, seed: int = 0) -> Estimate:
    """Return a statistic of the traces, with its interval by a stratified bootstrap.

    The statistic is a function of the indices of the traces of each stratum, int64 [..., traces], and returns [...].
    ``strata`` are their numbers of traces.
    """
    from scipy.stats import bootstrap

    everything = [np.arange(count) for count in strata]
    value = float(statistic(everything))
    if min(strata) < 2 or np.isnan(value):
        return Estimate(value)
    found = bootstrap(
        everything,
        lambda *indices, axis: statistic(indices),
        n_resamples=RESAMPLES,
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Estimate(value, Interval(float(found.low), float(found.high)))


def estimate_iqm(strata: Sequence[Floats], *, seed: int = 0, is_sure: bool = True) -> Estimate:
    """Return the interquartile mean of all values by trace of all strata, one a scenario; ``is_sure`` with interval."""
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
