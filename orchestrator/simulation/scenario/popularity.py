"""How popular each family of a scenario is, at any part of the time.

Popularity drifts in waves: family k of n is k/n of a period behind the first, and what it asks for swings around its
share by the amplitude. Above 1 the waves are cut off at 0, so that a family has times without any requests; the shares
of all add up to 1 at any time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_GRID = 1000


def shares_at(parts: Floats, shares: Sequence[float], *, amplitude: float, periods: float) -> Floats:
    """Return the part of all requests that is each family's, [families, times], at parts of the whole time, 0..1."""
    weights = np.array(shares, float)[:, None]
    phases = np.arange(len(shares))[:, None] / len(shares)
    waves = np.maximum(0.0, 1 + amplitude * np.cos(2 * np.pi * (periods * parts[None, :] - phases)))
    if len(shares) == 1:
        waves = np.ones_like(waves)
    found = weights * waves
    return np.asarray(found / found.sum(axis=0))


def mean_shares(shares: Sequence[float], *, amplitude: float, periods: float) -> list[float]:
    """Return the part of all requests that is each family's, over the whole time."""
    parts = (np.arange(_GRID) + 0.5) / _GRID
    return [float(share) for share in shares_at(parts, shares, amplitude=amplitude, periods=periods).mean(axis=1)]


def draw_families(
    parts: Floats, shares: Sequence[float], rng: np.random.Generator, *, amplitude: float, periods: float
) -> Floats:
    """Return the family of each arrival, by index, float64 [arrivals]; ``parts`` of the whole time have passed then."""
    cumulative = np.cumsum(shares_at(parts, shares, amplitude=amplitude, periods=periods), axis=0)
    uniforms = rng.random(len(parts))
    return np.asarray((uniforms[None, :] > cumulative[:-1]).sum(axis=0), float)
