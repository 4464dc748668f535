"""Policies on one scenario: all of them meet the same arrivals, noise and faults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from orchestrator.policies import Policy
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario.capacity import most_accuracy
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation

_WARM_UP_RATIO: Final = 0.05
_AVERAGED: Final = (
    *("attainment_ratio", "accuracy", "mean_s", "p99_s", "goodput_rps", "joules_per_answer", "mean_batch"),
    "decisions",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of each policy on each trace, in the order of traces.

    Attributes:
        rate_rps: Items a second, of the last trace.
        most_accuracy: The fluid bound at that rate; None when the fleet can't serve it for good.
    """

    rate_rps: float
    most_accuracy: float | None
    results: tuple[Result, ...]

    def by_policy(self) -> dict[str, list[Result]]:
        """Return each policy's results, in the order the policies were given."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.policy, []).append(result)
        return found

    def averages(self) -> dict[str, Mapping[str, float | None]]:
        """Return the means of each policy's figures over traces, requests without an answer as ``lost`` among them.

        A figure that is unknown on one trace is None.
        """
        found: dict[str, Mapping[str, float | None]] = {}
        for policy, results in self.by_policy().items():
            means = {name: _mean([getattr(result, name) for result in results]) for name in _AVERAGED}
            found[policy] = {**means, "lost": _mean([float(r.shed + r.rejected + r.failed) for r in results])}
        return found


def change_workload(settings: ScenarioSettings, *, load_ratio: float | None, requests: int | None) -> ScenarioSettings:
    """Return a scenario with another load or number of requests, where they are given."""
    given = {"load_ratio": load_ratio, "requests": requests}
    changed = {key: value for key, value in given.items() if value is not None}
    return settings.model_copy(update={"workload": settings.workload.model_copy(update=changed)})


def compare_policies(
    settings: ScenarioSettings, servers: Sequence[SimulatedServer], policies: Sequence[Policy], *, seeds: int
) -> Comparison:
    """Run every policy on the traces of so many seeds, from 0 on."""
    results: list[Result] = []
    for seed in range(seeds):
        trace = draw_trace(settings, servers, seed)
        for policy in policies:
            simulation = Simulation(settings, servers, policy, trace=trace)
            simulation.run()
            results.append(summarise(simulation, seed=seed, warm_up_ratio=_WARM_UP_RATIO))
    bound = most_accuracy(servers, trace.rate_rps, min_accuracy=settings.objectives.min_accuracy)
    return Comparison(trace.rate_rps, bound, tuple(results))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
