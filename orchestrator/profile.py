"""How long a group takes on a server with a model: a·n + b, fitted to what is observed.

The straight line is what batching looks like on CPUs and on GPUs beyond the launch-bound range. It is fitted by
least squares over observations whose weight decays, so a machine that throttles is noticed after some tens of
groups; a single stall counts no more than OUTLIER_RATIO times what was expected, because a server that looks slow
is not chosen and so would never be seen to be fast again. What was never observed is guessed from the nearest width
seen on the same server, scaled by FLOPs; a server never seen at all is guessed to be instant, so that it is tried
(optimism in the face of uncertainty).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.snapshot import ModelName, ServedModel, ServerName

DECAY = 0.95
"""Weight an observation keeps when the next one comes; half after 14, a twentieth after 58."""
OUTLIER_RATIO = 3.0
"""An observation counts as at most this many times what was expected; a machine that is slower for good is believed
after a few groups all the same, because what is expected grows with each."""


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """Weighted sums of observations of one (server, model); immutable, ``observe`` returns a new one."""

    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_t_s: float = 0.0
    sum_nt_s: float = 0.0

    def observe(self, items: int, service_s: float) -> LatencyFit:
        """Return the fit after a group of ``items`` took ``service_s``."""
        if self.weight > 1:
            slope_s, intercept_s = self.line()
            # The mean as well, because a line through groups of one size says too little of smaller ones.
            expected_s = max(slope_s * items + intercept_s, self.sum_t_s / self.weight)
            service_s = min(service_s, OUTLIER_RATIO * expected_s)
        return LatencyFit(
            weight=self.weight * DECAY + 1,
            sum_n=self.sum_n * DECAY + items,
            sum_nn=self.sum_nn * DECAY + items * items,
            sum_t_s=self.sum_t_s * DECAY + service_s,
            sum_nt_s=self.sum_nt_s * DECAY + items * service_s,
        )

    @property
    def is_empty(self) -> bool:
        """Whether nothing was observed."""
        return self.weight == 0

    def line(self) -> tuple[float, float]:
        """Return (seconds an item, seconds a group), neither below 0; (0, 0) when empty.

        With groups of one size only, the time is laid on the items alone.
        """
        if self.is_empty:
            return (0.0, 0.0)
        mean_n, mean_t_s = self.sum_n / self.weight, self.sum_t_s / self.weight
        variance = self.sum_nn / self.weight - mean_n * mean_n
        if variance < 1e-6 * mean_n * mean_n:
            return (mean_t_s / mean_n, 0.0)
        slope_s = (self.sum_nt_s / self.weight - mean_n * mean_t_s) / variance
        # Each bound is the least-squares line under the constraint that the other parameter is 0.
        if slope_s <= 0:
            return (0.0, mean_t_s)
        intercept_s = mean_t_s - slope_s * mean_n
        if intercept_s < 0:
            return (self.sum_nt_s / self.sum_nn, 0.0)
        return (slope_s, intercept_s)


@dataclass(frozen=True, slots=True)
class Run:
    """What a server did between two answers.

    Attributes:
        model: it ran.
        items: it ran.
        began_s: when the group reached the head of the server's line: sent, or the answer before it.
        ended_s: when the answer came.
    """

    model: ModelName
    items: int
    began_s: float
    ended_s: float


TOGETHER_RATIO = 0.05
"""Two answers closer than this part of the first one's time came from one execution; so is a millisecond."""


def merge_runs(earlier: Run, later: Run, *, later_sent_s: float) -> Run | None:
    """Return both as one run when the server ran them together, None when it ran them one after the other.

    Triton's dynamic batcher joins groups of one model that wait at the same time. Their answers come at once, so the
    first seems to have taken all the time and the second none; as one run of all items they tell the truth.
    """
    apart_s = later.ended_s - earlier.ended_s
    together_s = max(1e-3, TOGETHER_RATIO * (earlier.ended_s - earlier.began_s))
    if earlier.model != later.model or later_sent_s > earlier.ended_s or apart_s > together_s:
        return None
    return replace(earlier, items=earlier.items + later.items, ended_s=later.ended_s)


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """The fits of all servers and models."""

    fits: Mapping[tuple[ServerName, ModelName], LatencyFit] = field(default_factory=dict)

    def observe(self, server: ServerName, model: ModelName, items: int, service_s: float) -> LatencyTable:
        """Return the table after one more observation."""
        key = (server, model)
        fit = self.fits.get(key, LatencyFit()).observe(items, service_s)
        return replace(self, fits={**self.fits, key: fit})

    def line(self, server: ServerName, model: ServedModel, models: tuple[ServedModel, ...]) -> tuple[float, float]:
        """Return (seconds an item, seconds a group) of ``model``, guessed from its siblings when never seen.

        Args:
            server: that serves it.
            model: in question.
            models: all that the server has of its family.
        """
        fit = self.fits.get((server, model.name))
        if fit is not None:
            return fit.line()
        seen = [m for m in models if (server, m.name) in self.fits]
        if not seen:
            return (0.0, 0.0)
        nearest = min(seen, key=lambda m: (abs(m.width - model.width), m.width))
        slope_s, intercept_s = self.fits[(server, nearest.name)].line()
        return (slope_s * _work_ratio(model, nearest), intercept_s)


def _work_ratio(model: ServedModel, reference: ServedModel) -> float:
    """Return how much more work ``model`` is; without FLOPs by the square of the width, as convolutions go."""
    if model.flops and reference.flops:
        return model.flops / reference.flops
    return (model.width / reference.width) ** 2
