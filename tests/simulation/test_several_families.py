"""Several families on the servers of a simulated fleet; tests/contract/test_queue.py: a live router does the same."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import cache
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.learning.ppo.paper import paper_fleet
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.bounds.overview import measure_window
from orchestrator.simulation.results import WARM_UP_RATIO, FamilyResult, compare_policies, summarise
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import draw_trace, only_family
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.simulation.test_simulation import POLICIES, TWO_FAMILIES, fleets, of_two_families, scenarios
from tests.simulation.worlds import scenario

WIDTHS = (25, 50, 100)


def server(name: str, per_item_s: float, families: tuple[str, ...]) -> SimulatedServer:
    """Return a server of several families that are alike."""
    models = tuple(
        linear_model(width, per_item_s=per_item_s * width / 100, fixed_s=0.004, family=family, sigma=0.1)
        for family in families
        for width in WIDTHS
    )
    return SimulatedServer(ServerName(name), models)


def two_servers(*families: str) -> list[SimulatedServer]:
    return [server("a", 0.01, families), server("b", 0.015, families)]


def results_of(given: ScenarioSettings, policy: str, family: str, *families: str, seeds: int) -> list[FamilyResult]:
    """Return what became of a family's requests, with each seed, and what does when they are alone."""
    fleet, found = two_servers(*families), list[FamilyResult]()
    for seed in range(seeds):
        trace = draw_trace(given, fleet, seed)
        runs = [
            Simulation(given, fleet, parse_policy(policy), trace=each)
            for each in (trace, only_family(trace, families.index(family)))
        ]
        for simulation in runs:
            simulation.run()
        summaries = [summarise(simulation, seed=seed, warm_up_ratio=WARM_UP_RATIO).families for simulation in runs]
        both, alone = (next(own for own in each if own.name == family) for each in summaries)
        found.append(replace(both, alone_ratio=alone.attainment_ratio))
    return found


def result_of(given: ScenarioSettings, policy: str, family: str, *families: str) -> FamilyResult:
    return results_of(given, policy, family, *families, seeds=1)[0]


def test_a_comparison_tells_how_each_family_fares_alone_where_it_is_asked_to() -> None:
    shed = {"shed_late": True, "queue_limit": 1000}
    given = scenario(requests=4000, load=2.0, families={"cats": {"share": 0.3}, "dogs": {}}, objectives=shed)
    fleet, policies = two_servers("cats", "dogs"), {"thrift": parse_policy("thrift")}
    (found,) = compare_policies(given, fleet, policies, seeds=1, alone=True).results
    for own in found.families:
        assert own == result_of(given, "thrift", own.name, "cats", "dogs")
        assert own.alone_ratio is not None
        assert own.alone_ratio > own.attainment_ratio > 0.1
    (without,) = compare_policies(given, fleet, policies, seeds=1).results
    assert without.families == tuple(replace(own, alone_ratio=None) for own in found.families)


@pytest.mark.parametrize(
    ("policy", "flood_ms"),
    [(policy, flood_ms) for policy in ("lert:slack", "lert:brownout", "thrift") for flood_ms in (100.0, 50.0, 2000.0)],
)
def test_ten_times_too_much_of_one_family_costs_another_no_answer(policy: str, flood_ms: float) -> None:
    flood = scenario(
        requests=60_000,
        load=10.0,
        families={"calm": {"share": 0.01}, "flood": {"deadline_ms": flood_ms}},
        objectives={"shed_late": True, "queue_limit": 1000},
    )
    calm = results_of(flood, policy, "calm", "calm", "flood", seeds=6)
    assert min(each.requests for each in calm) > 400
    lost = [(each.alone_ratio or math.nan) - each.attainment_ratio for each in calm]
    assert fmean(lost) <= 0.02
    assert lost[0] <= 0.02
    assert max(lost) <= 0.04, "whoever comes first"


