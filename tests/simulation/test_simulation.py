from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Binding, Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.layout import HOLD, REJECT
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.fleet import SimulatedModel, SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import Family, ServerName
from tests.simulation.reference import ReferenceWorld, assert_same
from tests.simulation.worlds import patient, run, scenario, servers, single

POLICIES = ["random", "round-robin", "jsq", "p2c", "sed:slack", "lert", "lert:slack", "lect", "slackfit", "max-batch"]
PATIENT_OR_MINDFUL = [
    "weighted-round-robin",
    "least-work:slack",
    "achq,theta=2/1",
    "clipper-plus:50",
    "clipper-aimd",
    "nexus",
    "control-limit,limit=3",
    "clockwork",
    "infaas",
    "model-switching,window_s=0.1,hold_s=0.1",
    "alert",
    "fluid-lp,interval_s=0.2",
    "proteus-lp,interval_s=0.2",
]


@st.composite
def fleets(draw: st.DrawFn) -> list[SimulatedServer]:
    found = []
    for index in range(draw(st.integers(1, 4))):
        models = tuple(
            replace(
                linear_model(
                    width,
                    per_item_s=draw(st.floats(1e-4, 2e-2)),
                    fixed_s=draw(st.floats(0, 1e-2)),
                    max_batch_size=draw(st.sampled_from((2, 4, 32))),
                    instances=draw(st.integers(1, 3)),
                    sigma=draw(st.sampled_from((0.0, 0.3))),
                    per_item_j=draw(st.floats(0.001, 1)),
                    fixed_j=draw(st.floats(0, 1)),
                ),
                delay_s=draw(st.sampled_from((0.0, 0.0, 1e-3, 2e-2))),
            )
            for width in sorted(draw(st.sets(st.sampled_from((25, 50, 100)), min_size=1)))
        )
        found.append(SimulatedServer(ServerName(f"s{index}"), models, idle_w=draw(st.floats(0, 100))))
    return found


@st.composite
def scenarios(draw: st.DrawFn, requests: int = 60) -> ScenarioSettings:
    workload = {
        "kind": draw(st.sampled_from(("poisson", "gamma", "mmpp", "self-similar", "ramp", "diurnal", "flash-crowd"))),
        "items": draw(st.integers(1, 2)),
    }
    objectives = {
        "deadline_ms": draw(st.floats(1, 500)),
        "in_flight_groups": draw(st.integers(1, 3)),
        "queue_limit": 10**6,
    }
    return scenario(requests=requests, load=draw(st.floats(0.1, 2)), workload=workload, objectives=objectives)


def of_two_families(fleet: Sequence[SimulatedServer]) -> list[SimulatedServer]:
    """Return a fleet of whose servers the first has the widths of cats and dogs, and every other one those of cats."""

    def models_of(index: int, server: SimulatedServer) -> Iterator[SimulatedModel]:
        for family in ("cats", "dogs") if index % 2 == 0 else ("cats",):
            yield from (replace(model, family=Family(family)) for model in server.models)

    return [replace(server, models=tuple(models_of(index, server))) for index, server in enumerate(fleet)]


TWO_FAMILIES = {"cats": {"weight": 2.0, "deadline_ms": 30.0}, "dogs": {"share": 3.0}}


def without_learning(given: ScenarioSettings) -> ScenarioSettings:
    return given.model_copy(update={"telemetry": given.telemetry.model_copy(update={"learns": False})})


@settings(deadline=None, max_examples=60)
@given(scenarios(), fleets(), st.sampled_from(POLICIES + PATIENT_OR_MINDFUL), st.integers(0, 1000))
def test_the_loop_does_what_a_plain_world_of_objects_does(
    given: ScenarioSettings, fleet: list[SimulatedServer], name: str, seed: int
) -> None:
    given = without_learning(given)
    policy, trace = parse_policy(name), draw_trace(given, fleet, seed)
    simulation = Simulation(given, fleet, policy, trace=trace)
    simulation.run()
    assert_same(simulation, ReferenceWorld(given, fleet, policy, trace).run())


