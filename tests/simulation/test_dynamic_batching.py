"""Servers whose dynamic batcher joins what waits for a width."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import latencies_s, patient, run, scenario, servers

FIXED = {"learns": False}


def ended(arrived_ms: list[float], *, joins: bool = True, max_batch_size: int = 8) -> Simulation:
    """Return a run of requests of one item each, for a width whose batches take 2 ms and 1 ms an item."""
    model = linear_model(
        100, per_item_s=0.001, fixed_s=0.002, max_batch_size=max_batch_size, per_item_j=0.1, fixed_j=0.6
    )
    fleet = [replace(server, dynamic_batching=joins) for server in servers(1, model, idle_w=0.0)]
    settings = scenario(requests=len(arrived_ms), objectives=patient(in_flight_groups=5), telemetry=FIXED)
    arrived_s = np.array(arrived_ms) / 1e3
    trace = replace(draw_trace(settings, fleet, 0), arrived_s=arrived_s, deadline_s=arrived_s + 1e6)
    simulation = Simulation(settings, fleet, parse_policy("lert"), trace=trace)
    simulation.run()
    return simulation


def answered_ms(simulation: Simulation) -> list[float]:
    return [round(1e3 * float(at_s), 6) for at_s in simulation.world.requests[sim.ANSWERED_S]]


def test_what_waits_for_a_width_runs_as_one_up_to_a_full_batch() -> None:
    assert answered_ms(ended([0, 0.5, 1, 1.5])) == [3, 8, 8, 8]
    assert answered_ms(ended([0, 0.5, 1, 1.5], max_batch_size=2)) == [3, 7, 7, 10]
    assert answered_ms(ended([0, 0.5, 1, 1.5], joins=False)) == [3, 6, 9, 12]


def test_what_an_instance_has_taken_is_not_joined_any_more() -> None:
    assert answered_ms(ended([0, 0.5, 3.5])) == [3, 6, 9]


def test_a_run_is_counted_once_its_calls_each_and_its_joules_by_their_items() -> None:
    world = ended([0, 0.5, 1, 1.5]).world
    assert (world.models[sim.RUN_BATCHES][0], world.models[sim.RUN_CALLS][0]) == (2, 4)
    assert world.models[sim.RUN_ITEMS][0] == 4
    assert world.models[sim.RUN_WAITED_S][0] == pytest.approx(0.0025 + 0.002 + 0.0015)
    joules = [0.7, *[(0.6 + 0.3) / 3] * 3]
    assert np.asarray(world.requests[sim.ENERGY_J]) == pytest.approx(joules)
    assert world.truth[sim.BUSY_J][0] == pytest.approx(sum(joules))


def test_a_router_learns_of_a_run_once_with_all_of_its_items() -> None:
    """Were each batch of a run one of its own, the first would seem slow and the others would take nothing."""
    arrived_ms = [20 * turn + after for turn in range(200) for after in (0, 0.5, 1, 1.5)]
    model = linear_model(100, per_item_s=0.001, fixed_s=0.002, max_batch_size=8)
    fleet = [replace(server, dynamic_batching=True) for server in servers(1, model)]
    settings = scenario(requests=len(arrived_ms), objectives=patient(in_flight_groups=5))
    arrived_s = np.array(arrived_ms) / 1e3
    trace = replace(draw_trace(settings, fleet, 0), arrived_s=arrived_s, deadline_s=arrived_s + 1e6)
    simulation = Simulation(settings, fleet, parse_policy("lert"), trace=trace)
    simulation.run()
    learned = simulation.world.fleet.models
    assert learned[col.PER_ITEM_S][0] == pytest.approx(0.001, rel=0.01)
    assert learned[col.FIXED_S][0] == pytest.approx(0.002, rel=0.01)


def test_a_batcher_comes_as_close_to_inoues_bound_as_a_router_that_batches() -> None:
    """Of single items under a load that a server can't answer one by one."""
    a, t, load = 0.00001, 0.0001, 0.5
    model = linear_model(100, per_item_s=a, fixed_s=t, max_batch_size=4096)
    settings = scenario(requests=100_000, load=load, objectives=patient(in_flight_groups=64), telemetry=FIXED)
    fleet = [replace(server, dynamic_batching=True) for server in servers(1, model)]
    simulation = run(settings, fleet)
    rate = simulation.trace.rate_rps
    assert rate * (a + t) > 1
    loose = (a + t) / (2 * (1 - rate * a)) * (1 + 2 * rate * t + (1 - rate * t) / (1 + rate * a))
    heavy = 1.5 * t / (1 - rate * a) + a / 2 * (rate * a + 2) / (1 - (rate * a) ** 2)
    assert 0.9 * min(loose, heavy) < latencies_s(simulation).mean() < 1.01 * min(loose, heavy)
    counted = simulation.world.models
    assert counted[sim.RUN_CALLS][0] > 1.5 * counted[sim.RUN_BATCHES][0]


def test_it_is_part_of_a_scenarios_digest_where_it_is_on() -> None:
    plain, fleet = scenario(), servers(1, linear_model(100, per_item_s=0.001))
    values = plain.model_dump(mode="json")
    values["servers"][0]["dynamic_batching"] = True
    assert digest_scenario(type(plain).model_validate(values), fleet) != digest_scenario(plain, fleet)