@cache  # of the narrowest it is asked with every policy
def lost_beside_a_flood(policy: str, load_of_width: int | None) -> float:
    """Return what part of its requests a family loses that asks for 0.4 of what the servers can do at some width.

    It has a right to half of them; another asks for nearly ten times what there is.
    """
    flood = scenario(
        requests=60_000,
        load=10.0,
        workload={} if load_of_width is None else {"load_of_width": load_of_width},
        families={"calm": {"share": 0.04}, "flood": {}},
        objectives={"shed_late": True, "queue_limit": 1000},
    )
    calm = results_of(flood, policy, "calm", "calm", "flood", seeds=3)
    return fmean((each.alone_ratio or math.nan) - each.attainment_ratio for each in calm)


@pytest.mark.parametrize("policy", ["lert:slack", "lert:reserve", "lert:brownout", "thrift"])
def test_a_family_that_needs_most_of_its_share_counts_on_no_more_beside_a_flood(policy: str) -> None:
    assert lost_beside_a_flood(policy, 100) <= 0.005
    # At the narrowest width it has little time to spare, whatever is decided.
    assert lost_beside_a_flood(policy, None) <= lost_beside_a_flood("lert:narrowest", None) + 0.02


def test_servers_are_shared_by_weight_where_both_families_want_more() -> None:
    given = scenario(
        requests=40_000,
        load=3.0,
        families={"cats": {"weight": 3.0}, "dogs": {}},
        objectives={"shed_late": True},
        workload={"load_of_width": 100},
    )
    results = compare_policies(
        given, two_servers("cats", "dogs"), {"lert:narrowest": parse_policy("lert:narrowest")}, seeds=1
    ).results
    even = compare_policies(
        given.model_copy(update={"families": {name: given.families["dogs"] for name in given.families}}),
        two_servers("cats", "dogs"),
        {"lert:narrowest": parse_policy("lert:narrowest")},
        seeds=1,
    ).results
    by_weight = [own.attainment_ratio for own in results[0].families]
    evenly = [own.attainment_ratio for own in even[0].families]
    assert by_weight[0] > evenly[0] > by_weight[1]
    assert evenly[0] == pytest.approx(evenly[1], abs=0.05)


def test_what_is_answered_of_two_floods_is_as_their_weights_are() -> None:
    """Their widths and batches are alike, so answers are the servers' time that each gets."""
    given = scenario(
        requests=40_000, load=10.0, families={"cats": {"weight": 3.0}, "dogs": {}}, objectives={"shed_late": True}
    ).with_workload(load_of_width=100)
    fleet, ratios = two_servers("cats", "dogs"), list[float]()
    for seed in range(3):
        trace = draw_trace(given, fleet, seed)
        simulation = Simulation(given, fleet, parse_policy("lert:narrowest"), trace=trace)
        simulation.run()
        requests = simulation.world.requests
        answered = requests[:, requests[sim.STATUS] == sim.ANSWERED]
        assert set(answered[sim.WIDTH]) == {25.0}
        cats, dogs = np.bincount(answered[sim.FAMILY].astype(int))
        ratios.append(cats / dogs)
    assert fmean(ratios) == pytest.approx(3.0, rel=0.15)


@settings(deadline=None, max_examples=60)
@given(scenarios(200), fleets(), st.sampled_from(POLICIES), st.booleans())
def test_a_family_whose_others_are_silent_fares_as_one_that_is_alone(
    given: ScenarioSettings, fleet: list[SimulatedServer], name: str, shed_late: bool
) -> None:
    values = given.model_dump(mode="json")
    values["objectives"] |= {"shed_late": shed_late, "queue_limit": 20}
    alone = ScenarioSettings.model_validate(values)
    several = ScenarioSettings.model_validate({**values, "families": {name: {} for name in TWO_FAMILIES}})
    both = of_two_families(fleet)
    trace = only_family(draw_trace(several, both, 3), 0)
    if not trace.items.size:
        return
    runs = [Simulation(alone, fleet, parse_policy(name), trace=trace)]
    runs.append(Simulation(several, both, parse_policy(name), trace=trace))
    for simulation in runs:
        simulation.run()
    for field in (sim.STATUS, sim.ANSWERED_S, sim.SERVER, sim.WIDTH, sim.BATCH):
        assert np.array_equal(runs[0].world.requests[field], runs[1].world.requests[field], equal_nan=True)


