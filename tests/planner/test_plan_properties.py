"""What holds for every plan, over random fleets, budgets and histories."""

from __future__ import annotations

import dataclasses
import random

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from orchestrator.planner.actions import ActionKind, ActionReason
from orchestrator.planner.host import Batching, Limits
from orchestrator.planner.plan import plan
from orchestrator.planner.scaling.plan_builder import still_fits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import ModelName
from tests.planner.fluid_host import MIB, FluidHost, FluidModel, limits_for

WIDTHS = (25, 50, 75, 100)
Arrivals = dict[ModelName, float]


@st.composite
def fleets(draw: st.DrawFn) -> list[FluidModel]:
    widths = draw(st.lists(st.sampled_from(WIDTHS), min_size=1, max_size=4, unique=True))
    models = []
    for width in sorted(widths):
        load_mib = draw(st.integers(10, 55))
        models.append(
            FluidModel(
                width,
                per_item_s=draw(st.floats(1e-4, 0.02)),
                batch_s=draw(st.floats(0, 0.02)),
                load_bytes=load_mib * MIB,
                instance_bytes=draw(st.integers(5, load_mib)) * MIB,
                live=draw(st.sampled_from([None, 0])),
            )
        )
    return models


@st.composite
def hosts(draw: st.DrawFn) -> tuple[FluidHost, Limits]:
    models = draw(fleets())
    host = FluidHost(
        models, cpus=draw(st.integers(1, 16)), base_bytes=50 * MIB, noise=0.04, seed=draw(st.integers(0, 1000))
    )
    names = [model.name for model in models]
    each_bytes = sum(model.load_bytes for model in models)
    room_bytes = int(draw(st.floats(0.6, 1.6)) * each_bytes)  # for some of the widths, or for all and a few instances
    limits = limits_for(
        models,
        host.base_bytes + max(70 * MIB, room_bytes),
        max_instances=draw(st.integers(1, 6)),
        wanted=tuple(draw(st.permutations(names))[: draw(st.integers(0, len(names)))]),
        minimum=tuple(names[: draw(st.integers(1, min(2, len(names))))]),
        idle_s=draw(st.sampled_from([5.0, 30.0])),
        unload_after_s=draw(st.sampled_from([10.0, 300.0])),
        deadline_budget_s=draw(st.sampled_from([0.02, 0.2])),
    )
    return host, limits


def rates_at(host: FluidHost, uniforms: random.Random) -> Arrivals:
    """Return arrivals that keep so many instances of each width busy, one by one: none, some or too many."""
    busy = {
        name: uniforms.choice([0.0, 0.0, 0.3, 0.65, 0.9, 1.5, 4.0]) * uniforms.uniform(0.8, 1.2) for name in host.models
    }
    return {name: busy[name] / (model.per_item_s + model.batch_s) for name, model in host.models.items()}


def disturb(host: FluidHost, uniforms: random.Random) -> None:
    """Let something happen that no plan asked for."""
    name = uniforms.choice(sorted(host.models))
    match uniforms.randrange(12):
        case 0:
            host.demands[name] = host.now_s + uniforms.uniform(1, 60)
        case 1:
            host.models[name].failing = not host.models[name].failing
        case 2:
            restart(host)
        case 3 if host.models[name].live:
            host.models[name].live = 0


def restart(host: FluidHost) -> None:
    """Let Triton be started anew, with nothing loaded."""
    for model in host.models.values():
        model.instances, model.held_bytes, model.failing = 0, [], False
    host.starts += 1


