"""Straight lines through measured batches, and how far to trust them.

Errors are weighed by what was measured, so a line is about as many percent wrong at batch 1 as at the largest;
unweighted, the largest batches would decide alone, and most batches are small.
"""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.profile.document import BatchProfile, FittedLine
from orchestrator.profile.energy import EnergyLine
from orchestrator.profile.fit import LatencyFit

Point = tuple[int, float]
"""Items, and seconds or joules of a batch of so many."""


def fit_line(points: Sequence[Point]) -> tuple[float, float]:
    """Return (a an item, b a batch) of a·n + b, neither below 0, by least squares of the relative errors.

    Args:
        points: At least one point; values of 0 weigh as if they were the smallest other.
    """
    positive = [value for _, value in points if value > 0]
    if not positive:
        return (0.0, 0.0)
    weighted = [(items, value, 1 / max(value, min(positive)) ** 2) for items, value in points]
    return LatencyFit(
        weight=sum(w for _, _, w in weighted),
        sum_n=sum(w * n for n, _, w in weighted),
        sum_nn=sum(w * n * n for n, _, w in weighted),
        sum_t_s=sum(w * t for _, t, w in weighted),
        sum_nt_s=sum(w * n * t for n, t, w in weighted),
    ).line()


def fit_latency(points: Sequence[Point]) -> FittedLine:
    """Return the line through all points, with its error on every other one had it not seen them.

    Args:
        points: The points, ascending in items. Fewer than three leave none to be held out.
    """
    per_item_s, fixed_s = fit_line(points)
    known, asked = points[0::2], points[1::2]
    if len(points) < 3:
        return FittedLine(per_item_s, fixed_s, (), None)
    slope_s, start_s = fit_line(known)
    errors = [abs(slope_s * items + start_s - mean_s) / mean_s for items, mean_s in asked]
    return FittedLine(per_item_s, fixed_s, tuple(items for items, _ in asked), sum(errors) / len(errors))


def fit_energy(batches: Sequence[BatchProfile]) -> EnergyLine | None:
    """Return the line through the energy of all batches; None unless all are known and from one source."""
    sources = {batch.energy_source for batch in batches}
    source = next(iter(sources), None)
    points = [(batch.items, batch.energy_j) for batch in batches if batch.energy_j is not None]
    if source is None or len(sources) > 1 or len(points) < len(batches):
        return None
    per_item_j, fixed_j = fit_line(points)
    return EnergyLine(per_item_j, fixed_j, source)
