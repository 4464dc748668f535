"""What a router is told of the devices of simulated servers, and when."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from tests.simulation.controlled import with_controllers
from tests.simulation.worlds import on_hosts, patient, scenario, servers

MODEL = linear_model(100, per_item_s=0.01, max_batch_size=1, per_item_j=0.5, sigma=0.1)
READINGS = (col.UTILISATION, col.MEMORY, col.POWER)


def watched(simulation: Simulation) -> list[tuple[float, list[list[float]]]]:
    """Return the times at which what was known of devices changed, with what was known then, by reading and server."""
    seen: list[tuple[float, list[list[float]]]] = []
    simulation.decide_outside()
    while (count := simulation.next_decision()) is not None:
        fleet = simulation.world.fleet
        known = [np.asarray(fleet.servers[field])[: fleet.server_count].tolist() for field in READINGS]
        if not seen or repr(known) != repr(seen[-1][1]):
            seen.append((simulation.now_s, known))
        chosen = simulation.policy.choose_row(
            simulation.memory, simulation.world.rows, count, simulation.world.head.query
        )  # type: ignore[attr-defined]
        simulation.apply(chosen[0], chosen[1], chosen[3] if chosen[0] < 0 else math.inf)
    return seen


def made(
    read_every_s: float | None = 0.5, *, count: int = 2, load: float = 0.6, idle_w: float | None = 20.0, **more: Any
) -> Simulation:
    telemetry = {} if read_every_s is None else {"read_every_s": read_every_s}
    settings = scenario(requests=1500, load=load, objectives=patient(), telemetry=telemetry, **more)
    return Simulation(settings, servers(count, MODEL, idle_w=idle_w), parse_policy("lert"), seed=0)


def test_nothing_is_known_where_nobody_reads() -> None:
    ((_, known),) = watched(made(None))
    assert np.isnan(known).all()


def test_readings_are_a_period_apart_and_of_the_time_since_the_last() -> None:
    seen = watched(made())
    times = [at_s for at_s, _ in seen[1:]]
    assert len(times) > 10
    assert min(np.diff(times)) >= 0.5
    utilisation = np.array([known[0] for _, known in seen[1:]])
    assert ((utilisation >= 0) & (utilisation <= 1)).all()
    assert utilisation.mean() == pytest.approx(0.6, abs=0.06)
    power = np.array([known[2] for _, known in seen[1:]])
    # 20 W idle, and 50 W more while it runs: half a joule in 10 ms.
    watts = 20 + 50 * utilisation
    np.testing.assert_allclose(power[-1] * 70, watts[-1], rtol=0.1)
    assert (power <= 1).all()
    assert np.isnan([known[1] for _, known in seen]).all()  # no controller


def test_a_server_whose_device_is_not_its_hosts_cores_is_as_utilised_as_it_is_busy() -> None:
    """As those of a fit to a profile, which are on hosts for the factors of their times alone."""
    fleet = servers(2, MODEL, idle_w=20.0)
    hosts = [{"name": s.name, "cores": 1, "servers": {s.name: 0}, "residuals": {"factors": [1.0]}} for s in fleet]
    simulation = Simulation(on_hosts(made().settings, fleet, hosts), fleet, parse_policy("lert"), seed=0)
    utilisation = np.array([known[0] for _, known in watched(simulation)[1:]])
    assert utilisation.mean() == pytest.approx(0.6, abs=0.06)


def test_power_is_unknown_where_idle_power_is() -> None:
    assert np.isnan([known[2] for _, known in watched(made(idle_w=None))]).all()


def test_memory_is_that_of_instances_over_what_the_controller_may_use() -> None:
    settings = scenario(requests=1500, load=1.2, objectives=patient(), telemetry={"read_every_s": 0.5})
    controlled = with_controllers(settings, servers(2, MODEL, idle_w=20.0), budget_mib=400)
    seen = watched(Simulation(*controlled, parse_policy("lert"), seed=0))
    memory = {value for _, known in seen[1:] for value in known[1]}
    assert memory <= {0.25, 0.5, 0.75, 1.0}  # instances of 100 MiB
    assert len(memory) > 1


def test_of_a_server_that_is_down_nothing_is_known() -> None:
    simulation = made(0.2, faults={"fail_every_s": 1.0, "down_s": 1.0, "notice_s": 0.1}, load=0.3)
    seen = watched(simulation)
    utilisation = np.array([known[0] for _, known in seen[1:]])
    assert np.isnan(utilisation).any()
    assert not np.isnan(utilisation).all()
    assert simulation.world.state[sim.ANSWERED_COUNT] + simulation.world.state[sim.LOST_COUNT] == 1500
