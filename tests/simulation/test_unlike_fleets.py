"""Fleets of machines so unlike that some can't meet a deadline at all, and one is much more frugal than the others."""

from __future__ import annotations

from typing import Any

import pytest

from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.simulation.worlds import run, scenario


def machine(
    name: str, *, quick_ms: float, slow_ms: float, launch_ms: float, most: int, power_w: float
) -> SimulatedServer:
    """Widths 25 and 100 that take so long an item."""
    models = tuple(
        linear_model(
            width,
            per_item_s=item_ms / 1e3,
            fixed_s=launch_ms / 1e3,
            per_item_j=power_w * item_ms / 1e3,
            fixed_j=power_w * launch_ms / 1e3,
            max_batch_size=most,
            accuracy=accuracy,
            sigma=0.15,
        )
        for width, item_ms, accuracy in ((25, quick_ms, 0.78), (100, slow_ms, 0.86))
    )
    return SimulatedServer(ServerName(name), models, idle_w=power_w / 5)


FLEET = [
    machine("frugal", quick_ms=0.2, slow_ms=0.6, launch_ms=0.2, most=32, power_w=20),
    machine("middle-0", quick_ms=0.2, slow_ms=1.2, launch_ms=2, most=8, power_w=200),
    machine("middle-1", quick_ms=0.1, slow_ms=1.0, launch_ms=3, most=16, power_w=200),
    machine("slow", quick_ms=1.3, slow_ms=5, launch_ms=4, most=32, power_w=100),
    machine("hopeless", quick_ms=0.8, slow_ms=4.5, launch_ms=20, most=8, power_w=50),
]


@pytest.mark.parametrize(
    "workload", [{"load_ratio": 0.6}, {"load_ratio": 0.8}, {"load_ratio": 0.4, "kind": "flash-crowd", "factor": 2.0}]
)
def test_thrift_keeps_deadlines_with_machines_of_which_some_can_not(workload: dict[str, Any]) -> None:
    """One in thirty was late or more when it waited for the frugal machine as long as the head was in time there."""
    settings = scenario(requests=6000, workload=workload, objectives={"deadline_ms": 15, "queue_limit": 6000})
    state = run(settings, FLEET, "thrift").world.state
    assert state[sim.ON_TIME_COUNT] >= 0.995 * 6000


@pytest.mark.parametrize("policy", ["thrift", "lert:brownout", "lert:narrowest"])
def test_what_is_not_refused_is_answered_in_time_beside_a_machine_that_is_never_in_time(policy: str) -> None:
    """Nobody was refused while that one was idle, as it always was, and so nine of ten answers were late."""
    objectives = {"deadline_ms": 15, "queue_limit": 6000, "shed_late": True}
    settings = scenario(requests=20_000, workload={"load_ratio": 10.0}, objectives=objectives)
    of_all, without = (run(settings, fleet, policy).world.state for fleet in (FLEET, FLEET[:-1]))
    assert of_all[sim.ON_TIME_COUNT] >= 0.97 * of_all[sim.ANSWERED_COUNT]
    assert of_all[sim.ON_TIME_COUNT] >= 0.9 * without[sim.ON_TIME_COUNT]
