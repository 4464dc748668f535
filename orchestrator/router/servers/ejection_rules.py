"""When a server that answers is left out all the same, for how long, and how it comes back; pure.

Two things show that a server does harm: attempts that fail one after another, and batches that take far longer than its
own profile says. "Far" is held against the rest of the fleet: when everything is slow (a burst, a noisy host, a slow
network) the fleet's own median rises with it, and leaving servers out would only make it worse. The profile learns
too, so a machine that stays slow is soon known to be slow and used for what it can do; ejection is for what changes
suddenly.

A server is never ejected when the others together have less than ``panic_share`` of the fleet's capacity: a fleet that
fails as a whole is better tried than given up. Ejections grow when they follow each other, and what comes back, from
an ejection or from the dead, is given its share of the in-flight budget over some seconds, because its caches, its
clocks and its profile are cold.

The rules are those of outlier detection in Envoy, with its consecutive failures, panic threshold, growing ejection and
slow start; what differs is that latency counts, against a profile that is known here and not there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from statistics import median

from orchestrator.config import EjectionSettings
from orchestrator.router.servers.health import ServerHealth, TimedRun
from orchestrator.snapshot import ServerName

_FEWEST = 2
"""The number of runs that a median is taken of at the least."""


class EjectionReason(StrEnum):
    """Why a server was ejected."""

    FAILURES = "failures"
    LATENCY = "latency"


def plan_ejections(
    fleet: Mapping[ServerName, ServerHealth],
    capacities: Mapping[ServerName, float],
    settings: EjectionSettings,
    *,
    now_s: float,
) -> dict[ServerName, EjectionReason]:
    """Return which usable servers are to be ejected, and why: the worst first, as far as the panic threshold allows.

    Capacities, above 0, are in any unit, the same for all. The order of ``fleet`` does not matter; of equally bad
    servers the one of the first name goes first.
    """
    usable = {name: health for name, health in sorted(fleet.items()) if health.is_healthy}
    suspects: list[tuple[float, ServerName, EjectionReason]] = []
    for name, health in usable.items():
        if health.failures_in_row >= settings.failures_in_row:
            suspects.append((-math.inf, name, EjectionReason.FAILURES))
            continue
        others = [other.runs for other_name, other in usable.items() if other_name != name]
        excess = _excess(health.runs, others, settings, now_s)
        if excess is not None and excess > settings.latency_factor:
            suspects.append((-excess, name, EjectionReason.LATENCY))
    least = settings.panic_share * sum(capacities[name] for name in sorted(fleet))
    left = sum(capacities[name] for name in usable)
    planned: dict[ServerName, EjectionReason] = {}
    for _, name, reason in sorted(suspects):
        remaining = left - capacities[name]
        if len(usable) - len(planned) > 1 and remaining >= least:
            planned[name] = reason
            left = remaining
    return planned


def latency_quantile(fleet: Iterable[ServerHealth], quantile: float) -> float | None:
    """Return by which factor runs exceed what was expected at the quantile, over all servers; None without runs."""
    ratios = sorted(run.observed_s / run.expected_s for health in fleet for run in health.runs)
    return ratios[min(len(ratios) - 1, math.floor(quantile * len(ratios)))] if ratios else None


def _excess(
    own: Sequence[TimedRun], others: Sequence[Sequence[TimedRun]], settings: EjectionSettings, now_s: float
) -> float | None:
    """Return how far a server's median run is above its profile and above what the others did meanwhile.

    None when that can't be said: it has too few runs, or none of the others has any of the same time. What they did
    before does not count, because a slowdown of all reaches one of them first.
    """
    ratios = [(run.at_s, _ratio(run, settings)) for run in own if now_s - run.at_s <= settings.latency_window_s]
    if len(ratios) < max(_FEWEST, settings.latency_runs // 2):
        return None
    middle = median(ratio for _, ratio in ratios)
    since_s = min(at_s for at_s, ratio in ratios if ratio >= middle)
    meanwhile = [[_ratio(run, settings) for run in other if run.at_s >= since_s] for other in others]
    medians = [median(of_one) for of_one in meanwhile if len(of_one) >= _FEWEST]
    return middle / max(1.0, median(medians)) if medians else None


def _ratio(run: TimedRun, settings: EjectionSettings) -> float:
    """Return how many times longer than expected a run took; below the floor nothing is slow."""
    return run.observed_s / max(run.expected_s, settings.latency_floor_ms / 1e3)
