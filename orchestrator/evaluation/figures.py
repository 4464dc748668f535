"""What is kept of one run: every figure together, and sketches of what is drawn, never samples.

**Latency-attributed energy** is what the figures of arXiv 2510.09018 imply (a request's energy falls almost as much as
its latency does, which no machine with idle power can do): for each answer, the mean power of the server that gave it
times the whole latency, waiting included. It counts a watt once for every request that waits beside it, so it is no
energy that anybody pays. It is reported to compare with such figures, beside the true one: all joules of the fleet,
idle included, over all answers.

**Effective accuracy** is the accuracy of an answer in time, and 0 for a request that was late or lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.results import WARM_UP_RATIO, Result, summarise
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim

LATENCY_EDGES_S: Final = np.logspace(-5, 2, 71)
"""The edges of the bins of latency: ten a decade from 10 µs to 100 s; what lies beyond is counted in the outermost."""
TIMELINE_BINS: Final = 80
FIGURES: Final = (
    "accuracy",
    "attainment_ratio",
    "effective_accuracy",
    "mean_s",
    "std_s",
    "p50_s",
    "p99_s",
    "goodput_rps",
    "joules_per_answer",
    "std_j",
    "attributed_j",
    "utilisation_variance",
    "mean_batch",
    "answered_ratio",
    "decisions",
    "fallback_ratio",
)
"""Names of the figures that are averaged and compared."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One policy on one trace.

    Attributes:
        figures: By name, see FIGURES; None where there is none, as the latency of no answer. ``std_s`` and ``std_j``
            are standard deviations over answers, of latency and of joules above idle.
        latency_counts: Answers by LATENCY_EDGES_S.
        width_shares: Shares of the answers, by width in percent.
        server_shares: Shares of the items, by server in the order of names.
        family_ratios: The attainment_ratio of each of several families; empty when there is one.
    """

    seed: int
    figures: dict[str, float | None]
    latency_counts: tuple[int, ...]
    width_shares: dict[int, float]
    server_shares: tuple[float, ...]
    family_ratios: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Timeline:
    """How a run went over time, in bins of equal length over the arrivals.

    Attributes:
        until_s: The end of the last bin.
        arrivals_rps: Arrivals a second in each bin.
        width: Mean width of the answers to what arrived in each bin, in percent; None where none was answered.
        latency_s: Their mean latency likewise.
    """

    until_s: float
    arrivals_rps: tuple[float, ...]
    width: tuple[float | None, ...]
    latency_s: tuple[float | None, ...]


def take_figures(simulation: Simulation, *, seed: int, fallback_ratio: float | None = None) -> RunFigures:
    """Return the figures of a run that has ended.

    ``fallback_ratio`` is the share of the decisions that the guard's fallback made; None: the policy needs no guard.
    """
    result = summarise(simulation, seed=seed, warm_up_ratio=WARM_UP_RATIO)
    count = len(simulation.trace.arrived_s)
    table = simulation.world.requests[:, int(WARM_UP_RATIO * count) : count]
    is_answered = table[sim.STATUS] == sim.ANSWERED
    latency_s = (table[sim.ANSWERED_S] - table[sim.ARRIVED_S])[is_answered]
    widths, counts = np.unique(table[sim.WIDTH][is_answered], return_counts=True)
    items = sum(s.items for s in result.servers)
    figures = {name: getattr(result, name) for name in FIGURES if hasattr(result, name)}
    energy_j = table[sim.ENERGY_J][is_answered]
    figures |= {
        "std_s": float(latency_s.std()) if len(latency_s) else None,
        "std_j": float(energy_j.std()) if len(energy_j) and not np.isnan(energy_j).any() else None,
        "attributed_j": _attributed_j(result, simulation, table, latency_s, is_answered),
        "answered_ratio": result.answered / result.requests,
        "decisions": float(result.decisions),
        "fallback_ratio": fallback_ratio,
    }
    return RunFigures(
        seed,
        {name: figures[name] for name in FIGURES},
        tuple(int(n) for n in _histogram(latency_s)),
        {int(w): int(n) / max(1, int(is_answered.sum())) for w, n in zip(widths, counts, strict=True)},
        tuple(s.items / items if items else 0.0 for s in result.servers),
        {family.name: family.attainment_ratio for family in result.families},
    )


def take_timeline(simulation: Simulation) -> Timeline:
    """Return how a run that has ended went over time."""
    requests = simulation.world.requests
    arrived_s = np.asarray(requests[sim.ARRIVED_S])
    edges_s = np.linspace(0.0, float(arrived_s[-1]), TIMELINE_BINS + 1)
    if edges_s[-1] <= 0:
        edges_s = np.linspace(0.0, 1.0, TIMELINE_BINS + 1)
    bin_of = np.minimum(np.searchsorted(edges_s, arrived_s, side="right") - 1, TIMELINE_BINS - 1)
    is_answered = np.asarray(requests[sim.STATUS]) == sim.ANSWERED
    answered = np.bincount(bin_of[is_answered], minlength=TIMELINE_BINS)

    def mean(values: Floats) -> tuple[float | None, ...]:
        sums = np.bincount(bin_of[is_answered], weights=values[is_answered], minlength=TIMELINE_BINS)
        return tuple(float(s / n) if n else None for s, n in zip(sums, answered, strict=True))

    arrivals = np.bincount(bin_of, minlength=TIMELINE_BINS) / (edges_s[1] - edges_s[0])
    latency_s = np.asarray(requests[sim.ANSWERED_S]) - arrived_s
    return Timeline(
        float(edges_s[-1]),
        tuple(float(n) for n in arrivals),
        mean(np.asarray(requests[sim.WIDTH])),
        mean(latency_s),
    )


def _attributed_j(
    result: Result, simulation: Simulation, table: Floats, latency_s: Floats, is_answered: Any
) -> float | None:
    """Return the joules of an answer as its latency times the mean power of its server."""
    up_s = np.asarray(simulation.world.truth[sim.UP_S])[: len(result.servers)]
    known = [s.energy_j for s in result.servers if s.energy_j is not None]
    if len(known) < len(result.servers) or not len(latency_s):
        return None
    power_w = np.array(known) / np.maximum(up_s, 1e-12)
    return float((latency_s * power_w[table[sim.SERVER][is_answered].astype(int)]).mean())


def _histogram(latency_s: Floats) -> NDArray[np.int64]:
    inside = np.clip(latency_s, LATENCY_EDGES_S[0], LATENCY_EDGES_S[-1])
    return np.histogram(inside, bins=LATENCY_EDGES_S)[0]
