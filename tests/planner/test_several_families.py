"""Several families of one host: one budget, shared by weight, and moved to where the traffic is."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planner.actions import ActionKind, ActionReason, RefusalReason
from orchestrator.planner.host import HostSnapshot, Limits, ModelSnapshot
from orchestrator.planner.ledgers.memory_ledger import MemoryLedger
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ModelName
from tests.planner.fluid_host import MIB, FluidHost, FluidModel, fluid_models, limits_for, name_of
from tests.planner.test_plan import BUSY, LIMITS, absent, brief
from tests.planner.test_plan import host as host_with
from tests.planner.test_plan import model as model_of
from tests.planner.test_plan import run as plan_of

FAMILIES = ("cats", "dogs", "owls")
Arrivals = Mapping[ModelName, float]


def host_of(
    families: tuple[str, ...], *, budget_mib: int, cpus: int = 8, **changes: object
) -> tuple[FluidHost, Limits]:
    """Return a host of families that are alike; the narrowest width of each is its minimum set, all are wanted."""
    models = [model for family in families for model in fluid_models(family=family)]
    host = FluidHost(models, cpus=cpus, base_bytes=50 * MIB)
    minimum = tuple(name_of(25, family) for family in families)
    values: dict[str, object] = {"minimum": minimum, "idle_s": 10.0, **changes}
    return host, limits_for(models, budget_mib * MIB, **values)


def run(host: FluidHost, limits: Limits, arrivals: Arrivals, seconds: int, state: SchedulerState) -> SchedulerState:
    for _ in range(seconds):
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
    return state


def loaded(host: FluidHost, family: str) -> list[int]:
    return [m.width for m in host.models.values() if m.family == family and m.instances]


def held_bytes(host: FluidHost, family: str) -> int:
    return sum(sum(model.held_bytes) for model in host.models.values() if model.family == family)


def all_of(family: str, per_s: float) -> Arrivals:
    return {name_of(width, family): per_s for width in (25, 50, 75, 100)}


def test_the_minimum_set_of_every_family_is_loaded_first() -> None:
    host, limits = host_of(FAMILIES, budget_mib=50 + 40 * 3)
    run(host, limits, {}, 5, SchedulerState())
    assert [loaded(host, family) for family in FAMILIES] == [[25], [25], [25]]


def test_without_traffic_room_is_shared_evenly() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=240)
    run(host, limits, {}, 60, SchedulerState())
    assert loaded(host, "cats") == loaded(host, "dogs") == [25, 50]


def test_without_traffic_room_is_shared_by_weight() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=245, weights={"dogs": 3.0})
    run(host, limits, {}, 60, SchedulerState())
    assert loaded(host, "cats") == [25]
    assert loaded(host, "dogs") == [25, 50, 75]


def test_memory_follows_traffic_from_one_family_to_the_other() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=285)
    state = run(host, limits, all_of("cats", 5.0), 60, SchedulerState())
    assert loaded(host, "cats") == [25, 50, 75, 100]
    assert loaded(host, "dogs") == [25]
    run(host, limits, all_of("dogs", 5.0), 60, state)
    assert loaded(host, "dogs") == [25, 50, 75, 100]
    assert loaded(host, "cats") == [25]
    assert host.peak_bytes <= limits.memory_budget_bytes


def test_two_families_with_traffic_take_nothing_from_each_other_for_ever() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=290)
    state = run(host, limits, all_of("cats", 5.0), 60, SchedulerState())
    both = {name_of(100, "cats"): 5.0, name_of(25, "cats"): 5.0, name_of(25, "dogs"): 5.0, name_of(50, "dogs"): 5.0}
    state = run(host, limits, both, 200, state)
    done = len(host.done)
    run(host, limits, both, 600, state)
    assert host.done[done:] == []
    assert len(loaded(host, "dogs")) == 2, "it got a width of the other that nobody used"


def test_a_family_that_comes_to_a_host_full_of_busy_instances_gets_its_minimum_set_and_keeps_it() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=50 + 120, wanted=())
    busy = {name_of(25, "cats"): 4000.0}
    alone = dataclasses.replace(limits, minimum=(name_of(25, "cats"),))
    state = run(host, alone, busy, 120, SchedulerState())
    assert host.models[name_of(25, "cats")].instances > 1
    run(host, limits, busy, 20, state)
    done = len(host.done)
    run(host, limits, busy, 120, state)
    assert (loaded(host, "cats"), loaded(host, "dogs")) == ([25], [25])
    assert host.peak_bytes <= limits.memory_budget_bytes
    assert len(host.done) - done <= 1


def test_a_family_that_has_grown_gives_an_instance_to_one_that_holds_less() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=310, wanted=())
    flood = {name_of(25, "cats"): 5000.0}
    state = run(host, limits, flood, 60, SchedulerState())
    grown = host.models[name_of(25, "cats")].instances
    assert grown == 4
    tight = limits_for(list(host.models.values()), host.used_bytes + 14 * MIB, minimum=limits.minimum, wanted=())
    both = {**flood, name_of(25, "dogs"): 5000.0}
    state = run(host, tight, both, 60, state)
    instances = [host.models[name_of(25, family)].instances for family in ("cats", "dogs")]
    assert instances == [3, 2]
    done = len(host.done)
    run(host, tight, both, 300, state)
    assert host.done[done:] == [], "and it does not come back"
    assert host.peak_bytes <= tight.memory_budget_bytes


def test_at_the_ceiling_of_utilisation_a_family_takes_over_an_instance_of_one_that_holds_more() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=2000, cpus=3, wanted=())
    flood = {name_of(25, "cats"): 50_000.0}
    state = run(host, limits, flood, 60, SchedulerState())
    cats, dogs = (host.models[name_of(25, family)] for family in ("cats", "dogs"))
    assert (cats.instances, dogs.instances) == (3, 1), "memory is there for more, processors are not"
    assert told_of_utilisation(host, cats.name)
    both = {**flood, dogs.name: 50_000.0}
    state = run(host, limits, both, 60, state)
    assert (cats.instances, dogs.instances) == (2, 2)
    done = len(host.done)
    run(host, limits, both, 300, state)
    assert host.done[done:] == [], "and it does not come back"
    assert told_of_utilisation(host, dogs.name)


def test_at_the_ceiling_of_utilisation_weights_say_who_holds_more() -> None:
    host, limits = host_of(("cats", "dogs"), budget_mib=2000, cpus=3, wanted=(), weights={"cats": 3.0})
    flood = {name_of(25, "cats"): 50_000.0}
    state = run(host, limits, flood, 60, SchedulerState())
    done = len(host.done)
    run(host, limits, {**flood, name_of(25, "dogs"): 50_000.0}, 300, state)
    assert host.done[done:] == [], "three instances at a weight of 3 are no more than one at 1"
    assert told_of_utilisation(host, name_of(25, "dogs"))


def of_family(family: str, seen: ModelSnapshot) -> ModelSnapshot:
    """Return a model as one of another family."""
    name = name_of(seen.model.width, family)
    files = dataclasses.replace(seen.model, name=name, family=Family(family))
    return dataclasses.replace(seen, model=files, loaded=dataclasses.replace(seen.loaded, name=name))


def waiting(**requests: float) -> list[ModelSnapshot]:
    """Return a busy model of each family, for which so many requests wait."""
    return [
        of_family(family, model_of(50, rates=dataclasses.replace(BUSY, waiting_requests=count)))
        for family, count in requests.items()
    ]


def of_sizes(**mib: int) -> SchedulerState:
    sizes = {name_of(50, family): (each * MIB,) for family, each in mib.items()}
    return SchedulerState(memory=MemoryLedger(loads_bytes=sizes, server_id="1"))


def by_family(weights: Mapping[str, float]) -> dict[Family, float]:
    return {Family(name): weight for name, weight in weights.items()}


def grown(snapshot: HostSnapshot, sizes: SchedulerState, **weights: float) -> list[tuple[str, str, str, int]]:
    limits = dataclasses.replace(LIMITS, minimum=(), wanted=(), weights=by_family(weights))
    return brief(plan_of(snapshot, limits, seconds=5, state=sizes))


@pytest.mark.parametrize(("dear", "cheap"), [("cats", "dogs"), ("dogs", "cats")])
def test_of_two_families_that_wait_the_one_relieved_most_per_byte_grows_unless_weights_turn_it_round(
    dear: str, cheap: str
) -> None:
    room_for_one = host_with(*waiting(cats=6.0, dogs=6.0), used_mib=900)
    sizes = of_sizes(**{dear: 90, cheap: 50})
    grows = {family: [("scale-up", name_of(50, family), "queueing", 2)] for family in (dear, cheap)}
    assert grown(room_for_one, sizes) == grows[cheap]
    assert grown(room_for_one, sizes, **{dear: 3.0}) == grows[dear]
    assert grown(room_for_one, sizes, **{dear: 1.5}) == grows[cheap], "1.5 times the worth at 1.8 times the bytes"


@pytest.mark.parametrize(("longer", "shorter"), [("cats", "dogs"), ("dogs", "cats")])
def test_the_minimum_set_takes_the_place_of_the_family_that_fewest_wait_for_by_weight(
    longer: str, shorter: str
) -> None:
    needed = of_family("owls", absent(25))
    full = host_with(*waiting(**{longer: 6.0, shorter: 4.0}), needed, used_mib=1000)
    sizes = of_sizes(cats=150, dogs=150)

    def unloaded(**weights: float) -> list[ModelName]:
        limits = dataclasses.replace(LIMITS, minimum=(needed.name,), wanted=(), weights=by_family(weights))
        made = plan_of(full, limits, seconds=5, state=sizes)
        return [action.model for action in made.actions if action.kind is ActionKind.UNLOAD]

    assert unloaded() == [name_of(50, shorter)]
    assert unloaded(**{shorter: 3.0}) == [name_of(50, longer)]


def told_of_utilisation(host: FluidHost, name: ModelName) -> bool:
    """Return whether the last plan refuses to grow a model for the processors' sake, with the numbers."""
    refused = [r for r in host.plans[-1].refusals if (r.model, r.reason) == (name, RefusalReason.UTILISATION)]
    return [dict(r.numbers)["ceiling_ratio"] for r in refused] == [0.9]


