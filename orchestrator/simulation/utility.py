"""One number for a run, by the scenario alone.

Whoever chooses one policy must trade accuracy, deadlines and joules. The **utility** of a run is

    effective accuracy − energy weight · joules per answer / most joules

in points of accuracy: an answer that is late or lost earns nothing. The weight is the scenario's
(``objectives.energy_weight``); by default joules count at the rate at which the project's own bars trade them, 15 %
fewer joules for 2 points of accuracy. Where joules are unknown that term is left out for all.

**Most joules** is what a request costs on a fleet whose servers all draw the most they can all the time. It follows
from fleet and load, not from any result, so it is the same for whoever evaluates. A policy that can't keep up still
works after the last arrival and may take more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.simulation.scenario.capacity import capacity_rps
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, eligible_fleet


@dataclass(frozen=True, slots=True)
class Utility:
    """What runs of a scenario are measured by.

    Attributes:
        most_j: joules a request; None where joules are unknown.
        energy_weight: accuracy, 0..1, that so many are worth.
    """

    most_j: float | None
    energy_weight: float

    @property
    def joule_price(self) -> float:
        """Accuracy that a joule of a request costs; 0 where joules are unknown."""
        return self.energy_weight / self.most_j if self.most_j else 0.0

    def utility(self, figures: Mapping[str, float | None]) -> float:
        """Return the utility of a run."""
        effective, joules = figures["effective_accuracy"], figures["joules_per_answer"]
        return (effective or 0.0) - (0.0 if joules is None else self.joule_price * joules)


def make_utility(settings: ScenarioSettings, servers: Sequence[SimulatedServer]) -> Utility:
    """Return what runs of a scenario are measured by."""
    workload = settings.workload
    taken = eligible_fleet(settings, servers)
    most_rps = capacity_rps(taken, width=workload.load_of_width, shares=settings.family_shares())
    powers = [_most_w(server) for server in servers]
    known = [w for w in powers if w is not None]
    rate_rps = workload.load_ratio * most_rps / workload.items
    most_j = sum(known) / rate_rps if len(known) == len(powers) else 0.0
    return Utility(most_j or None, settings.objectives.energy_weight)


def _most_w(server: SimulatedServer) -> float | None:
    """Return the most power that a server draws for long: idle and its most costly batches one after another."""
    if server.idle_w is None:
        return None
    busy_w = 0.0
    for model in server.models:
        if model.energy_j is None:
            return None
        parallel = max(1, model.instances)
        busy_w = max(busy_w, *(parallel * e / t for e, t in zip(model.energy_j, model.service_s, strict=True)))
    return server.idle_w + busy_w
