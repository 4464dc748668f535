"""Simulated servers are kept loaded by the plan that keeps real ones loaded, within the same limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.planner.actions import ActionKind
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.loop import set_instances
from orchestrator.snapshot import ServerName
from tests.simulation.controlled import INSTANCE_MIB, MIB, with_controllers
from tests.simulation.worlds import scenario, servers

WIDTHS = (25, 50, 100)


def models(*widths: int) -> Iterator[SimulatedModel]:
    for width in widths:
        yield linear_model(width, per_item_s=width * 1e-4, fixed_s=2e-3, max_batch_size=8, accuracy=width / 100)


def fleet_of(count: int = 1, *widths: int) -> list[SimulatedServer]:
    return servers(count, *models(*(widths or WIDTHS)))


def simulation_of(policy: str = "lert:widest", *, requests: int = 2000, load: float = 0.7, **more: Any) -> Simulation:
    sections = {name: more.pop(name) for name in ("workload", "objectives", "faults") if name in more}
    fleet = more.pop("fleet", None) or fleet_of()
    given = scenario(requests=requests, load=load, **sections)
    return Simulation(*with_controllers(given, fleet, **more), parse_policy(policy), seed=3)


def ended(policy: str = "lert:widest", **more: Any) -> Simulation:
    simulation = simulation_of(policy, **more)
    simulation.run()
    return simulation


def answered_widths(simulation: Simulation) -> set[int]:
    requests = simulation.world.requests
    return {int(w) for w in np.unique(requests[sim.WIDTH][requests[sim.STATUS] == sim.ANSWERED])}


def growths(simulation: Simulation) -> int:
    """How often an instance was added, in place or where batches leave no gap for that by a reload."""
    (controller,) = simulation.controllers
    return sum(controller.changes.get(kind, 0) for kind in (ActionKind.SCALE_UP, ActionKind.RELOAD))


def in_time_ratio(simulation: Simulation) -> float:
    return float(simulation.world.state[sim.ON_TIME_COUNT] / simulation.world.state[sim.ARRIVALS])


def test_what_there_is_room_for_is_loaded_before_the_first_request() -> None:
    (controller,) = simulation_of().controllers
    assert [controller.instances.get(name) for name in sorted(controller.widths)] == [1, 1, 1]
    assert controller.changes == {}


@pytest.mark.parametrize(("budget_mib", "there"), [(120, {25}), (240, {25, 50}), (360, {25, 50, 100})])
def test_answers_come_from_widths_that_fit_the_budget_alone(budget_mib: float, there: set[int]) -> None:
    # The estimate of what a load takes has a margin of a tenth.
    for policy in ("lert:widest", "random"):
        simulation = ended(policy, budget_mib=budget_mib)
        assert answered_widths(simulation) <= there
        assert max(answered_widths(simulation)) == max(there)
        (controller,) = simulation.controllers
        assert controller.peak_bytes <= budget_mib * MIB


def test_a_width_on_which_requests_wait_gets_instances_which_answer_more_in_time() -> None:
    overload: dict[str, Any] = {"load": 2.0, "objectives": {"deadline_ms": 50, "shed_late": True}, "requests": 6000}
    alone, helped = ended("lert:narrowest", budget_mib=120, **overload), ended("lert:narrowest", **overload)
    assert growths(alone) == 0  # there is no room for another
    assert growths(helped) >= 1
    assert in_time_ratio(helped) > in_time_ratio(alone) + 0.2
    assert helped.world.fleet.models[col.INSTANCES][0] > 1


def test_instances_that_share_a_device_gain_less_the_more_they_hinder_each_other() -> None:
    overload: dict[str, Any] = {"load": 2.0, "objectives": {"deadline_ms": 50, "shed_late": True}, "requests": 6000}
    found = [in_time_ratio(ended("lert:narrowest", contention=part, **overload)) for part in (0.0, 0.5, 1.0)]
    assert found[0] > found[1] > found[2]


def test_nothing_grows_on_a_device_that_is_busier_than_its_ceiling() -> None:
    simulation = ended("lert:narrowest", load=2.0, utilisation_ceiling=0.5, contention=0.8)
    assert growths(simulation) == 0


def test_instances_and_widths_that_nobody_needs_go_and_give_their_memory_back() -> None:
    quiet_end = {"kind": "ramp", "rates": [30.0, 1.0]}
    simulation = ended("lert:narrowest", load=1.0, requests=6000, workload=quiet_end, wanted_widths=(25,))
    (controller,) = simulation.controllers
    assert growths(simulation) >= 1
    assert controller.changes[ActionKind.SCALE_DOWN] >= 1
    assert controller.peak_bytes > INSTANCE_MIB * MIB
    assert controller.used_bytes == sum(controller.instances.values()) * INSTANCE_MIB * MIB
    assert [controller.instances.get(name, 0) for name in sorted(controller.widths)] == [1, 0, 0]


def test_a_change_takes_its_time() -> None:
    simulation = simulation_of("lert:narrowest", load=2.0, requests=6000, objectives={"shed_late": True})
    (controller,) = simulation.controllers
    seen, now_s = set(), 0.0
    while simulation.world.fleet.models[col.INSTANCES][0] == 1:
        now_s += 0.01
        simulation.run_until(now_s)
        if controller.used_bytes > 3 * INSTANCE_MIB * MIB and simulation.world.fleet.models[col.INSTANCES][0] == 1:
            seen.add(round(now_s, 2))
    takes_s = 0.15 if ActionKind.RELOAD in controller.changes else 0.05
    assert len(seen) * 0.01 == pytest.approx(takes_s, abs=0.011)  # its memory is taken before it serves


def test_a_run_in_parts_is_the_whole() -> None:
    more: dict[str, Any] = {"load": 1.5, "fleet": fleet_of(2), "faults": {"fail_every_s": 2, "down_s": 0.5}}
    whole, parts = ended("lert:slack", **more), simulation_of("lert:slack", **more)
    for now_s in np.arange(0.0, whole.now_s, 0.037):
        parts.run_until(float(now_s))
    parts.run()
    np.testing.assert_array_equal(parts.world.requests, whole.world.requests)
    assert [each.changes for each in parts.controllers] == [each.changes for each in whole.controllers]


def test_a_run_ends_with_its_last_answer_and_not_when_a_controller_looks() -> None:
    simulation = ended()
    assert simulation.now_s == np.nanmax(simulation.world.requests[sim.ANSWERED_S])


def test_a_server_that_failed_comes_back_with_nothing_loaded_and_is_loaded_again() -> None:
    faults = {"fail_every_s": 1.5, "down_s": 0.5, "notice_s": 0.05}
    simulation = ended("random", requests=6000, load=0.4, fleet=fleet_of(2), faults=faults)
    loads = [controller.changes.get(ActionKind.LOAD, 0) for controller in simulation.controllers]
    assert min(loads) >= 3  # each of its widths
    assert simulation.world.state[sim.ANSWERED_COUNT] > 0.9 * 6000


def test_what_was_bound_to_a_width_that_goes_is_answered_elsewhere() -> None:
    simulation = simulation_of("random", requests=3000, load=1.5, fleet=fleet_of(2))
    simulation.run_until(1.0)
    world, fleet = simulation.world, simulation.world.fleet
    bound = int(np.flatnonzero(world.roots >= 0)[0])
    server, column = divmod(bound, fleet.columns)
    set_instances(world, server, column, 0.0)
    simulation.run()
    requests = world.requests
    assert world.state[sim.ANSWERED_COUNT] == 3000
    at_it = (requests[sim.SERVER] == server) & (requests[sim.WIDTH] == fleet.models[col.MODEL_WIDTH][bound])
    assert requests[sim.SENT_S][at_it].max() <= 1.0


def test_what_can_not_be_kept_loaded_is_refused_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"s0: limits.memory_budget_mib is 50, in which .*_w025 does not fit; raise"):
        simulation_of(budget_mib=50)
    with pytest.raises(ConfigError, match="has no width 30"):
        simulation_of(minimum_widths=(30,))
    path = tmp_path / "scenario.yaml"
    widths = "{25: {item_ms: 1}}"
    path.write_text(f"name: x\ncontroller: {{}}\nservers: [{{name: a, widths: {widths}}}]\n")
    with pytest.raises(ConfigError, match=r"'a' has a controller and no limits.memory_budget_mib"):
        load_scenario(path)
    path.write_text(
        f"name: x\ncontroller: {{}}\nservers: [{{name: a, limits: {{memory_budget_mib: 9}}, widths: {widths}}}]\n"
    )
    with pytest.raises(ConfigError, match="a: simulated_w025 has a controller and no instance_mib; name its memory"):
        Simulation(*load_scenario(path), parse_policy("lert"))


def test_what_only_a_controller_reads_is_of_a_scenarios_digest_where_there_is_one(tmp_path: Path) -> None:
    path = tmp_path / "scenario.yaml"

    def digest(server: str, width: str, top: str = "") -> str:
        path.write_text(f"name: x\n{top}servers: [{{name: a, {server}widths: {{25: {{item_ms: 1{width}}}}}}}]\n")
        return digest_scenario(*load_scenario(path))

    limits = "limits: {memory_budget_mib: 900}, "
    plain = digest("", "")
    assert digest(limits, ", scale_ms: 100") == plain
    assert digest("contention: 0.5, ", "") != plain
    controlled = digest(limits, ", instance_mib: 100", "controller: {}\n")
    assert controlled != plain
    assert digest(limits, ", instance_mib: 100, scale_ms: 100", "controller: {}\n") != controlled
    assert digest(limits, ", instance_mib: 100", "controller: {period_s: 2}\n") != controlled


def test_servers_are_told_apart_by_name_whatever_their_order() -> None:
    fleet = [SimulatedServer(ServerName(name), tuple(models(*WIDTHS))) for name in ("b", "a")]
    forth, back = ended("lert:slack", fleet=fleet), ended("lert:slack", fleet=fleet[::-1])
    np.testing.assert_array_equal(forth.world.requests, back.world.requests)
