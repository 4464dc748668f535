"""Recorded traffic in the simulator: the profile's servers, the recorded arrivals, sizes and deadlines, other policies.

Requests that were refused come again too, because they were a part of the load.
Of a sample of the decisions, times are compressed by the part that was sampled, so that the load is what it was; how
bursts looked is then only known roughly. How far the simulator can be believed is measured, not assumed: the policy
that really decided is replayed too, and its figures are held against the recorded ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from orchestrator.config import FleetSettings, RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import Profile, read_profile
from orchestrator.router.dispatch.deciders import policy_of
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer, server_from_profile, with_relative_qualities
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.traffic.recorded import Recorded, TrafficFigures

FEWEST = 100
"""Requests; fewer say nothing of a policy."""
COMPARED = ("attainment_ratio", "accuracy", "mean_s", "p99_s")


def replay_if_possible(
    traffic: Recorded, policies: Sequence[str], fleet: FleetSettings, *, sample_ratio: float
) -> tuple[dict[str, TrafficFigures], str]:
    """Return what ``replay`` gives with the profile of a fleet's router, and what was not replayed and why, if any.

    Raises:
        ConfigError: The profile can't be read.
    """
    if fleet.router.profile is None:
        return {}, "the fleet file has no router.profile"
    profile, names = read_profile(fleet.router.profile), [server.name for server in fleet.servers]
    found: dict[str, TrafficFigures] = {}
    refused: dict[str, str] = {}
    for name in dict.fromkeys(policies):
        try:
            found |= replay(traffic, [name], profile, fleet.router, servers=names, sample_ratio=sample_ratio)
        except ConfigError as exc:
            refused[name] = str(exc)
    reasons = set(refused.values())
    if not found and len(reasons) == 1:
        return found, reasons.pop()
    return found, "; ".join(f"`{name}` ({why})" for name, why in refused.items())


def replay(
    traffic: Recorded,
    policies: Sequence[str],
    profile: Profile,
    router: RouterSettings,
    *,
    servers: Sequence[str],
    sample_ratio: float,
) -> dict[str, TrafficFigures]:
    """Return what each policy would have made of recorded traffic, by its name.

    ``servers`` are the names of those that there are; ``sample_ratio`` is the part of the decisions that was recorded.

    Raises:
        ConfigError: There is too little traffic, no such policy, or the profile does not know a server's models.
    """
    if len(traffic.items) < FEWEST or traffic.duration_s <= 0:
        raise ConfigError(f"only {len(traffic.items)} requests are recorded; {FEWEST} at least can be replayed")
    fleet = _fleet(profile, servers, traffic.family)
    settings = ScenarioSettings.model_validate(
        {
            "name": traffic.family,
            # Only the section's own check needs it: the servers are given to the simulation beside it.
            "servers": [{"name": server.name, "profile": "profile.json"} for server in fleet],
            "workload": {"requests": len(traffic.items) + len(traffic.refused.items)},
            "objectives": {
                "deadline_ms": router.deadline_ms,
                "slack_margin": router.slack_margin,
                "in_flight_groups": router.in_flight_groups,
                "queue_limit": router.queue_limit,
            },
        }
    )
    trace = _trace(traffic, settings, fleet, sample_ratio)
    found = {}
    for name in dict.fromkeys(policies):
        simulation = Simulation(settings, fleet, policy_of(name, router), trace=trace)
        simulation.run()
        result = summarise(simulation, seed=0)
        found[name] = TrafficFigures(**{key: getattr(result, key) for key in TrafficFigures.__dataclass_fields__})
    return found


def _fleet(profile: Profile, servers: Sequence[str], family: str) -> tuple[SimulatedServer, ...]:
    own = []
    for name in servers:
        found = profile.server(name)
        models = () if found is None else tuple(model for model in found.models if model.family == family)
        if found is None or not models:
            raise ConfigError(f"router.profile knows nothing of {family!r} on server {name!r}; profile it again")
        own.append(server_from_profile(replace(found, models=models), name))
    return with_relative_qualities(sorted(own, key=lambda server: server.name))


def _trace(
    traffic: Recorded, settings: ScenarioSettings, fleet: Sequence[SimulatedServer], sample_ratio: float
) -> Trace:
    parts = traffic, traffic.refused
    arrived_unix_s = np.concatenate([part.arrived_unix_s for part in parts])
    order = np.argsort(arrived_unix_s, kind="stable")
    arrived_s = (arrived_unix_s[order] - arrived_unix_s.min()) * sample_ratio
    items = np.concatenate([part.items for part in parts])[order]
    deadline_s = np.concatenate([part.deadline_s for part in parts])[order]
    deadline_s = np.nan_to_num(deadline_s, nan=settings.objectives.deadline_ms / 1e3)
    drawn = draw_trace(settings, fleet, seed=0)
    rate_rps = float(items.sum() / max(arrived_s[-1], 1e-9))
    return replace(drawn, arrived_s=arrived_s, deadline_s=arrived_s + deadline_s, items=items, rate_rps=rate_rps)


def errors_of(recorded: TrafficFigures, simulated: TrafficFigures) -> Mapping[str, float | None]:
    """Return how far the simulator is off: of ratios the difference, of times the relative one; None: unknown."""
    found: dict[str, float | None] = {}
    for name in COMPARED:
        real, replayed = getattr(recorded, name), getattr(simulated, name)
        if real is None or replayed is None:
            found[name] = None
        elif real == replayed or not name.endswith("_s"):
            found[name] = replayed - real
        else:
            found[name] = (replayed - real) / real if real else None
    return found
