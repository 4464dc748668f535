"""How long a batch takes: a·n + b, fitted to what is observed of one server and model.

The straight line is what batching looks like on CPUs and on GPUs beyond the launch-bound range. It is fitted by
least squares over observations whose weight decays, so a machine that throttles is noticed after some tens of
batches; a single stall counts no more than OUTLIER_RATIO times what was expected, because a server that looks slow
is not chosen and so would never be seen to be fast again.
"""

from __future__ import annotations

from dataclasses import dataclass

Sums = tuple[float, float, float, float, float]

DECAY = 0.95
"""Weight an observation keeps when the next one comes; half after 14, a twentieth after 58."""
OUTLIER_RATIO = 3.0
"""An observation counts as at most this many times what was expected; a machine that is slower for good is believed
after a few batches all the same, because what is expected grows with each."""


def fitted_line(weight: float, sum_n: float, sum_nn: float, sum_t_s: float, sum_nt_s: float) -> tuple[float, float]:
    """Return (seconds an item, seconds a batch) by the weighted sums of a LatencyFit, neither below 0.

    A function of numbers, because a simulator compiles it.
    """
    if weight == 0:
        return (0.0, 0.0)
    mean_n, mean_t_s = sum_n / weight, sum_t_s / weight
    variance = sum_nn / weight - mean_n * mean_n
    # All of one size: any split between a and b fits, and rounding alone would choose one.
    if variance < 1e-6 * mean_n * mean_n:
        return (mean_t_s / mean_n, 0.0)
    # Least squares: the slope is the covariance of items and time over the variance of items.
    slope_s = (sum_nt_s / weight - mean_n * mean_t_s) / variance
    # Each bound is the least-squares line under the constraint that the other parameter is 0.
    if slope_s <= 0:
        return (0.0, mean_t_s)
    intercept_s = mean_t_s - slope_s * mean_n
    if intercept_s < 0:
        return (sum_nt_s / sum_nn, 0.0)
    return (slope_s, intercept_s)


def observed_sums(sums: Sums, line: tuple[float, float], items: float, service_s: float) -> Sums:
    """Return the weighted sums after a batch of ``items`` took ``service_s``; likewise a function of numbers.

    Args:
        sums: weight, Σn, Σn², Σt and Σnt before it.
        line: fitted to them.
        items: in the batch.
        service_s: as observed; what counts of it is bounded.
    """
    weight, sum_n, sum_nn, sum_t_s, sum_nt_s = sums
    if weight > 1:
        # The mean as well, because a line through batches of one size says too little of smaller ones.
        expected_s = max(line[0] * items + line[1], sum_t_s / weight)
        service_s = min(service_s, OUTLIER_RATIO * expected_s)
    return (
        weight * DECAY + 1,
        sum_n * DECAY + items,
        sum_nn * DECAY + items * items,
        sum_t_s * DECAY + service_s,
        sum_nt_s * DECAY + items * service_s,
    )


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """Weighted sums of observations of one (server, model); immutable, ``observe`` returns a new one."""

    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_t_s: float = 0.0
    sum_nt_s: float = 0.0

    def observe(self, items: int, service_s: float) -> LatencyFit:
        """Return the fit after a batch of ``items`` took ``service_s``."""
        sums = (self.weight, self.sum_n, self.sum_nn, self.sum_t_s, self.sum_nt_s)
        return LatencyFit(*observed_sums(sums, self.line(), items, service_s))

    def line(self) -> tuple[float, float]:
        """Return (seconds an item, seconds a batch), neither below 0; (0, 0) when empty.

        With batches of one size only, the time is laid on the items alone.
        """
        return fitted_line(self.weight, self.sum_n, self.sum_nn, self.sum_t_s, self.sum_nt_s)