@settings(max_examples=40, deadline=None)
@given(hosts(), st.integers(0, 10_000))
def test_memory_never_exceeds_the_budget_and_the_minimum_set_stays(pair: tuple[FluidHost, Limits], seed: int) -> None:
    host, limits = pair
    uniforms = random.Random(seed)
    state = SchedulerState()
    arrivals = rates_at(host, uniforms)
    for second in range(240):
        if second % 20 == 0:
            arrivals = rates_at(host, uniforms)
            disturb(host, uniforms)
        host.advance(arrivals, 1.0)
        done = len(host.done)
        broken = {name for name, model in host.models.items() if model.live == 0 or model.failing}
        state = host.step(state, limits)
        assert host.peak_bytes <= limits.memory_budget_bytes
        for _, action in host.done[done:]:
            if action.kind is ActionKind.UNLOAD and action.model in limits.minimum:
                assert action.model in broken  # what answers nothing may go first where both do not fit
            assert action.instances <= limits.max_instances or action.kind is ActionKind.RELOAD
            assert action.reason in ActionReason
            assert action.numbers
        for refusal in host.plans[-1].refusals:
            assert refusal.numbers


@settings(max_examples=30, deadline=None)
@given(hosts(), st.integers(0, 10_000))
def test_the_minimum_set_is_there_in_a_moment_and_never_missing_again(
    pair: tuple[FluidHost, Limits], seed: int
) -> None:
    host, limits = pair
    room = host.base_bytes + len(limits.minimum) * 1.1 * limits.unmeasured_instance_bytes
    assume(room <= limits.memory_budget_bytes)
    uniforms = random.Random(seed)
    state = SchedulerState()
    arrivals = rates_at(host, uniforms)
    for second in range(180):
        if second % 10 == 0:
            arrivals = rates_at(host, uniforms)
            host.demands[uniforms.choice(sorted(host.models))] = host.now_s + uniforms.uniform(1, 60)
        if second == 90:
            restart(host)
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
        missing = [name for name in limits.minimum if not host.models[name].instances]
        assert not missing, (second, missing)


@settings(max_examples=15, deadline=None)
@given(hosts(), st.integers(0, 10_000))
def test_under_constant_load_at_most_one_change_in_ten_minutes(pair: tuple[FluidHost, Limits], seed: int) -> None:
    host, limits = pair
    arrivals = rates_at(host, random.Random(seed))
    state = SchedulerState()
    for _ in range(600):
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    converged = len(host.done)
    for _ in range(600):
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    assert len(host.done) - converged <= 1, host.done[converged:]


@settings(max_examples=12, deadline=None)
@given(hosts(), st.integers(1, 40), st.integers(0, 10_000))
def test_clients_that_wait_for_answers_are_not_throttled_for_long(
    pair: tuple[FluidHost, Limits], clients: int, seed: int
) -> None:
    """A delay for a batch that such clients can't fill is found out and given up; nothing flutters under them."""
    host, limits = pair
    name = random.Random(seed).choice(sorted(host.models))
    host.clients[name] = clients
    host.demands[name] = 1e9
    state = SchedulerState()
    answered = []
    for _ in range(1200):
        host.advance({}, 1.0)
        state = host.step(state, limits)
        answered.append(host.models[name].rates.items_per_s)
    changes = [entry for entry in host.done if entry[0] > 600]
    assert len(changes) <= 1, changes
    if host.models[name].instances:
        # As much as without any delay, but for what the judgement of a trial lets pass.
        model = host.models[name]
        model.batching = Batching()
        host.advance({}, 1.0)
        assert sum(answered[-60:]) / 60 >= 0.8 * model.rates.items_per_s


def history(host: FluidHost, limits: Limits, uniforms: random.Random, seconds: int) -> SchedulerState:
    state = SchedulerState()
    arrivals = rates_at(host, uniforms)
    for second in range(seconds):
        if second % 15 == 0:
            arrivals = rates_at(host, uniforms)
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    host.advance(arrivals, 1.0)
    return state


def served(host: FluidHost, state: SchedulerState, limits: Limits) -> tuple[int, int, float, int]:
    """Return what a plan gives to each line of its order: minimum, demanded, queueing relieved per byte, wanted."""
    made, _ = plan(host.snapshot(), state, limits, now_s=host.now_s)
    has = {name for name, model in host.models.items() if model.instances}
    has |= {a.model for a in made.actions if a.kind is ActionKind.LOAD}
    has -= {a.model for a in made.actions if a.kind is ActionKind.UNLOAD}
    demanded = {name for name, until_s in host.demands.items() if host.now_s < until_s}
    relief = sum(
        dict(a.numbers)["relieved_requests"] / max(1.0, dict(a.numbers)["instance_bytes"])
        for a in made.actions
        if a.reason is ActionReason.QUEUEING
    )
    return (
        len(has & set(limits.minimum)),
        len(has & demanded),
        relief,
        len(has & set(limits.wanted)),
    )