def test_popularity_drifts_and_leaves_each_family_without_requests_for_a_time() -> None:
    drifting = scenario(
        requests=30_000,
        families={"cats": {}, "dogs": {}, "owls": {}},
        workload={"drift_amplitude": 3.0, "drift_periods": 2.0},
    )
    fleet = two_servers("cats", "dogs", "owls")
    trace = draw_trace(drifting, fleet, 0)
    counts = np.array([np.histogram(trace.arrived_s[trace.family == k], bins=20)[0] for k in range(3)])
    assert (counts.min(axis=1) == 0).all()
    assert counts.sum(axis=1) == pytest.approx([10_000] * 3, rel=0.05)
    level = draw_trace(drifting.with_workload(drift_amplitude=0.0), fleet, 0)
    assert np.array_equal(level.arrived_s, trace.arrived_s), "only who asks is another"


def test_a_fleet_is_loaded_by_what_it_serves_of_all_families_in_their_shares() -> None:
    """Cats take a server 1 ms, dogs 3 ms; of one cat and three dogs it serves four in 10 ms."""
    models = [linear_model(100, per_item_s=0.001, family="cats"), linear_model(100, per_item_s=0.003, family="dogs")]
    one = SimulatedServer(ServerName("a"), tuple(models))
    given = scenario(load=1.0, families={"cats": {}, "dogs": {"share": 3.0}})
    assert draw_trace(given, [one], 0).rate_rps == pytest.approx(400.0)
    # A second server that has cats alone takes them all, and the first has dogs for all of its time.
    other = SimulatedServer(ServerName("b"), tuple(models[:1]))
    assert draw_trace(given, [one, other], 0).rate_rps == pytest.approx(1 / 0.003 / 0.75)
    with pytest.raises(ConfigError, match="no server serves a width of every family"):
        draw_trace(given, [other], 0)


def test_a_deadline_and_a_least_accuracy_are_of_one_family() -> None:
    given = scenario(requests=2000, load=0.2, families={"cats": {"min_accuracy": 0.9, "deadline_ms": 40.0}, "dogs": {}})
    fleet = two_servers("cats", "dogs")
    simulation = Simulation(given, fleet, parse_policy("lert:narrowest"))
    simulation.run()
    requests = simulation.world.requests
    for family, widths, allowed_s in ((0, {100.0}, 0.04), (1, {25.0}, 0.1)):
        own = requests[:, requests[sim.FAMILY] == family]
        assert set(own[sim.WIDTH]) == widths
        assert own[sim.DEADLINE_S] - own[sim.ARRIVED_S] == pytest.approx(allowed_s)


def test_what_is_of_one_family_alone_says_so() -> None:
    given = scenario(families={"cats": {}, "dogs": {}})
    fleet = two_servers("cats", "dogs")
    with pytest.raises(ConfigError, match="has several families and ppo-paper is of one"):
        paper_fleet(Task(given, tuple(fleet)))
    with pytest.raises(ConfigError, match="a clairvoyant plans for one family"):
        measure_window(given, fleet, [], requests=5, seed=0)


def test_a_policy_of_values_sees_the_widths_of_the_family_that_it_is_asked_about() -> None:
    fleet = two_servers("cats", "dogs")
    fleet[0] = replace(fleet[0], models=tuple(m for m in fleet[0].models if m.family == "cats" or m.width == 50))
    given = scenario(requests=300, families={"cats": {}, "dogs": {}})
    asked = list[tuple[Any, ...]]()

    class Watching:
        name, binding = "watching", parse_policy("lert").binding

        def choose(self, candidates: Any, situation: Any) -> Any:
            asked.append(tuple((c.server, int(c.width)) for c in candidates))
            return parse_policy("lert").choose(candidates, situation)

    Simulation(given, fleet, Watching()).run()
    cats = tuple((name, width) for name in ("a", "b") for width in WIDTHS)
    assert set(asked) == {cats, (("a", 50), *cats[3:])}
