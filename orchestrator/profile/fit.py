"""How long a batch takes and what it costs in joules: a·n + b for one server and model, and the tables of all.

The straight line is what batching looks like on CPUs and on GPUs beyond the launch-bound range. It is fitted by
least squares over observations whose weight decays, so a machine that throttles is noticed after some tens of
batches; a single stall counts no more than OUTLIER_RATIO times what was expected, because a server that looks slow
is not chosen and so would never be seen to be fast again.

It may come to look slow all the same, as when batches waited while its controller loaded another instance, or when it
was throttled. Others, or narrower widths, then get what there is, and nothing would show that it is quick again. So
while nothing is observed of it, what looked slower than at the start goes back there (``faded_sums``), and what comes
then counts for more. What looks quicker needs no such thing: it is chosen, and soon known.

Lines through measured batches weigh errors by what was measured, so a line is about as many percent wrong at batch 1 as
at the largest; unweighted, the largest batches would decide alone, and most batches are small.

Joules are those above what the server draws anyway: the marginal energy of the batch. Idle power belongs to the server
and not to a request, so it is kept apart (``document.IdlePower``); a policy that weighs candidates must not think that
a request costs less where the machine idles more. Unknown is None, never 0: a server that can't be measured is not
free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from orchestrator.profile.document import BatchProfile, EnergySource, FittedLine
from orchestrator.profile.margin import Margin, first_margin, observed_margin, remembered_margin
from orchestrator.snapshot import ModelName, ServedModel, ServerName

Point = tuple[int, float]
"""Items, and seconds or joules of a batch of so many."""
Sums = tuple[float, float, float, float, float]
Line = tuple[float, float]
"""Seconds an item, and seconds a batch."""

DECAY = 0.95
"""Weight an observation keeps when the next one comes; half after 14, a twentieth after 58."""
OUTLIER_RATIO = 3.0
"""An observation counts as at most this many times what was expected; a machine that is slower for good is believed
after a few batches all the same, because what is expected grows with each."""
FADE_S = 48.0
"""How quickly what is not observed fades: after two minutes what looked three times as slow as at the start looks 1.7
times as slow, and what looked 1.5 times as slow 1.4 times. A job beside a server makes it slower by so little, for
long; stalls and waiting make it look much slower, and are soon over. Four times as quick doubled what was sent and came
late in bursts a quarter of a minute apart, on real servers."""
FADE_EVERY_S = 1.0
"""How often what was not observed fades, at the most."""
FADED_WEIGHT = 4.0
"""The least weight that fading leaves to what was observed; one batch more then counts for a fifth."""
START_WEIGHT = 1.2
"""As how many batches the line with which a model began counts for what an item and what a batch costs. After four
seconds of more than a server could do, in batches of about 64 items that took 95 ms each, a batch was believed to cost
74 ms and an item 0.4 ms, where one item takes 2 ms: for some minutes the quicker of two servers got nothing that had to
be answered within 100 ms. More would hold times back that are no line; so much is not seen in errors of what is
expected of usual batches."""
_NO_START: Line = (0.0, 0.0)
TOGETHER_RATIO = 0.05
"""Two answers closer than this part of the first one's time came from one execution; so is a millisecond."""


def fitted_line(
    weight: float, sum_n: float, sum_nn: float, sum_t_s: float, sum_nt_s: float, start: Line
) -> tuple[float, float]:
    """Return (seconds an item, seconds a batch) by the weighted sums of a LatencyFit, neither below 0.

    Where all batches are about as large, noise alone would say which part of their time is whose. So ``start``, the
    line with which the model began, counts as START_WEIGHT batches that differ from the mean by its own size, and take
    as many times longer than at the start as the others do; (0, 0) where there is none.

    A function of numbers, because a simulator compiles it.
    """
    if weight == 0:
        return (0.0, 0.0)
    mean_n, mean_t_s = sum_n / weight, sum_t_s / weight
    # Times the weight, both.
    variance, covariance_s = sum_nn - mean_n * sum_n, sum_nt_s - mean_n * sum_t_s
    start_t_s = start[0] * mean_n + start[1]
    if start_t_s > 0:
        trust = START_WEIGHT * mean_n * mean_n
        variance += trust
        covariance_s += trust * start[0] * mean_t_s / start_t_s
    # All of one size: any split between a and b fits, and rounding alone would choose one.
    elif variance < 1e-6 * weight * mean_n * mean_n:
        return (mean_t_s / mean_n, 0.0)
    # Least squares: the slope is the covariance of items and time over the variance of items.
    slope_s = covariance_s / variance
    # Each bound is the least-squares line under the constraint that the other parameter is 0.
    if slope_s <= 0:
        return (0.0, mean_t_s)
    intercept_s = mean_t_s - slope_s * mean_n
    if intercept_s < 0:
        return (sum_nt_s / sum_nn, 0.0)
    return (slope_s, intercept_s)