@settings(max_examples=30, deadline=None)
@given(hosts(), st.integers(0, 10_000), st.integers(0, 400))
def test_more_budget_never_serves_less(pair: tuple[FluidHost, Limits], seed: int, more_mib: int) -> None:
    """Held against each other at every second of a history, from what the poorer has made of its host."""
    host, limits = pair
    richer = dataclasses.replace(limits, memory_budget_bytes=limits.memory_budget_bytes + more_mib * MIB)
    uniforms = random.Random(seed)
    state = SchedulerState()
    arrivals = rates_at(host, uniforms)
    for second in range(90):
        if second % 15 == 0:
            arrivals = rates_at(host, uniforms)
            disturb(host, uniforms)
        host.advance(arrivals, 1.0)
        assert served(host, state, richer) >= served(host, state, limits)
        state = host.step(state, limits)


@settings(max_examples=30, deadline=None)
@given(hosts(), st.integers(0, 10_000), st.integers(1, 120))
def test_the_order_of_the_models_does_not_matter_and_plans_are_deterministic(
    pair: tuple[FluidHost, Limits], seed: int, seconds: int
) -> None:
    host, limits = pair
    uniforms = random.Random(seed)
    state = history(host, limits, uniforms, seconds)
    for model in host.models.values():  # so that several widths call for something at once
        if model.instances and uniforms.random() < 0.7:
            model.failing = True
        if model.live and uniforms.random() < 0.5:
            model.live = 0
    disturb(host, uniforms)
    for _ in range(8):  # until conditions have held for long enough, while nothing is done about them
        host.advance(rates_at(host, uniforms), 1.0)
        snapshot = host.snapshot()
        mixed = list(snapshot.models)
        uniforms.shuffle(mixed)
        shuffled = dataclasses.replace(snapshot, models=tuple(mixed))
        first = plan(snapshot, state, limits, now_s=host.now_s)
        assert plan(snapshot, state, limits, now_s=host.now_s) == first
        assert plan(shuffled, state, limits, now_s=host.now_s) == first
        state = first[1]


@settings(max_examples=12, deadline=None)
@given(hosts(), st.integers(0, 10_000))
def test_a_controller_started_anew_ends_where_the_old_one_did(pair: tuple[FluidHost, Limits], seed: int) -> None:
    """Timers, prices and sizes are lost with the daemon; what it then serves is the same."""
    host, limits = pair
    limits = dataclasses.replace(limits, batching_horizon_s=0.0)
    arrivals = rates_at(host, random.Random(seed))
    state = SchedulerState()
    for _ in range(600):
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    before = {name: model.instances for name, model in host.models.items()}
    if all(model.live is not None for model in host.models.values()):
        # What runs is seen, so nothing rests on what an instance is assumed to take.
        limits = dataclasses.replace(limits, unmeasured_instance_bytes=10_000 * MIB)
    state = SchedulerState()
    for _ in range(600):
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    assert {name: model.instances for name, model in host.models.items()} == before


@given(st.integers(0, 1000), st.integers(1, 1000), st.integers(1, 1000))
def test_an_action_fits_exactly_up_to_the_budget(used: int, needed: int, budget: int) -> None:
    host = FluidHost([FluidModel(25, 0.001, 0.0, 10, 10)], base_bytes=0)
    limits = limits_for(list(host.models.values()), budget, unmeasured_instance_bytes=needed, memory_margin=0.0)
    made, _ = plan(host.snapshot(), SchedulerState(), limits, now_s=0.0)
    for action in made.actions:
        assert still_fits(action, used, limits) == (used + needed <= budget)