faults = st.fixed_dictionaries(
    {
        "fail_every_s": st.none() | st.floats(0.05, 1),
        "down_s": st.floats(0.01, 0.5),
        "notice_s": st.floats(0, 0.2),
        "throttle_every_s": st.none() | st.floats(0.05, 1),
    }
)
telemetries = st.fixed_dictionaries(
    {"report_every_s": st.none() | st.floats(0.01, 0.5), "delay_s": st.floats(0, 1), "lost_ratio": st.floats(0, 0.9)}
)


@settings(deadline=None, max_examples=100)
@given(
    scenarios(200),
    fleets(),
    st.sampled_from(POLICIES + PATIENT_OR_MINDFUL),
    faults,
    telemetries,
    st.integers(1, 100),
    st.booleans(),
    st.none() | st.just({1: 1, 2: 1}),
    st.booleans(),
)
def test_requests_and_joules_are_conserved_whatever_happens(
    given: ScenarioSettings,
    fleet: list[SimulatedServer],
    name: str,
    wrong: dict[str, Any],
    telemetry: dict[str, Any],
    queue_limit: int,
    shed_late: bool,
    priorities: dict[int, float] | None,
    several: bool,
) -> None:
    values = given.model_dump(mode="json")
    if several:
        fleet, values["families"] = of_two_families(fleet), TWO_FAMILIES
    values["faults"], values["telemetry"] = wrong, telemetry
    values["objectives"] |= {"queue_limit": queue_limit, "request_timeout_s": 5.0, "shed_late": shed_late}
    values["workload"]["priorities"] = priorities
    given = ScenarioSettings.model_validate(values)
    simulation = Simulation(given, fleet, parse_policy(name), seed=1)
    simulation.run()
    world, result = simulation.world, summarise(simulation, seed=1)
    assert result.answered + result.shed + result.rejected + result.failed == given.workload.requests
    requests = {
        k: np.asarray(world.requests[k])
        for k in (sim.STATUS, sim.ANSWERED_S, sim.ARRIVED_S, sim.ENERGY_J, sim.ATTEMPTS)
    }
    answered = requests[sim.STATUS] == sim.ANSWERED
    assert (requests[sim.ANSWERED_S] >= requests[sim.ARRIVED_S]).all()
    assert world.state[sim.WAITING_ITEMS] == 0
    assert not world.queues[sim.QUEUE_ITEMS].any()
    assert not world.queues[sim.QUEUE_BOUND_ITEMS].any()
    assert sum(family.requests for family in result.families) == (given.workload.requests if several else 0)
    assert simulation.now_s == result.duration_s == requests[sim.ANSWERED_S].max()
    assert sum(s.items for s in result.servers) == answered.sum() * given.workload.items
    assert (requests[sim.ATTEMPTS][answered] >= 1).all()
    assert requests[sim.ATTEMPTS].max() <= given.objectives.max_attempts
    for server in simulation.world.fleet.servers, world.truth:
        assert not np.isnan(np.asarray(server)[[0, 1]]).any()
    # What requests were charged adds up to what servers spent on batches that ended.
    busy_j = np.asarray(world.truth[sim.BUSY_J]).sum()
    told_j = np.nansum(requests[sim.ENERGY_J])
    if wrong["fail_every_s"] is None:
        assert told_j == pytest.approx(busy_j)
        assert (np.asarray(world.truth[sim.UP_S]) == pytest.approx(simulation.now_s)) or not busy_j
    assert told_j <= busy_j * (1 + 1e-9)
    idle_j = sum(s.idle_w * world.truth[sim.UP_S][i] for i, s in enumerate(simulation.servers) if s.idle_w is not None)
    total_j = sum(s.energy_j for s in result.servers if s.energy_j is not None)
    assert total_j == pytest.approx(idle_j + busy_j)
    assert all(0 <= s.utilisation_ratio <= 1 + 1e-9 for s in result.servers)