def observed_sums(sums: Sums, line: Line, items: float, service_s: float) -> Sums:
    """Return the weighted sums (weight, Σn, Σn², Σt, Σnt) after a batch of ``items`` took ``service_s``.

    ``line`` is fitted to the sums before it. Likewise a function of numbers.
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


def faded_sums(sums: Sums, start: Line, for_s: float) -> Sums:
    """Return the weighted sums after nothing was observed for ``for_s``, where they look slower than ``start``.

    That is the line with which the model began. To fade at once or in several steps is the same. Likewise a function of
    numbers.
    """
    weight, sum_n, sum_nn, sum_t_s, sum_nt_s = sums
    start_t_s = start[0] * sum_n + start[1] * weight
    if start_t_s <= 0 or sum_t_s <= start_t_s:
        return sums
    slower = sum_t_s / start_t_s
    left = (1 + math.log(slower) ** 2 * for_s / FADE_S) ** -0.5  # of the logarithm: d(log)/dt = -log³/(2·FADE_S)
    kept, times = max(left, min(1.0, FADED_WEIGHT / weight)), slower ** (left - 1)
    return (weight * kept, sum_n * kept, sum_nn * kept, sum_t_s * kept * times, sum_nt_s * kept * times)


@dataclass(frozen=True, slots=True)
class LatencyFit:
    """Weighted sums of observations of one (server, model); immutable, ``observe`` returns a new one.

    Attributes:
        margin: How much longer than expected its answers take; None before the first.
        start: The line that it began with, of a profile or of the first two batches; None before those.
        seen_s: When a batch was last observed, on the router's clock.
    """

    weight: float = 0.0
    sum_n: float = 0.0
    sum_nn: float = 0.0
    sum_t_s: float = 0.0
    sum_nt_s: float = 0.0
    # Not shown, so that digests of scenarios stay what they were.
    margin: Margin | None = field(default=None, repr=False)
    start: Line | None = field(default=None, repr=False)
    seen_s: float = field(default=-math.inf, repr=False)

    @property
    def sums(self) -> Sums:
        """The weighted sums (weight, Σn, Σn², Σt, Σnt)."""
        return (self.weight, self.sum_n, self.sum_nn, self.sum_t_s, self.sum_nt_s)

    def begun(self) -> LatencyFit:
        """Return the fit as one that a model begins with."""
        return replace(self, start=fitted_line(*self.sums, _NO_START))

    def observe(self, items: int, service_s: float, *, now_s: float = -math.inf) -> LatencyFit:
        """Return the fit after a batch of ``items`` took ``service_s``."""
        sums = observed_sums(self.sums, self.line(), items, service_s)
        seen = LatencyFit(*sums, self.margin, self.start, now_s)
        return seen if self.weight > 1 else seen.begun()

    def fade(self, *, now_s: float, since_s: float) -> LatencyFit:
        """Return the fit after ``now_s``, if nothing was observed since ``since_s``, see ``faded_sums``."""
        for_s = now_s - max(since_s, self.seen_s)
        sums = self.sums if self.start is None else faded_sums(self.sums, self.start, for_s)
        return self if sums == self.sums else LatencyFit(*sums, self.margin, self.start, self.seen_s)

    def line(self) -> Line:
        """Return (seconds an item, seconds a batch), neither below 0; (0, 0) when empty.

        With batches of one size only, the time is split as at the start; without one it is laid on the items alone.
        """
        return fitted_line(*self.sums, _NO_START if self.start is None else self.start)


@dataclass(frozen=True, slots=True)
class LatencyTable:
    """The fits of all servers and models, and guesses where there is none.

    What was never observed is guessed from the nearest width seen on the same server, scaled by FLOPs; a server never
    seen at all is guessed to be instant, so that it is tried (optimism in the face of uncertainty).
    """

    fits: Mapping[tuple[ServerName, ModelName], LatencyFit] = field(default_factory=dict)

    def observe(
        self, server: ServerName, model: ModelName, items: int, service_s: float, *, now_s: float = -math.inf
    ) -> LatencyTable:
        """Return the table after one more observation."""
        key = (server, model)
        fit = self.fits.get(key, LatencyFit()).observe(items, service_s, now_s=now_s)
        return replace(self, fits={**self.fits, key: fit})

    def fade(self, *, now_s: float, since_s: float) -> LatencyTable:
        """Return the table at ``now_s``, when what was not observed since ``since_s`` has faded."""
        fits = {key: fit.fade(now_s=now_s, since_s=since_s) for key, fit in self.fits.items()}
        return replace(self, fits=fits) if any(fits[key] is not fit for key, fit in self.fits.items()) else self

    def judge(
        self, server: ServerName, model: ModelName, ratio: float, allowed_ratio: float, *, prior: float, now_s: float
    ) -> LatencyTable:
        """Return the table after an answer took ``ratio`` times what was expected, see orchestrator.profile.margin."""
        key = (server, model)
        fit = self.fits.get(key, LatencyFit())
        first = first_margin(prior, now_s)
        known = first if fit.margin is None else remembered_margin(fit.margin, first)
        margin = observed_margin(known, ratio, allowed_ratio, now_s)
        return replace(self, fits={**self.fits, key: replace(fit, margin=margin)})

    def margin(self, server: ServerName, model: ModelName) -> Margin | None:
        """Return how much longer than expected answers take; None when none was observed."""
        fit = self.fits.get((server, model))
        return None if fit is None else fit.margin

    def start(self, server: ServerName, model: ModelName, fit: LatencyFit) -> LatencyTable:
        """Return the table with ``fit``, where the model begins, in place of what was observed of it."""
        return replace(self, fits={**self.fits, (server, model): fit.begun()})

    def without(self, server: ServerName) -> LatencyTable:
        """Return the table after a server has left for good."""
        return replace(self, fits={key: fit for key, fit in self.fits.items() if key[0] != server})

    def line(self, server: ServerName, model: ServedModel, models: tuple[ServedModel, ...]) -> tuple[float, float]:
        """Return (seconds an item, seconds a batch) of one of the ``models`` that a server has of a family."""
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


@dataclass(frozen=True, slots=True)
class EnergyLine:
    """Energy of batches of one (server, model)."""

    per_item_j: float
    fixed_j: float
    source: EnergySource

    def of_batch(self, items: int) -> float:
        """Return the joules of a batch of ``items``."""
        return self.per_item_j * items + self.fixed_j


@dataclass(frozen=True, slots=True)
class EnergyTable:
    """The energy of batches on all servers and models of which it is known."""

    lines: Mapping[tuple[ServerName, ModelName], EnergyLine] = field(default_factory=dict)

    def start(self, server: ServerName, model: ModelName, line: EnergyLine | None) -> EnergyTable:
        """Return the table with ``line``, or nothing, as what is known of one model."""
        others = {key: known for key, known in self.lines.items() if key != (server, model)}
        return EnergyTable(others if line is None else {**others, (server, model): line})

    def line(self, server: ServerName, model: ModelName) -> EnergyLine | None:
        """Return what batches cost there, None when that is unknown; never guessed from a sibling."""
        return self.lines.get((server, model))


@dataclass(frozen=True, slots=True)
class Run:
    """What a server did between two answers.

    Attributes:
        began_s: When the batch reached the head of the server's queue: when it was sent, or at the answer before it.
        ended_s: When the answer came, on the same clock.
    """

    model: ModelName
    items: int
    began_s: float
    ended_s: float


def merge_runs(earlier: Run, later: Run, *, later_sent_s: float) -> Run | None:
    """Return both as one run when the server ran them together, None when it ran them one after the other.

    Triton's dynamic batcher joins batches of one model that wait at the same time. Their answers come at once, so the
    first seems to have taken all the time and the second none; as one run of all items both are right.
    """
    apart_s = later.ended_s - earlier.ended_s
    together_s = max(1e-3, TOGETHER_RATIO * (earlier.ended_s - earlier.began_s))
    if earlier.model != later.model or later_sent_s > earlier.ended_s or apart_s > together_s:
        return None
    return replace(earlier, items=earlier.items + later.items, ended_s=later.ended_s)


def weighted_fit(points: Sequence[tuple[float, float, float]]) -> LatencyFit:
    """Return the fit of points of (weight, items, seconds or joules)."""
    return LatencyFit(
        weight=sum(w for w, _, _ in points),
        sum_n=sum(w * n for w, n, _ in points),
        sum_nn=sum(w * n * n for w, n, _ in points),
        sum_t_s=sum(w * t for w, _, t in points),
        sum_nt_s=sum(w * n * t for w, n, t in points),
    )


def fit_line(points: Sequence[Point]) -> tuple[float, float]:
    """Return (a an item, b a batch) of a·n + b, neither below 0, by least squares of the relative errors.

    There is at least one point; values of 0 weigh as if they were the smallest other.
    """
    positive = [value for _, value in points if value > 0]
    if not positive:
        return (0.0, 0.0)
    return weighted_fit([(1 / max(value, min(positive)) ** 2, items, value) for items, value in points]).line()


def fit_latency(points: Sequence[Point]) -> FittedLine:
    """Return the line through all points, ascending in items, with its error on every other one had it not seen them.

    Fewer than three points leave none to be held out.
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