@pytest.mark.parametrize("weight", [0.1, 7.0])
def test_a_weight_changes_nothing_for_a_family_that_is_alone(weight: float) -> None:
    def plans(weights: dict[str, float]) -> list[object]:
        host, limits = host_of(("cats",), budget_mib=230, weights=weights)
        uniforms, state = random.Random(5), SchedulerState()
        for _ in range(10):
            busy = {model.name: uniforms.choice([0.0, 50.0, 600.0]) for model in host.models.values()}
            state = run(host, limits, busy, 15, state)
        return list(host.plans)

    assert plans({"cats": weight}) == plans({})


@st.composite
def drifting(draw: st.DrawFn) -> tuple[FluidHost, Limits, list[Arrivals]]:
    """Three families whose budget admits half of all widths, and whose popularity drifts."""
    models = list[FluidModel]()
    for family in FAMILIES:
        for model in fluid_models(family=family):
            model.load_bytes = draw(st.integers(20, 60)) * MIB
            model.instance_bytes = draw(st.integers(10, model.load_bytes // MIB)) * MIB
            models.append(model)
    minimum = tuple(name_of(25, family) for family in FAMILIES)
    base_bytes = 50 * MIB
    # The minimum set has to fit as it is estimated before anything is measured, margin included.
    floor_bytes = int(1.1 * 3 * 60 * MIB)
    half_bytes = max(floor_bytes, sum(model.load_bytes for model in models) // 2)
    weights = {family: draw(st.sampled_from([0.5, 1.0, 3.0])) for family in FAMILIES}
    limits = limits_for(models, base_bytes + half_bytes, minimum=minimum, idle_s=10.0, weights=weights)
    popular = draw(st.lists(st.sampled_from(FAMILIES), min_size=3, max_size=6))
    loads: list[Arrivals] = [
        {model.name: draw(st.sampled_from([0.0, 20.0, 300.0])) for model in models if model.family in (now, popular[0])}
        for now in popular
    ]
    return FluidHost(models, cpus=4, base_bytes=base_bytes, noise=0.04), limits, loads


@settings(max_examples=30, deadline=None)
@given(drifting())
def test_the_budget_is_never_exceeded_while_popularity_drifts(
    drawn: tuple[FluidHost, Limits, list[Arrivals]],
) -> None:
    host, limits, loads = drawn
    state = SchedulerState()
    for arrivals in loads:
        state = run(host, limits, arrivals, 40, state)
        assert host.peak_bytes <= limits.memory_budget_bytes
        assert all(host.models[name].instances for name in limits.minimum)
    unloads = [action for _, action in host.done if action.kind is ActionKind.UNLOAD]
    assert all(action.reason is not ActionReason.OVER_BUDGET for action in unloads)