def test_a_seed_names_a_trace_and_faults_leave_arrivals_alone() -> None:
    fleet = servers(3, single(sigma=0.3), linear_model(50, per_item_s=0.004))
    calm = scenario(requests=500)
    stormy = scenario(requests=500, faults={"fail_every_s": 0.5, "down_s": 0.1})
    one, again, other, storm = (run(s, fleet, seed=seed) for s, seed in ((calm, 4), (calm, 4), (calm, 5), (stormy, 4)))
    for field in range(sim.REQUEST_FIELDS):
        assert np.array_equal(one.world.requests[field], again.world.requests[field], equal_nan=True)
    assert not np.array_equal(one.world.requests[sim.ARRIVED_S], other.world.requests[sim.ARRIVED_S])
    for field in (sim.ARRIVED_S, sim.NOISE, sim.FIRST_UNIFORM):
        assert np.array_equal(one.world.requests[field], storm.world.requests[field])
    assert storm.world.requests[sim.ATTEMPTS].max() > 1  # type: ignore[attr-defined]


class FirstWithRoom:
    """A policy of values: the first server with room, one request at a time."""

    name, binding = "first-with-room", Binding.LATE

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        for candidate in candidates:
            if candidate.has_room:
                return Dispatch(candidate.with_items(situation.queue.head_items), Reason.DRAWN)
        return Hold(Reason.BETTER_SERVER_BUSY)


def test_a_policy_of_values_decides_in_the_same_world() -> None:
    settings = scenario(requests=300, objectives=patient(in_flight_groups=1))
    fleet = servers(2, linear_model(100, per_item_s=0.01))
    simulation = Simulation(settings, fleet, FirstWithRoom())
    simulation.run()
    result = summarise(simulation, seed=0)
    assert result.answered == 300
    assert result.mean_batch == 1
    assert result.servers[0].items > result.servers[1].items > 0


def test_decisions_can_be_made_from_outside_one_by_one() -> None:
    fleet = servers(2, single())
    simulation = Simulation(scenario(requests=4, load=0.1, objectives=patient()), fleet, parse_policy("lert"))
    simulation.decide_outside()
    decided = []
    while (rows := simulation.next_decision()) is not None:
        decided.append((rows, simulation.now_s))
        if len(decided) == 1:
            simulation.apply(HOLD, 0, simulation.now_s + 0.001)
        elif len(decided) == 2:
            simulation.apply(REJECT, 0)
        else:
            simulation.apply(1, 1)
    result = summarise(simulation, seed=0)
    assert [rows for rows, _ in decided] == [2] * 5
    assert decided[1][1] == pytest.approx(decided[0][1] + 0.001)
    assert (result.rejected, result.answered, result.servers[0].items, result.servers[1].items) == (1, 3, 0, 3)


def overloaded(**objectives: Any) -> Simulation:
    given = scenario(
        requests=4000,
        load=3.0,
        workload={"priorities": {1: 1, 3: 9}},
        objectives={"deadline_ms": 300, "queue_limit": 60} | objectives,
    )
    return run(given, servers(2, linear_model(100, per_item_s=0.01, fixed_s=0.005, max_batch_size=8)), "lert:slack")


def test_under_overload_the_urgent_are_answered_and_the_rest_is_displaced() -> None:
    requests = overloaded().world.requests
    answered, priority = (
        np.asarray(requests[field]) == value for field, value in ((sim.STATUS, sim.ANSWERED), (sim.PRIORITY, 1))
    )
    assert answered[priority].mean() > 0.99
    assert answered[~priority].mean() < 0.4
    displaced_s = (np.asarray(requests[sim.ANSWERED_S]) - np.asarray(requests[sim.ARRIVED_S]))[~answered]
    assert (displaced_s > 0).any(), "some had waited"
    assert (displaced_s == 0).any(), "others were turned away as they came"


