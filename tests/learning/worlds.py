"""Fleets and traffic that learning is tried on."""

from __future__ import annotations

from orchestrator.learning.objective import NO_PREFERENCE
from orchestrator.learning.traffic import Traffic
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.snapshot import ServerName
from tests.simulation.worlds import scenario

WASTEFUL = "lert:slack"
"""Fills slack with width, which on the fleet below costs more joules than it is worth."""


def costly_width(*, requests: int = 60, load: float = 0.15, count: int = 2) -> Task:
    """A fleet on which width is as good as useless, and costs joules."""
    models = tuple(
        linear_model(
            w,
            per_item_s=w * 2e-5,
            fixed_s=1e-3,
            accuracy=0.7 + w / 10_000,
            max_batch_size=8,
            per_item_j=w * 1e-3,
            fixed_j=0.01,
        )
        for w in (25, 100)
    )
    servers = tuple(SimulatedServer(ServerName(f"s{i}"), models, idle_w=0.5) for i in range(count))
    return Task(scenario(requests=requests, load=load, objectives={"deadline_ms": 60}), servers, NO_PREFERENCE)


def costly_traffic() -> Traffic:
    """Traffic on that fleet."""
    return Traffic(costly_width(), None)
