"""Worlds in a batch are the worlds of Simulation, and earn what has come of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.learning.ppo.vector_env import FleetVecEnv
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import BATCHES, FIRST_SEND, HOLD_ACTION
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world_batch import Step, WorldBatch
from orchestrator.snapshot import ServerName
from tests.policies.learned.test_policy import slim, trained
from tests.policies.learned.views import numpy_scores
from tests.simulation.controlled import with_controllers
from tests.simulation.worlds import on_hosts, scenario

Act = Callable[[Step], NDArray[np.int64]]


def task(count: int = 3, *, requests: int = 300, load: float = 0.6, joules: bool = True, **sections: object) -> Task:
    fleet = []
    for index in range(count):  # unlike, so that no two candidates tie
        models = tuple(
            linear_model(
                w,
                per_item_s=w * 4e-5 * (1 + 0.3 * index),
                fixed_s=2e-3,
                accuracy=0.6 + w / 500,
                sigma=0.2,
                max_batch_size=8,
                per_item_j=w * 1e-3 if joules else None,
                fixed_j=0.05,
            )
            for w in (25, 50, 100)
        )
        fleet.append(SimulatedServer(ServerName(f"s{index}"), models, idle_w=10))
    settings = scenario(
        requests=requests,
        load=load,
        workload={"kind": "gamma", "cv2": 4},
        objectives={"deadline_ms": 60},
        faults={"fail_every_s": 2, "down_s": 0.2, "notice_s": 0.05},
        **sections,  # type: ignore[arg-type]
    )
    return Task(settings, tuple(fleet), (0.5, 0.3, 0.2))


def on_a_host(made: Task) -> Task:
    """Return a task with two servers and the router on a host on which everything happens."""
    host = {
        "name": "h",
        "servers": {"s0": 1, "s1": 0.5},
        "cores": 1,
        "slice_ms": 2,
        "competing": [(0.2, 1)],
        "router": {"request_us": 200, "decision_us": 50, "batch_us": 200, "answer_us": 100, "has_callers": True},
        "stalls": {"every_s": 0.5},
        "residuals": {"factors": [0.8, 1.0, 3.0], "correlation": 0.5},
    }
    return replace(made, settings=on_hosts(made.settings, made.servers, [host]))


def with_a_controller(made: Task) -> Task:
    """Return a task whose servers have controllers that load, scale and unload while it runs."""
    settings, fleet = with_controllers(made.settings, made.servers, contention=0.3, budget_mib=460)
    return replace(made, settings=settings, servers=fleet)


def with_callers(made: Task) -> Task:
    """Return a task of which four requests at the most are unanswered at a time."""
    return replace(made, settings=made.settings.with_workload(callers=4))


def of_two_families() -> Task:
    """Return a task whose families have unlike deadlines and are asked for unlike often."""
    settings = scenario(
        load=1.1,
        requests=400,
        families={"cats": {"share": 2, "deadline_ms": 40}, "dogs": {"weight": 2}},
        objectives={"deadline_ms": 80},
    )
    fleet = tuple(
        SimulatedServer(
            ServerName(f"s{index}"),
            tuple(
                linear_model(w, per_item_s=w * 1e-4 * (1 + index), fixed_s=2e-3, accuracy=a, sigma=0.1, family=family)
                for family, a in (("cats", 0.7), ("dogs", 0.9))
                for w in (25, 50, 100)
            ),
        )
        for index in range(2)
    )
    return Task(settings, fleet, (0.5, 0.3, 0.2))


def play(batch: WorldBatch, act: Act) -> tuple[list[Step], NDArray[np.float64]]:
    """Run all worlds to their ends; return every step, and what each world earned."""
    step = batch.settle()
    seen, earned = [], step.rewards.copy()
    while not step.ended.all():
        seen.append(Step(*(array.copy() for array in step)))
        step = batch.step(act(step))
        earned += step.rewards
        assert len(seen) < 5000
    return seen, earned


def as_the_base(step: Step) -> NDArray[np.int64]:
    """What the base policy would do in each world."""
    chosen = step.observations[:, : -feat.CONTEXT].reshape(-1, feat.ROWS, feat.FEATURES)[:, :, feat.BASE_CHOICE]
    return np.where(chosen.max(axis=1) > 0, FIRST_SEND + BATCHES * chosen.argmax(axis=1), HOLD_ACTION)


def at_random(seed: int) -> Act:
    rng = np.random.default_rng(seed)
    return lambda step: np.array([rng.choice(np.flatnonzero(mask)) for mask in step.masks])


def simulated(made: Task, policy: str, seed: int) -> Simulation:
    simulation = Simulation(made.settings, made.servers, parse_policy(policy), seed=seed)
    simulation.run()
    return simulation


@pytest.fixture(scope="module")
def batch() -> WorldBatch:
    return WorldBatch(3)


@pytest.mark.parametrize("base", ["lert:slack", "lert:brownout", "slackfit-accuracy", "max-batch"])
def test_worlds_that_do_as_their_base_become_what_its_simulations_become(base: str) -> None:
    batch = WorldBatch(6, base=base)
    tasks = [task(1, requests=100), on_a_host(task(3, load=1.1)), task(9, requests=200, joules=False)]
    tasks += [with_a_controller(task(3, requests=1500, load=1.1)), with_callers(task(2, load=2.0))]
    tasks.append(of_two_families())
    for world, made in enumerate(tasks):
        batch.load(world, made, seed=world)
    play(batch, as_the_base)
    for world, made in enumerate(tasks):
        state = simulated(made, base, world).world.state
        totals = batch.totals(world)
        assert totals["answered"] == state[sim.ANSWERED_COUNT] > 0
        assert totals["in_time"] == state[sim.ON_TIME_COUNT]
        assert totals["accuracy"] == state[sim.ACCURACY_SUM] / state[sim.ANSWERED_COUNT]
        assert totals["latency_s"] == state[sim.LATENCY_SUM_S] / state[sim.ANSWERED_COUNT]


def test_what_a_world_earns_adds_up_to_what_has_come_of_it(batch: WorldBatch) -> None:
    made = task(3, load=1.2)
    for world in range(3):
        batch.load(world, made, seed=world)
    _, earned = play(batch, at_random(1))
    for world in range(3):
        totals = batch.totals(world)
        answered, late = totals["answered"], totals["answered"] - totals["in_time"]
        assert totals["requests"] == answered + totals["lost"]
        assert batch._worlds is not None
        in_time = batch._worlds.tables.state[world, sim.IN_TIME_ACCURACY_SUM]
        assert 0 < in_time < answered * totals["accuracy"]
        assert earned[world, 0] == pytest.approx((in_time - totals["in_time"] * 0.65) / 0.15)
        assert earned[world, 1] == pytest.approx(-0.3 * answered * totals["latency_s"] / 0.06)
        assert earned[world, 3] == pytest.approx(-4 * (late + totals["lost"]))
        per_item_j = (8 * 0.1 + 0.05) / 8  # at the widest width, in full batches
        assert earned[world, 2] == pytest.approx(-totals["busy_j"] / per_item_j)


def test_unknown_joules_earn_nothing_instead_of_a_guess(batch: WorldBatch) -> None:
    for world in range(3):
        batch.load(world, task(joules=False), seed=world)
    _, earned = play(batch, at_random(2))
    assert (earned[:, 2] == 0).all()
    assert (earned[:, 0] > 0).all()


def test_the_same_seeds_and_actions_are_the_same_trace_to_the_bit(batch: WorldBatch) -> None:
    runs = []
    for _ in range(2):
        for world in range(3):
            batch.load(world, task(), seed=7 + world)
        runs.append(play(batch, at_random(3)))
    for one, other in zip(*(run[0] for run in runs), strict=True):
        for left, right in zip(one, other, strict=True):
            np.testing.assert_array_equal(left, right)
    earned = runs[0][1]
    assert not np.array_equal(earned[0], earned[1])  # another seed is another world


def test_every_choice_is_one_and_the_base_s_own_is_allowed(batch: WorldBatch) -> None:
    for world in range(3):
        batch.load(world, task(load=0.9), seed=4)
    seen, _ = play(batch, at_random(4))
    for step in seen:
        running = ~step.ended
        assert (step.masks[running].sum(axis=1) > 1).all()
        assert (np.abs(step.observations) <= 1).all()
        assert step.masks[np.arange(3), as_the_base(step)][running].all()
    assert len(seen) > 50


def test_a_learned_policy_in_a_simulation_does_what_its_scores_do_in_a_batch() -> None:
    """Live, simulated and trained see the same: one encoder, one mask, one reading of actions."""
    made, policy = task(3, load=0.9), LearnedPolicy(slim(weights=trained(), strength=2.0))
    simulation = Simulation(made.settings, made.servers, policy, seed=5)
    query = simulation.world.head.query
    query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = made.preference
    simulation.run()

    def best(step: Step) -> NDArray[np.int64]:
        return np.array([by_numpy(policy, step.observations[0], step.masks[0])])

    alone = WorldBatch(1, holds_on=True)
    alone.load(0, made, seed=5)
    play(alone, best)
    totals, state = alone.totals(0), simulation.world.state
    assert totals["answered"] == state[sim.ANSWERED_COUNT]
    assert totals["latency_s"] == state[sim.LATENCY_SUM_S] / state[sim.ANSWERED_COUNT]
    heuristic = simulated(made, "lert:slack", 5).world.state
    assert heuristic[sim.LATENCY_SUM_S] != state[sim.LATENCY_SUM_S]  # else this would show nothing


def by_numpy(policy: LearnedPolicy, observation: NDArray[np.float32], mask: NDArray[np.bool_]) -> int:
    lines, context = observation[: -feat.CONTEXT].reshape(-1, feat.FEATURES), observation[-feat.CONTEXT :]
    considered = int(lines[:, feat.PRESENT].sum())
    scores = numpy_scores(policy.file.weights, lines[:considered], context, policy.file.strength)
    return int(np.argmax(np.where(mask, scores, -np.inf)))


def test_a_hold_that_stands_is_asked_about_less_often_and_ends_like_any_other() -> None:
    made = task(2, requests=200, load=0.3)

    def hold_first(step: Step) -> NDArray[np.int64]:  # then whatever is allowed first
        held = step.masks[:, HOLD_ACTION] & (np.arange(len(step.masks)) % 2 == turn[0] % 2)
        turn[0] += 1
        sent = FIRST_SEND + step.masks[:, FIRST_SEND:].argmax(axis=1)
        return np.where(held, HOLD_ACTION, sent)

    asked, totals = [], []
    for holds_on in (False, True):
        turn = [0]
        batch = WorldBatch(2, holds_on=holds_on)
        for world in range(2):
            batch.load(world, made, world)
        steps, _ = play(batch, hold_first)
        asked.append(len(steps))
        totals.append([batch.totals(world) for world in range(2)])
    assert asked[1] < asked[0]
    for own in totals[1]:  # nobody is forgotten
        assert own["answered"] + own["lost"] == own["requests"] == 200


def test_three_choices_apart_are_taken_as_ppo_paper_takes_them() -> None:
    def play_all(batch: int, *, holds_on: bool) -> dict[str, float]:
        alone = WorldBatch(1, holds_on=holds_on)
        alone.load(0, task(2, requests=50, load=0.3), seed=1)
        assert not alone.settle().ended[0]
        while not alone.step(np.array([[0, 0, batch]])).ended[0]:  # server 0, narrowest width
            pass
        return alone.totals(0)

    at_once = play_all(0, holds_on=True)
    assert at_once["answered"] + at_once["lost"] == 50
    assert at_once["accuracy"] == pytest.approx(0.65, abs=0.03)  # all but what there was no choice for
    for holds_on in (False, True):
        waited = play_all(3, holds_on=holds_on)  # for eight
        assert waited["answered"] + waited["lost"] == 50
        assert waited["latency_s"] > 1.2 * at_once["latency_s"]
        assert waited["busy_j"] < at_once["busy_j"]


def test_ppo_paper_is_asked_wherever_a_server_has_room_and_sees_each_candidate_at_its_place() -> None:
    fleet, joules = (2, 3, 4), {"joules": False}
    batch = WorldBatch(2, is_apart=True)
    batch.load(0, task(2, requests=200, load=0.8), seed=1)
    batch.load(1, task(2, requests=200, load=0.8, **joules), seed=2)  # type: ignore[arg-type]
    step, places = batch.settle(), set()
    while not step.ended.any():
        seen = batch.observations_apart(fleet)[:, : -feat.CONTEXT].reshape(2, 6, feat.FEATURES)
        for own, may in zip(seen, batch.allowed_choices(fleet), strict=True):
            assert may[:2].any()
            has_room = own[:, feat.HAS_ROOM].reshape(2, 3) != 0
            assert has_room.any(axis=1).tolist() == may[:2].tolist()
            assert has_room.any(axis=0).tolist() == may[2:5].tolist()
            places.add(tuple(own[:, feat.PRESENT]))
        step = batch.step(np.zeros((2, 3), np.int64))
    assert {(1.0,) * 6, (0.0,) * 3 + (1.0,) * 3} <= places  # the first server is down at times


def test_ppo_paper_has_a_choice_where_there_is_one_server_of_one_width() -> None:
    made = task(1, requests=50, load=0.3, joules=False)
    narrow = tuple(replace(server, models=server.models[:1]) for server in made.servers)
    env = FleetVecEnv(Task(made.settings, narrow, made.preference), (1, 1, 4), worlds=2, base="lert:slack", seed=0)
    assert env.reset().shape == (2, feat.FEATURES + feat.CONTEXT)
    env.step(np.zeros((2, 3), np.int64))


def test_the_base_says_what_it_does_as_choices_of_ppo_paper() -> None:
    batch, fleet = WorldBatch(8, base="thrift", holds_on=True), (2, 3, 6)
    for world in range(8):
        batch.load(world, task(2, requests=200, load=0.8), world)
    step, seen = batch.settle(), []
    while not step.ended.any():
        choices, allowed = batch.base_choices(fleet), batch.allowed_choices(fleet)
        for own, may in zip(choices, allowed, strict=True):
            if own[0] >= 0:  # what it sends can be sent
                assert may[own[0]]
                assert may[fleet[0] + own[1]]
                assert own[2] == 0
            else:
                assert own.tolist() == [-1, -1, 5]
        seen += choices[:, 0].tolist()
        step = batch.step(np.maximum(choices, 0))
    assert {-1, 0, 1} <= set(seen)


def test_what_can_not_be_a_base_is_refused() -> None:
    with pytest.raises(ConfigError, match="can't be the base"):
        WorldBatch(1, base="jsq")