def test_what_can_not_be_answered_in_time_is_given_up_before_its_deadline_and_the_rest_gains() -> None:
    kept, shed = overloaded(queue_limit=10_000), overloaded(queue_limit=10_000, shed_late=True)
    requests = shed.world.requests
    given_up = np.asarray(requests[sim.STATUS]) == sim.SHED
    assert given_up.any()
    assert (np.asarray(requests[sim.ANSWERED_S]) < np.asarray(requests[sim.DEADLINE_S]))[given_up].all()
    on_time = [simulation.world.state[sim.ON_TIME_COUNT] for simulation in (kept, shed)]
    assert on_time[1] > 1.5 * on_time[0]
    late = shed.world.state[sim.ANSWERED_COUNT] - on_time[1]
    assert late < 0.02 * on_time[1]


def test_the_router_learns_that_a_machine_is_throttled() -> None:
    fleet = servers(1, linear_model(100, per_item_s=0.01))
    throttled = {"throttle_every_s": 1e-9, "throttle_factor": 3.0, "throttle_s": 1e9}
    simulation = run(scenario(requests=300, load=0.2, faults=throttled, objectives=patient()), fleet)
    assert simulation.world.fleet.models[col.PER_ITEM_S][0] == pytest.approx(0.03, rel=0.05)
    calm = run(scenario(requests=300, load=0.2, objectives=patient()), fleet)
    assert calm.world.fleet.models[col.PER_ITEM_S][0] == pytest.approx(0.01)


