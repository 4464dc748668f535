"""The simulated side: the measured profile in virtual time, under the arrivals that the real side got.

What a policy met is when the router was given each request, not when that was due: the sender's timers are up to a
millisecond late, which is a tenth of some latencies and no matter of the simulator's. Deadlines stay where they were.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.fidelity.testbed import FidelitySettings
from orchestrator.policies.parsing import parse_policy
from orchestrator.profile.document import Profile
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer, server_from_profile
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import Simulation

_NOISE_SEED = 1000


@dataclass(frozen=True, slots=True)
class Counterpart:
    """A fleet in virtual time.

    Attributes:
        settings: The scenario.
        servers: The servers that the profile describes.
        traces: The traces, by number of the round.
    """

    settings: ScenarioSettings
    servers: tuple[SimulatedServer, ...]
    traces: dict[int, Trace]

    @property
    def arrivals_s(self) -> dict[int, list[float]]:
        """When requests are due, by number of the round, which the real side gets too."""
        return {number: trace.arrived_s.tolist() for number, trace in self.traces.items()}

    @property
    def rate_rps(self) -> float:
        """Requests a second."""
        return next(iter(self.traces.values())).rate_rps

    def run(self, policy: str, number: int, late_s: Sequence[float], noise_draws: int) -> list[Result]:
        """Return the results of a policy in a round, as many as there are draws of noise and random numbers.

        The router was given each request ``late_s`` after it was due.
        """
        trace = self.traces[number]
        given_s = np.maximum.accumulate(trace.arrived_s + np.asarray(late_s))
        results: list[Result] = []
        for draw in range(noise_draws):
            other = draw_trace(self.settings, self.servers, _NOISE_SEED * (number + 1) + draw)
            mixed = replace(trace, arrived_s=given_s, noise=other.noise, uniforms=other.uniforms)
            simulation = Simulation(self.settings, self.servers, parse_policy(policy), trace=mixed)
            simulation.run()
            results.append(summarise(simulation, seed=number))
        return results


def make_counterpart(profile: Profile, settings: FidelitySettings, *, first_round: int = 0) -> Counterpart:
    """Return the fleet that a profile describes, with the arrivals of all rounds from the first on."""
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
    numbers = range(first_round, first_round + settings.rounds)
    return Counterpart(scenario, servers, {number: draw_trace(scenario, servers, number) for number in numbers})
