"""Hosts: servers, router and other processes that share cores, stalls, and residuals that were observed."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.results import compare_policies, summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings, load_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.simulation.reference import ReferenceWorld, assert_same
from tests.simulation.test_simulation import PATIENT_OR_MINDFUL, POLICIES, faults, fleets, scenarios, without_learning
from tests.simulation.worlds import latencies_s, on_hosts, patient, scenario, servers, single

SCENARIOS = Path(__file__).parents[2] / "scenarios" / "hosts"
FREE_ROUTER: dict[str, Any] = {"request_us": 0}


def run_on(fleet: list[SimulatedServer], *hosts: dict[str, Any], policy: str = "lert", **sections: Any) -> Simulation:
    """Return a run that has ended, of a fleet on hosts, with patient requests unless sections say otherwise."""
    given = on_hosts(scenario(**{"objectives": patient(), **sections}), fleet, list(hosts))
    simulation = Simulation(given, fleet, parse_policy(policy))
    simulation.run()
    return simulation


@st.composite
def hosts_of(draw: st.DrawFn, fleet: list[SimulatedServer]) -> list[dict[str, Any]]:
    """Return one or two hosts with some of the servers, a router, other processes, stalls and residuals."""
    places = [draw(st.integers(0, 2)) for _ in fleet]
    router_at = draw(st.integers(0, 2))
    cost_us = st.floats(0, 3000)
    found = []
    for number in range(2):
        on_it = [server.name for server, place in zip(fleet, places, strict=True) if place == number]
        router = {name: draw(cost_us) for name in ("request_us", "decision_us", "batch_us", "answer_us")}
        begins_s = sorted(draw(st.sets(st.floats(0, 0.5), max_size=3)))
        stalls = {
            "every_s": draw(st.floats(0.05, 1)),
            "stops": draw(st.sampled_from(("both", "servers", "router"))),
            "least_ms": 1,
            "most_ms": 100,
        }
        residuals = {
            "factors": draw(st.lists(st.floats(0.1, 5), min_size=1, max_size=5)),
            "correlation": draw(st.floats(0, 1)),
            "drift_s": draw(st.floats(0.01, 1)),
        }
        found.append(
            {
                "name": f"h{number}",
                "servers": {name: draw(st.sampled_from((0.0, 0.3, 1.0))) for name in on_it},
                "cores": draw(st.sampled_from((0.5, 1, 2))),
                "slice_ms": draw(st.sampled_from((0.0, 2.0))),
                "router": {
                    **router,
                    "weight": draw(st.sampled_from((1, 3))),
                    "turn_requests": draw(st.integers(1, 5)),
                    "has_callers": draw(st.booleans()),
                }
                if router_at == number
                else None,
                "competing": [(at_s, draw(st.floats(0, 3))) for at_s in begins_s],
                "stalls": draw(st.none() | st.just(stalls)),
                "residuals": draw(st.none() | st.just(residuals)),
            }
        )
    return found


@settings(deadline=None, max_examples=100)
@given(scenarios(), fleets(), st.sampled_from(POLICIES + PATIENT_OR_MINDFUL), st.integers(0, 1000), st.data())
def test_the_loop_shares_hosts_as_a_plain_world_of_objects_does(
    given: ScenarioSettings, fleet: list[SimulatedServer], name: str, seed: int, data: st.DataObject
) -> None:
    given = without_learning(on_hosts(given, fleet, data.draw(hosts_of(fleet))))
    policy, trace = parse_policy(name), draw_trace(given, fleet, seed)
    simulation = Simulation(given, fleet, policy, trace=trace)
    simulation.run()
    assert_same(simulation, ReferenceWorld(given, fleet, policy, trace).run())


@settings(deadline=None, max_examples=60)
@given(scenarios(200), fleets(), st.sampled_from(POLICIES + PATIENT_OR_MINDFUL), faults, st.booleans(), st.data())
def test_no_request_is_lost_on_hosts_whatever_fails(
    given: ScenarioSettings,
    fleet: list[SimulatedServer],
    name: str,
    wrong: dict[str, Any],
    shed_late: bool,
    data: st.DataObject,
) -> None:
    values = on_hosts(given, fleet, data.draw(hosts_of(fleet))).model_dump(mode="json")
    values["faults"] = wrong
    values["objectives"] |= {"request_timeout_s": 5.0, "shed_late": shed_late}
    given = ScenarioSettings.model_validate(values)
    simulation = Simulation(given, fleet, parse_policy(name), seed=1)
    simulation.run()
    result, world = summarise(simulation, seed=1), simulation.world
    assert result.answered + result.shed + result.rejected + result.failed == given.workload.requests
    assert (world.requests[sim.ANSWERED_S] >= world.requests[sim.ARRIVED_S]).all()
    assert (world.hosts[sim.RUNNING] >= 0).all()
    assert all(0 <= s.utilisation_ratio <= 1 + 1e-9 for s in result.servers)


def test_a_host_with_cores_for_all_and_a_router_that_costs_nothing_changes_nothing() -> None:
    fleet = servers(2, single(sigma=0.3), linear_model(50, per_item_s=0.004, sigma=0.3))
    host = {"name": "h", "servers": {"s0": 1, "s1": 0.5}, "cores": 8, "router": FREE_ROUTER, "slice_ms": 3}
    alone, shared = run_on(fleet, policy="lert:slack"), run_on(fleet, host, policy="lert:slack")
    assert latencies_s(shared) == pytest.approx(latencies_s(alone))


def test_batches_share_cores_evenly_with_each_other_and_with_what_competes() -> None:
    fleet = servers(2, single(per_item_s=0.01))
    at_once = {"kind": "gamma", "cv2": 0}
    one = {"name": "h", "servers": {"s0": 1, "s1": 1}, "cores": 1}
    for more, expected_s in (({}, 0.02), ({"competing": [(0, 2)]}, 0.04), ({"cores": 2}, 0.01), ({"cores": 0.5}, 0.04)):
        # The second comes two hundredths of a batch after the first.
        simulation = run_on(fleet, {**one, **more}, policy="jsq", requests=2, load=100, workload=at_once)
        assert latencies_s(simulation, warm_up=0) == pytest.approx([expected_s] * 2, rel=1e-2)


def test_a_device_goes_on_while_others_take_the_cores() -> None:
    host = {"name": "h", "servers": {"s0": 0.25}, "cores": 1, "competing": [(0, 1)]}
    (latency_s,) = latencies_s(run_on(servers(1, single(per_item_s=0.01)), host, requests=1), warm_up=0)
    assert latency_s == pytest.approx(0.01)  # a quarter of it at half the speed is still done in time
    host["competing"] = [(0, 7)]
    (latency_s,) = latencies_s(run_on(servers(1, single(per_item_s=0.01)), host, requests=1), warm_up=0)
    assert latency_s == pytest.approx(0.02)


def test_who_wakes_while_all_cores_are_taken_waits_for_its_turn() -> None:
    host = {"name": "h", "servers": {"s0": 1}, "cores": 1, "competing": [(0, 1)], "slice_ms": 3}
    simulation = run_on(servers(1, single(per_item_s=0.01)), host, requests=1)
    luck = float(simulation.trace.wakes[0])  # how much the other one still has of its slices
    (latency_s,) = latencies_s(simulation, warm_up=0)
    assert latency_s == pytest.approx(0.02 + 0.003 * luck)
    many = draw_trace(on_hosts(scenario(requests=20_000), servers(1, single()), [host]), servers(1, single()), 0)
    assert (many.wakes.mean(), many.wakes.std()) == pytest.approx((1, 1), abs=0.05)


def test_nothing_is_done_in_a_stall() -> None:
    fleet = servers(1, single(per_item_s=1.0))
    stalls = {"every_s": 1.0, "lengths_ms": [400]}
    given = on_hosts(
        scenario(requests=1, objectives=patient()),
        fleet,
        [{"name": "h", "servers": {"s0": 1}, "cores": 1, "stalls": stalls}],
    )
    trace = draw_trace(given, fleet, 3)
    stalled_s, clock = 0.0, float(trace.arrived_s[0])
    left_s, running, stops = 1.0, 0, trace.schedule[:, np.isin(trace.schedule[sim.KIND], (sim.STALLS_SERVERS,))]
    for at_s, value in zip(stops[sim.AT_S], stops[sim.VALUE], strict=True):
        if at_s > clock:
            passed_s = at_s - clock
            if running == 0:
                if passed_s >= left_s:
                    break
                left_s -= passed_s
            else:
                stalled_s += passed_s
            clock = at_s
        running += int(value)
    assert stalled_s > 0.3
    simulation = Simulation(given, fleet, parse_policy("lert"), trace=trace)
    simulation.run()
    assert latencies_s(simulation, warm_up=0) == pytest.approx([1.0 + stalled_s])


def test_a_router_that_is_busy_lets_requests_wait_and_knows_it() -> None:
    fleet = servers(4, single(per_item_s=0.001))
    host: dict[str, Any] = {"name": "h", "cores": 1, "router": {"request_us": 100, "batch_us": 100, "answer_us": 100}}
    quick = run_on(fleet, host, requests=2000, load=0.5)  # 2,000 a second: six tenths of the router's time
    slow = run_on(fleet, {**host, "competing": [(0, 3)]}, requests=2000, load=0.5)  # which now has a quarter of it
    assert np.mean(latencies_s(quick)) < 0.004
    assert np.mean(latencies_s(slow)) > 0.5
    requests = slow.world.requests
    taken_s = np.asarray(requests[sim.DEADLINE_S] - requests[sim.DUE_S])
    assert taken_s[-1000:].min() > 0.02  # for the way back, and so less than an answer takes
    assert (taken_s <= np.asarray(requests[sim.ANSWERED_S] - requests[sim.ARRIVED_S]) + 1e-9).all()


def test_a_router_that_goes_first_has_its_weight_of_the_cores_and_no_more_than_one_of_them() -> None:
    fleet = servers(1, single(per_item_s=0.001))
    host: dict[str, Any] = {"name": "h", "cores": 1, "competing": [(0, 3)]}
    cost = {"request_us": 10_000}
    for router, cores, expected_s in (
        (cost, 1, 0.04),
        ({**cost, "weight": 3}, 1, 0.02),  # three of six parts
        ({**cost, "weight": 100}, 2, 0.01),
        ({**cost, "weight": 100}, 0.5, 0.0206),
    ):
        simulation = run_on(fleet, {**host, "router": router, "cores": cores}, requests=1)
        assert latencies_s(simulation, warm_up=0) == pytest.approx([expected_s + 0.001])


def test_batches_share_what_a_router_leaves_them() -> None:
    fleet = servers(1, single(per_item_s=0.01))
    host = {"name": "h", "servers": {"s0": 1}, "cores": 2, "competing": [(0, 2)]}
    for weight, part in ((1, 1 / 2), (2, 2 / 5), (100, 1 / 3)):
        router = {"batch_us": 100_000, "weight": weight}  # paid once the batch is sent, and so beside it
        simulation = run_on(fleet, {**host, "router": router}, requests=1)
        assert simulation.world.truth[sim.BUSY_S][0] == pytest.approx(0.01 / part)


def test_a_policy_sees_only_what_the_router_has_read_and_what_it_knows_to_wait() -> None:
    fleet = servers(1, single(per_item_s=0.01))
    host = {"name": "h", "cores": 1, "router": {"request_us": 1000, "turn_requests": 2}}
    given = on_hosts(
        scenario(requests=6, load=100, workload={"kind": "gamma", "cv2": 0}, objectives=patient()), fleet, [host]
    )
    simulation = Simulation(given, fleet, parse_policy("lert"))
    simulation.decide_outside()
    seen = []
    while simulation.next_decision() is not None:
        query = simulation.world.head.query
        seen.append((query[col.NOW_S], query[col.QUEUE_ITEMS]))
        simulation.apply(0, 1.0)
    assert seen[0] == pytest.approx((0.0011, 1))  # the first one alone
    assert seen[1] == pytest.approx((0.0031, 5))  # two more are read, and three are known to wait


def test_service_times_are_the_residuals_that_were_observed() -> None:
    factors = [0.5, 1.0, 4.0]
    fleet = servers(2, single(per_item_s=0.01))
    host = {"name": "h", "servers": {"s0": 1, "s1": 1}, "cores": 2}
    for correlation in (0.0, 0.7):
        residuals = {"factors": factors, "correlation": correlation, "drift_s": 1}
        simulation = run_on(fleet, {**host, "residuals": residuals}, requests=6000, load=0.05)
        took_s = np.asarray(simulation.world.requests[sim.ANSWERED_S] - simulation.world.requests[sim.SENT_S])
        shares = [np.mean(np.isclose(took_s, 0.01 * factor)) for factor in factors]
        assert shares == pytest.approx([1 / 3] * 3, abs=0.06)
        neighbours = np.corrcoef(took_s[:-1] > 0.03, took_s[1:] > 0.03)[0, 1]
        assert neighbours > 0.25 if correlation else abs(neighbours) < 0.05


def test_batches_that_start_together_have_the_same_fate_where_all_is_in_common() -> None:
    fleet = servers(2, single(per_item_s=0.01))
    residuals = {"factors": [1.0, 2.0, 3.0, 4.0], "correlation": 1.0, "drift_s": 0.1}
    host = {"name": "h", "servers": {"s0": 1, "s1": 1}, "cores": 2, "residuals": residuals}
    simulation = run_on(fleet, host, policy="jsq", requests=2, load=100, workload={"kind": "gamma", "cv2": 0})
    one_s, other_s = latencies_s(simulation, warm_up=0)
    assert one_s == pytest.approx(other_s)


def test_hosts_leave_arrivals_noise_and_faults_alone() -> None:
    fleet = servers(2, single(sigma=0.3))
    given = scenario(requests=300, faults={"fail_every_s": 0.5})
    host = {"name": "h", "servers": {"s0": 1}, "cores": 1, "stalls": {"every_s": 0.5}, "competing": [(0.1, 1)]}
    plain, hosted = draw_trace(given, fleet, 5), draw_trace(on_hosts(given, fleet, [host]), fleet, 5)
    for name in ("arrived_s", "noise", "uniforms", "believed_speed"):
        assert np.array_equal(getattr(plain, name), getattr(hosted, name))
    kept = hosted.schedule[sim.KIND] <= sim.REPORTS
    assert np.array_equal(plain.schedule[sim.AT_S], hosted.schedule[sim.AT_S][kept])
    assert not kept.all()


def test_lengths_of_stalls_are_heavy_tailed_between_their_bounds_or_those_given() -> None:
    given = on_hosts(scenario(requests=1), servers(1, single()), [{"name": "h", "cores": 1, "stalls": {"every_s": 1}}])
    stalls = given.hosts[0].stalls
    assert stalls is not None
    lengths_s = stalls.draw_lengths_s(20_000, np.random.default_rng(0))
    assert 0.05 <= lengths_s.min() < 0.0501
    assert 0.75 < lengths_s.max() <= 0.8
    # Half of a Pareto of exponent 1 between 50 and 800 ms is below the harmonic mean of its bounds.
    assert np.median(lengths_s) == pytest.approx(2 / (1 / 0.05 + 1 / 0.8), rel=0.03)
    named = stalls.model_copy(update={"lengths_ms": (70.0, 300.0)})
    assert set(named.draw_lengths_s(100, np.random.default_rng(0))) == {0.07, 0.3}


def test_a_host_says_which_of_its_servers_there_are() -> None:
    values = {"name": "x", "servers": [{"name": "a", "count": 2, "widths": {100: {"item_ms": 1}}}]}
    host = {"name": "h", "servers": {"a": 0.5}, "cores": 1}
    given = ScenarioSettings.model_validate({**values, "hosts": [host]})
    assert given.core_ratios(given.hosts[0]) == {"a0": 0.5, "a1": 0.5}
    fleet = [SimulatedServer(ServerName(name), (single(),)) for name in ("a0", "a1")]
    world = Simulation(given, fleet, parse_policy("lert")).world
    assert world.truth[sim.HOST].tolist() == [0, 0]
    assert world.truth[sim.CORE_RATIO].tolist() == [0.5, 0.5]
    assert math.isinf(world.hosts[sim.NEXT_S][0])


def test_the_readmes_fleet_is_late_by_choice_beside_a_busy_process_and_only_there_as_real_servers_are() -> None:
    in_time = {}
    for name in ("quiet", "beside-a-hog"):
        given, fleet = load_scenario(SCENARIOS / f"{name}.yaml")
        found = compare_policies(
            given, fleet, {name: parse_policy(name) for name in ("lert:narrowest", "lert:slack")}, seeds=5
        )
        in_time[name] = [means["attainment_ratio"] or 0.0 for means in found.averages().values()]
    assert min(in_time["quiet"]) > 0.98
    narrowest, by_slack = in_time["beside-a-hog"]
    assert narrowest > 0.99
    assert by_slack < narrowest - 0.05