def test_load_throttles_a_server_until_it_has_cooled() -> None:
    # Batches of one take 10 ms, 20 while it is hot.
    fleet = servers(1, linear_model(100, per_item_s=0.01, max_batch_size=1))
    hot = {"heat_s": 1.0, "hot_above": 0.7, "throttle_factor": 2.0}

    def services_s(load: float, **faults: Any) -> list[float]:
        simulation = run(scenario(requests=600, load=load, faults=faults, objectives=patient()), fleet, "lert:100")
        world = simulation.world
        assert world.truth[sim.HEAT][0] <= 1
        took_s = np.diff(np.sort(np.asarray(world.requests[sim.ANSWERED_S])))
        return took_s[took_s > 0.0].tolist()

    assert min(services_s(1.5)) == pytest.approx(0.01)
    busy = services_s(1.5, **hot)
    warms_s = -math.log(1 - 0.7)  # busy all the time
    cool = round(warms_s / 0.01)
    assert busy[cool // 2] == pytest.approx(0.01)
    assert busy[2 * cool :] == pytest.approx([0.02] * len(busy[2 * cool :]))
    rested = run(scenario(requests=600, load=0.3, faults=hot, objectives=patient()), fleet, "lert:100")
    assert rested.world.truth[sim.IS_HOT][0] == 0
    assert rested.world.truth[sim.BUSY_S][0] == pytest.approx(6.0, rel=0.2)


def test_a_router_that_learns_late_of_answers_does_worse() -> None:
    fleet = servers(8, single())
    means = []
    for report_every_s in (None, 0.2):
        settings = scenario(
            requests=20_000, load=0.8, telemetry={"report_every_s": report_every_s}, objectives=patient()
        )
        simulation = run(settings, fleet, "jsq", exponential=True)
        means.append(summarise(simulation, seed=0).mean_s)
    assert means[0] is not None and means[1] is not None
    assert means[1] > 1.5 * means[0]


def test_an_answer_that_travels_costs_latency_and_no_capacity() -> None:
    fleet = servers(1, replace(single(per_item_s=1.0), delay_s=0.25))
    settings = scenario(requests=4, objectives=patient())
    trace = replace(draw_trace(settings, fleet, 0), arrived_s=np.array([0.0, 0.0, 0.0, 10.0]))
    simulation = Simulation(settings, fleet, parse_policy("jsq"), trace=trace)
    simulation.run()
    requests = simulation.world.requests
    # Two are sent at once and run back to back. The third goes out when the first answer is there, while the second
    # runs, and begins with its end.
    assert list(requests[sim.ANSWERED_S]) == [1.25, 2.25, 3.25, 11.25]
    assert list(requests[sim.SENT_S]) == [0.0, 0.0, 1.25, 10.0]
    assert simulation.world.truth[sim.BUSY_S][0] == 4.0
    # What the router saw: from sending to answer of the first and the last, from answer to answer of the others.
    assert 1.0 < simulation.world.fleet.models[col.PER_ITEM_S][0] < 1.25


def test_an_answer_that_was_on_its_way_is_lost_with_its_server_and_its_energy_is_spent() -> None:
    fleet = servers(
        2, replace(linear_model(100, per_item_s=1.0, max_batch_size=1, per_item_j=2.0), delay_s=0.5), idle_w=0.0
    )
    settings = scenario(requests=1, objectives=patient())
    trace = replace(
        draw_trace(settings, fleet, 0),
        arrived_s=np.array([0.0]),
        schedule=entries((1.25, 0, sim.FAILS, 0), (2.0, 0, sim.NOTICED, 0)),
    )
    simulation = Simulation(settings, fleet, parse_policy("jsq"), trace=trace)
    simulation.run()
    result = summarise(simulation, seed=0)
    assert (result.answered, simulation.now_s) == (1, 2.0 + 1.5)
    assert [s.energy_j for s in result.servers] == [2.0, 2.0]
    assert [s.items for s in result.servers] == [0, 1]


def test_a_server_that_fails_loses_nothing_that_can_be_sent_again() -> None:
    fleet = servers(2, single())
    settings = scenario(
        requests=5000,
        load=0.3,
        faults={"fail_every_s": 3.0, "down_s": 0.5, "notice_s": 0.1},
        objectives=patient(max_attempts=50),
    )
    for policy in ("lert", "jsq"):
        simulation = run(settings, fleet, policy)
        result = summarise(simulation, seed=0)
        assert result.answered == 5000
        assert np.asarray(simulation.world.requests[sim.ATTEMPTS]).max() > 1
        assert all(up_s < simulation.now_s for up_s in np.asarray(simulation.world.truth[sim.UP_S]))
        assert math.isclose(sum(s.items for s in result.servers), 5000)


def joules(simulation: Simulation) -> list[float | None]:
    return [s.energy_j for s in summarise(simulation, seed=0).servers]


def entries(*given: tuple[float, int, float, float]) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Return a schedule of (when, server, kind, value)."""
    table = np.zeros((sim.EVENT_FIELDS, len(given)))
    for place, (at_s, server, kind, value) in enumerate(given):
        table[sim.AT_S, place], table[sim.EVENT_SERVER, place] = at_s, server
        table[sim.KIND, place], table[sim.VALUE, place], table[sim.ORDER, place] = kind, value, place
    return table


@pytest.mark.parametrize("policy", ["lert", "jsq"])
def test_what_is_arranged_for_after_the_last_answer_costs_nothing(policy: str) -> None:
    fleet, settings = servers(2, linear_model(100, per_item_s=0.01, per_item_j=1.0), idle_w=30), scenario(requests=200)
    trace = draw_trace(settings, fleet, 3)
    calm = Simulation(settings, fleet, parse_policy(policy), trace=trace)
    calm.run()
    over_s = calm.now_s
    later = entries(
        (over_s + 1, 0, sim.FAILS, 0),
        (over_s + 2, 0, sim.NOTICED, 0),
        (over_s + 3, 1, sim.THROTTLES, 2),
        (over_s + 4, 1, sim.REPORTS, 0.1),
        (over_s + 60, 0, sim.RETURNS, 0),
    )
    stormy = Simulation(settings, fleet, parse_policy(policy), trace=replace(trace, schedule=later))
    stormy.run()
    assert over_s == np.asarray(calm.world.requests[sim.ANSWERED_S]).max()
    assert joules(stormy) == joules(calm) != [None, None]
    assert summarise(stormy, seed=0) == summarise(calm, seed=0)


def test_a_run_waits_for_what_is_lost_on_a_server_that_nobody_has_missed_yet() -> None:
    fleet = servers(1, single(per_item_s=1.0), idle_w=10)
    settings = scenario(requests=1, objectives=patient())
    trace = replace(
        draw_trace(settings, fleet, 0),
        arrived_s=np.array([1.0]),
        schedule=entries(
            (1.5, 0, sim.FAILS, 0), (3.0, 0, sim.NOTICED, 0), (4.0, 0, sim.RETURNS, 0), (9.0, 0, sim.FAILS, 0)
        ),
    )
    simulation = Simulation(settings, fleet, parse_policy("lert"), trace=trace)
    simulation.run()
    result = summarise(simulation, seed=0)
    assert (result.answered, simulation.now_s) == (1, 5.0)
    assert simulation.world.truth[sim.UP_S][0] == 1.5 + 1.0


def test_neither_a_lost_group_nor_a_hold_keeps_a_run_from_its_end() -> None:
    fleet = servers(2, single(per_item_s=10.0), idle_w=10)
    settings = scenario(requests=1, objectives=patient(max_attempts=1))
    trace = replace(
        draw_trace(settings, fleet, 0),
        arrived_s=np.array([1.0]),
        schedule=entries((2.0, 0, sim.FAILS, 0), (3.0, 0, sim.NOTICED, 0), (50.0, 0, sim.RETURNS, 0)),
    )
    simulation = Simulation(settings, fleet, parse_policy("lert"), trace=trace)
    simulation.world.state[sim.HOLD_UNTIL_S] = 100.0
    simulation.run()
    assert (summarise(simulation, seed=0).failed, simulation.now_s) == (1, 3.0)
    simulation.run_until(20.0)  # who asks for more time gets it
    assert simulation.now_s == 20.0


def test_who_waits_when_nothing_is_to_come_is_given_up_in_the_end() -> None:
    # The router learns of room by reports alone, and those end before its queue does.
    models = (
        linear_model(25, per_item_s=1e-4, fixed_s=0.0, max_batch_size=2, accuracy=0.25, per_item_j=1.0, fixed_j=0.0),
    )
    given = scenario(
        requests=200,
        load=0.5,
        objectives={"queue_limit": 41, "request_timeout_s": 5.0, "in_flight_groups": 1},
        telemetry={"report_every_s": 0.5},
    )
    simulation = Simulation(
        given, [SimulatedServer(ServerName("s0"), models, idle_w=0.0)], parse_policy("lert"), seed=1
    )
    simulation.run()
    result = summarise(simulation, seed=1)
    assert result.answered + result.shed == 200
    assert 5.0 <= result.duration_s < 5.1


def test_a_policy_of_one_width_gives_up_what_that_width_cannot_answer_as_a_live_router_does() -> None:
    """At three times what the widest width answers a third is in time; the rest is refused, not sent and late."""
    widths = [linear_model(width, per_item_s=0.05 * (width / 100) ** 2, max_batch_size=32) for width in (25, 100)]
    objectives = {"deadline_ms": 500, "shed_late": True}
    settings = scenario(requests=2000, load=3.0, workload={"load_of_width": 100}, objectives=objectives)
    result = summarise(run(settings, servers(1, *widths), "lert:100"), seed=0)
    in_time = result.attainment_ratio * result.requests
    assert 0.8 / 3 < result.attainment_ratio < 1.05 / 3
    assert in_time + result.shed > 0.97 * result.requests


def test_servers_report_for_as_long_as_a_queue_may_drain() -> None:
    """Without a report nothing is known to be done, and nothing would be sent any more."""
    settings = scenario(
        requests=8_000,
        load=2.0,
        telemetry={"report_every_s": 0.05},
        objectives={"request_timeout_s": 3000, "queue_limit": 100_000},
    )
    model = linear_model(100, per_item_s=0.05, max_batch_size=1)
    simulation = run(settings, servers(2, model), "lert:narrowest")
    assert simulation.world.state[sim.NOW_S] > simulation.trace.arrived_s[-1] + 90
    assert (np.asarray(simulation.world.requests[sim.STATUS]) == sim.ANSWERED).all()
