"""Requests of one family with unlike deadlines, floors and preferences; tests/contract: a live router does the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.policies.fleet.row_values import read_candidate, read_decision
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preferred import PreferredPolicy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings, parse_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.policies.learned.test_policy import slim, trained
from tests.simulation.worlds import run, scenario

FLEET = tuple(
    SimulatedServer(
        ServerName(f"s{index}"),
        tuple(
            linear_model(
                width,
                per_item_s=width * 1e-4 * (1 + index),
                fixed_s=2e-3,
                accuracy=0.6 + width / 400,
                sigma=0.1,
                max_batch_size=8,
                per_item_j=width * 1e-3,
                fixed_j=0.02,
            )
            for width in (25, 50, 100)
        ),
        idle_w=5,
    )
    for index in range(2)
)
PLAIN, WIDE, FRUGAL, URGENT = range(4)
CLASSES = [
    {"share": 2},
    {"min_accuracy": 0.8},
    {"preference": "energy"},
    {"deadline_ms": 30},
]


def of_classes(
    classes: list[dict[str, Any]], *, requests: int = 600, load: float = 0.8, **more: Any
) -> ScenarioSettings:
    objectives = {"deadline_ms": 60, **more}
    return scenario(requests=requests, load=load, workload={"classes": classes}, objectives=objectives)


def table(simulation: Simulation) -> NDArray[np.float64]:
    return np.asarray(simulation.world.requests)


@pytest.mark.parametrize("policy", ["lert:narrowest", "lert:slack", "thrift", "jsq:slack"])
def test_each_class_gets_what_it_asks_for_and_the_others_what_the_policy_does(policy: str) -> None:
    found = table(run(of_classes(CLASSES), FLEET, policy))
    answered = found[:, found[sim.STATUS] == sim.ANSWERED]
    assert len(answered[0]) == 600
    of_class = draw_trace(of_classes(CLASSES), FLEET, 0).of_class[found[sim.STATUS] == sim.ANSWERED]
    of = [answered[:, of_class == number] for number in range(4)]
    assert set(answered[sim.CLASS]) == {PLAIN, WIDE, FRUGAL}  # who is urgent waits with the plain ones
    assert min(of[WIDE][sim.ACCURACY]) >= 0.8
    assert min(of[PLAIN][sim.ACCURACY]) < 0.8
    allowed_s = [np.unique((own[sim.DEADLINE_S] - own[sim.ARRIVED_S]).round(9)).tolist() for own in of]
    assert allowed_s == [[0.06], [0.06], [0.06], [0.03]]
    assert len(of[PLAIN][0]) > 1.5 * len(of[WIDE][0])


def test_no_batch_has_requests_of_two_classes() -> None:
    found = table(run(of_classes(CLASSES, load=1.5), FLEET, "lert:slack"))
    batches = np.unique(found[[sim.SERVER, sim.SENT_S, sim.CLASS]], axis=1)
    assert batches.shape[1] == np.unique(found[[sim.SERVER, sim.SENT_S, sim.CLASS, sim.WIDTH]], axis=1).shape[1]
    assert max(found[sim.BATCH]) > 1
    _, counts = np.unique(found[[sim.SERVER, sim.SENT_S, sim.CLASS]], axis=1, return_counts=True)
    assert sorted(counts) == sorted(
        found[sim.BATCH][np.unique(found[[sim.SERVER, sim.SENT_S, sim.CLASS]], axis=1, return_index=True)[1]]
    )


def test_who_prefers_something_is_decided_by_that_as_a_live_router_does_it() -> None:
    simulation = Simulation(of_classes([{"preference": "energy"}, {}]), FLEET, parse_policy("lert:widest"), seed=0)
    simulation.run()
    found = table(simulation)
    frugal, others = (found[:, found[sim.CLASS] == number] for number in range(2))
    assert set(others[sim.WIDTH]) == {100}
    assert frugal[sim.WIDTH].mean() < 60
    # The rule is the policy's, row for row.
    world, policy = simulation.world, PreferredPolicy()
    world.head.query[col.PREFER_ACCURACY : col.PREFER_ENERGY + 1] = 0.0, 0.0, 1.0
    count = 4
    candidates = [read_candidate(world.rows, row, ("s0", "s1")) for row in range(count)]  # type: ignore[arg-type]
    choice = policy.choose_row(simulation.memory, world.rows, count, world.head.query)
    decision, _ = read_decision(choice, world.rows, count, ("s0", "s1"))  # type: ignore[arg-type]
    assert getattr(decision, "candidate", candidates[0]) in candidates


def test_a_learned_policy_is_not_asked_about_who_prefers_something_and_sees_that_others_wait() -> None:
    simulation = Simulation(of_classes([{"preference": "energy"}, {}]), FLEET, LearnedPolicy(slim()), seed=0)
    simulation.decide_outside()
    seen = set()
    while (count := simulation.next_decision()) is not None:
        query = simulation.world.head.query
        assert np.isnan(query[col.PREFER_ENERGY])
        seen.add((simulation.world.state[sim.ASKED], query[col.OTHER_QUEUES] > 0))
        simulation.apply(*simulation.policy.choose_row(simulation.memory, simulation.world.rows, count, query)[::3])  # type: ignore[attr-defined]
        assert query[col.OTHER_ITEMS] >= query[col.OTHER_QUEUES]
    assert seen == {(1, False), (1, True)}


def test_classes_of_unlike_deadlines_alone_wait_in_one_queue_and_go_together() -> None:
    alone = table(run(of_classes([]), FLEET, "lert:slack"))
    apart = table(run(of_classes([{}, {"share": 3}]), FLEET, "lert:slack"))
    for field in (sim.ARRIVED_S, sim.ANSWERED_S, sim.SERVER, sim.WIDTH, sim.BATCH):
        np.testing.assert_array_equal(alone[field], apart[field])
    found = table(run(of_classes([{}, {"deadline_ms": 30}], load=1.5), FLEET, "lert:slack"))
    assert set(found[sim.CLASS]) == {0}
    allowed_s = (found[sim.DEADLINE_S] - found[sim.ARRIVED_S]).round(9)
    assert set(allowed_s) == {0.03, 0.06}
    batches = {key: set[float]() for key in zip(found[sim.SERVER], found[sim.SENT_S], strict=True)}
    for key, own_s in zip(zip(found[sim.SERVER], found[sim.SENT_S], strict=True), allowed_s, strict=True):
        batches[key].add(own_s)
    assert {0.03, 0.06} in batches.values()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"share": st.floats(0.1, 5)},
            optional={
                "deadline_ms": st.floats(5, 200),
                "min_accuracy": st.floats(0, 0.85),
                "preference": st.sampled_from(["energy", "latency", "accuracy", "balanced"]),
            },
        ),
        min_size=1,
        max_size=5,
    ),
    st.sampled_from(["lert:slack", "lert:brownout", "thrift", "jsq:slack", "nexus", "slim"]),
    st.floats(0.2, 2),
    st.booleans(),
)
def test_whatever_classes_ask_for_every_request_ends_once(
    classes: list[dict[str, Any]], policy: str, load: float, sheds: bool
) -> None:
    given_settings = of_classes(classes, requests=200, load=load, shed_late=sheds, queue_limit=40)
    learned = LearnedPolicy(slim(weights=trained(), strength=1.0))
    simulation = Simulation(given_settings, FLEET, learned if policy == "slim" else parse_policy(policy), seed=1)
    simulation.run()
    found, state = table(simulation), simulation.world.state
    assert set(found[sim.STATUS]) <= {sim.ANSWERED, sim.SHED, sim.REJECTED, sim.FAILED}
    assert state[sim.ANSWERED_COUNT] + state[sim.LOST_COUNT] == 200
    of_class = simulation.trace.of_class
    for number, own in enumerate(classes):
        answered = found[:, (of_class == number) & (found[sim.STATUS] == sim.ANSWERED)]
        assert (answered[sim.ACCURACY] >= own.get("min_accuracy", 0.0) - 1e-9).all()


YAML = """
name: mixed
servers: [{{name: s, widths: {{50: {{item_ms: 1, accuracy: 62}}, 100: {{item_ms: 2, accuracy: 70}}}}}}]
workload: {{requests: 10, classes: [{{min_accuracy: {floor}}}, {{share: 2, preference: {preference}}}]}}
"""


def test_floors_are_on_the_scale_of_the_widths_and_what_is_impossible_is_refused(tmp_path: Path) -> None:
    read, fleet = parse_scenario(YAML.format(floor=65, preference="energy"), source="mixed", folder=tmp_path)
    assert [m.accuracy >= read.workload.classes[0].min_accuracy for m in fleet[0].models] == [False, True]
    with pytest.raises(ConfigError, match=r"mixed: workload.classes.0.min_accuracy is 71, the most .* is 70; lower it"):
        parse_scenario(YAML.format(floor=71, preference="energy"), source="mixed", folder=tmp_path)
    with pytest.raises(ConfigError, match="'cheap' is no preference"):
        parse_scenario(YAML.format(floor=65, preference="cheap"), source="mixed", folder=tmp_path)
    more = YAML.format(floor=65, preference="energy").replace("requests: 10", "requests: 10, deadlines_ms: {5: 1}")
    with pytest.raises(ConfigError, match="there are classes; give each its own deadline_ms"):
        parse_scenario(more, source="mixed", folder=tmp_path)
    other = parse_scenario(YAML.format(floor=65, preference="accuracy"), source="mixed", folder=tmp_path)
    assert digest_scenario(read, fleet) != digest_scenario(*other)
