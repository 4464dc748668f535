"""The simulated side: the measured profile in virtual time, under the arrivals that the real side got."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from orchestrator.benchmark.fidelity.stage import FidelitySettings
from orchestrator.profile import Profile
from orchestrator.routing import parse_policy
from orchestrator.simulation.fleet import SimulatedServer, server_from_profile
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario import ScenarioSettings
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.trace import Trace, draw_trace

_NOISE_SEED = 1000


@dataclass(frozen=True, slots=True)
class Twin:
    """A fleet in virtual time.

    Attributes:
        settings: the scenario.
        servers: from the profile.
        traces: of the rounds.
    """

    settings: ScenarioSettings
    servers: tuple[SimulatedServer, ...]
    traces: tuple[Trace, ...]

    @property
    def arrivals_s(self) -> list[list[float]]:
        """Arrival times of each round, which the real side gets too."""
        return [trace.arrived_s.tolist() for trace in self.traces]

    def run(self, policy: str, noise_draws: int) -> list[Result]:
        """Return the results of a policy, for each round as many as there are draws of noise and lots."""
        results: list[Result] = []
        for number, trace in enumerate(self.traces):
            for draw in range(noise_draws):
                other = draw_trace(self.settings, self.servers, _NOISE_SEED * (number + 1) + draw)
                mixed = replace(trace, noise=other.noise, lots=other.lots)
                simulation = Simulation(self.settings, self.servers, parse_policy(policy), trace=mixed)
                simulation.run()
                results.append(summarise(simulation, seed=number))
        return results


def make_twin(profile: Profile, settings: FidelitySettings) -> Twin:
    """Return the fleet that a profile describes, with the arrivals of all rounds."""
    servers = tuple(server_from_profile(server, server.name) for server in profile.servers)
    scenario = ScenarioSettings.model_validate(
        {
            "name": "fidelity",
            # Only the section's own check needs it: the servers are given to the simulation beside it.
            "servers": [{"name": s.name, "profile": "profile.json"} for s in servers],
            "workload": {
                "kind": "poisson",
                "load_ratio": settings.load_ratio,
                "load_of_width": max(m.width for s in servers for m in s.models),
                "requests": settings.requests,
            },
            "objectives": {"deadline_ms": settings.deadline_s * 1e3},
        }
    )
    traces = tuple(draw_trace(scenario, servers, seed) for seed in range(settings.rounds))
    return Twin(scenario, servers, traces)


def mean_of(values: Sequence[float | None]) -> float:
    """Return the mean of what is known; NaN without any."""
    known = [v for v in values if v is not None]
    return float(np.mean(known)) if known else float("nan")
