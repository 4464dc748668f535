from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Action, ActionKind, ActionReason, NoticeKind, RefusalReason
from orchestrator.planner.host import (
    Batching,
    HostSnapshot,
    Limits,
    LoadedModel,
    ModelSnapshot,
    ModelStatus,
    RepositoryModel,
)
from orchestrator.planner.ledgers.memory_ledger import MemoryLedger
from orchestrator.planner.scaling import changes
from orchestrator.planner.scaling.plan_builder import PlanBuilder, still_fits
from orchestrator.planner.state import ModelMemory, Quarantine, SchedulerState
from orchestrator.snapshot import Family, ModelName, Width
from tests.planner.settings import with_settings

A, B, C = (ModelName(name) for name in "abc")
BUDGET = 1000
LIMITS = Limits(
    memory_budget_bytes=BUDGET,
    minimum=(A,),
    unmeasured_instance_bytes=40,
    settings=ControllerSettings(memory_margin=0.5),
)
LEARNED = SchedulerState(memory=MemoryLedger({A: (100,), B: (200,)}, {A: (60,)}))
amounts = st.integers(0, 2000)


def seen(
    name: ModelName = A,
    status: ModelStatus = ModelStatus.READY,
    instances: int = 1,
    *,
    width: int = 50,
    demanded_until_s: float | None = None,
) -> ModelSnapshot:
    model = RepositoryModel(name, Family("f"), Width(width), 0.9, 32, 1, batching=Batching((4,), 700))
    loaded = LoadedModel(name, status, instances=instances, batching=Batching((8,), 900))
    return ModelSnapshot(model, loaded, demanded_until_s=demanded_until_s)


def builder(
    *models: ModelSnapshot,
    used: int | None = 500,
    state: SchedulerState = LEARNED,
    limits: Limits = LIMITS,
    busy: frozenset[ModelName] = frozenset(),
    now_s: float = 100.0,
) -> PlanBuilder:
    snapshot = HostSnapshot(models or (seen(),), used, 0.1, "1", busy)
    return PlanBuilder(snapshot, state, limits, now_s)


def action(
    needed: int, name: ModelName = A, reason: ActionReason = ActionReason.WANTED, kind: ActionKind = ActionKind.LOAD
) -> Action:
    return Action(kind, name, reason, instances=1, needed_bytes=needed)


@pytest.mark.parametrize(
    ("needed", "used", "reason", "fits"),
    [
        (0, 5 * BUDGET, ActionReason.IDLE, True),
        (0, None, ActionReason.IDLE, True),
        (1, BUDGET, ActionReason.MINIMUM_SET, False),
        (1, BUDGET - 1, ActionReason.QUEUEING, True),
        (400, 600, ActionReason.QUEUEING, True),
        (401, 600, ActionReason.QUEUEING, False),
        (401, None, ActionReason.QUEUEING, False),
        (401, None, ActionReason.DEMANDED, False),
        (401, None, ActionReason.MINIMUM_SET, True),  # without it the host is of no use at all
    ],
)
def test_what_needs_memory_fits_within_the_budget_and_without_a_reading_only_in_the_minimum_set(
    needed: int, used: int | None, reason: ActionReason, fits: bool
) -> None:
    assert still_fits(action(needed, reason=reason), used, LIMITS) is fits


@settings(deadline=None, max_examples=60)
@given(amounts, amounts, amounts)
def test_what_still_fits_never_exceeds_the_budget_and_less_always_fits(needed: int, used: int, less: int) -> None:
    if still_fits(action(needed), used, LIMITS) and needed:
        assert needed + used <= BUDGET
        assert still_fits(action(min(needed, less)), used, LIMITS)
        assert still_fits(action(needed), min(used, less), LIMITS)


@pytest.mark.parametrize(
    ("name", "instances", "load", "instance"),
    [
        (A, 1, 150, 90),  # 100 + a half, 60 + a half
        (A, 3, 330, 90),  # 100 + 2 · 60, + a half
        (B, 2, 600, 300),  # of which no further instance was measured: as much as a load
        (C, 1, 300, 300),  # never measured at all: as much as its largest sibling
    ],
)
def test_estimates_are_what_was_learned_and_a_margin(name: ModelName, instances: int, load: int, instance: int) -> None:
    made = builder(seen(name))
    assert made.sizes.load_bytes(seen(name), instances) == load
    assert made.sizes.instance_bytes(seen(name)) == instance


def test_the_assumption_for_what_was_never_measured_has_a_margin_too() -> None:
    made = builder(state=SchedulerState())
    assert (made.sizes.load_bytes(seen(), 1), made.sizes.instance_bytes(seen())) == (60, 60)
    assert made.sizes.load_bytes(seen(), 2) == 120


@pytest.mark.parametrize(
    ("name", "instances", "learned"), [(A, 1, 100), (A, 3, 220), (A, 0, 100), (B, 2, 400), (C, 1, 0)]
)
def test_an_unload_is_credited_without_a_margin_and_only_with_what_was_learned(
    name: ModelName, instances: int, learned: int
) -> None:
    assert builder().sizes.learned_bytes(seen(name, instances=instances)) == learned


@settings(deadline=None, max_examples=60)
@given(amounts, amounts)
def test_what_lacks_is_what_must_go_for_it_to_fit(used: int, needed: int) -> None:
    lacking = builder(used=used).lacking_bytes(needed)
    assert lacking == max(0, used + needed - BUDGET)
    if needed:
        assert (lacking == 0) is still_fits(action(needed), used, LIMITS)


def test_nobody_knows_what_lacks_when_memory_is_unreadable() -> None:
    assert builder(used=None).lacking_bytes(1) is None


@pytest.mark.parametrize("status", list(ModelStatus))
@pytest.mark.parametrize("is_busy", [False, True])
def test_what_is_on_its_way_is_reserved(status: ModelStatus, is_busy: bool) -> None:
    made = builder(seen(A, status), busy=frozenset({A}) if is_busy else frozenset())
    is_moving = is_busy or status in (ModelStatus.LOADING, ModelStatus.UNLOADING)
    assert made.lacking_bytes(500) == (150 if is_moving else 0)
    assert made.may_touch(seen(A, status)) is not is_moving


def test_reservations_of_several_add_up() -> None:
    made = builder(seen(A, ModelStatus.LOADING, 0), seen(B, ModelStatus.LOADING, 0), seen(C))
    assert made.memory_numbers(7) == (
        ("budget_bytes", BUDGET),
        ("used_bytes", 500),
        ("reserved_bytes", 150 + 300),
        ("needed_bytes", 7),
    )


def test_numbers_that_are_unknown_or_nothing_are_left_out() -> None:
    assert builder(used=None).memory_numbers(7) == (("budget_bytes", BUDGET), ("needed_bytes", 7))


@settings(deadline=None, max_examples=60)
@given(amounts, st.lists(st.tuples(st.integers(0, 600), st.integers(0, 600)), max_size=8))
def test_each_action_reserves_what_it_needs_and_what_was_freed_helps_no_other(
    used: int, added: list[tuple[int, int]]
) -> None:
    made = builder(used=used)
    reserved = 0
    for needed, freed in added:
        assert made.add(action(needed), freed_bytes=freed)
        reserved += max(0, needed - freed)
        assert made.lacking_bytes(10) == max(0, used + reserved + 10 - BUDGET)


@settings(deadline=None, max_examples=60)
@given(amounts, st.lists(st.integers(0, 600), max_size=12))
def test_all_that_is_added_because_it_fits_fits_together(used: int, needs: list[int]) -> None:
    made = builder(used=used)
    added = [needed for needed in needs if made.add_if_fits(action(needed))]
    plan = made.finish()
    assert [a.needed_bytes for a in plan.actions] == added
    assert not added or used + sum(added) <= BUDGET
    assert len(plan.actions) + len(plan.refusals) == len(needs)
    for refusal in plan.refusals:
        numbers = dict(refusal.numbers)
        assert refusal.reason is RefusalReason.MEMORY_BUDGET
        assert numbers["used_bytes"] + numbers.get("reserved_bytes", 0) + numbers["needed_bytes"] > BUDGET


@pytest.mark.parametrize(
    ("used", "needed", "reason", "refusal"),
    [
        (500, 500, ActionReason.WANTED, None),
        (500, 501, ActionReason.WANTED, RefusalReason.MEMORY_BUDGET),
        (500, 501, ActionReason.MINIMUM_SET, RefusalReason.MEMORY_BUDGET),
        (None, 501, ActionReason.WANTED, RefusalReason.MEMORY_UNKNOWN),
        (None, 501, ActionReason.MINIMUM_SET, None),
    ],
)
def test_a_refusal_says_why(used: int | None, needed: int, reason: ActionReason, refusal: RefusalReason | None) -> None:
    made = builder(used=used)
    assert made.add_if_fits(action(needed, reason=reason)) is (refusal is None)
    plan = made.finish()
    assert [r.reason for r in plan.refusals] == ([] if refusal is None else [refusal])
    assert len(plan.actions) == (refusal is None)
    assert dict(plan.desired_instances) == {A: 1}


def test_a_quarantined_config_is_refused_with_tritons_reason_and_reserves_nothing() -> None:
    quarantined = Quarantine().fail((A, 1, Batching()), "bad graph", now_s=98.0, first_s=5.0, max_s=9.0)
    made = builder(state=replace(LEARNED, quarantine=quarantined))
    assert not made.add(action(300))
    assert made.lacking_bytes(500) == 0
    assert made.may_touch(seen())
    (refusal,) = made.finish().refusals
    assert (refusal.reason, refusal.detail) == (RefusalReason.QUARANTINED, "bad graph")
    assert dict(refusal.numbers) == {"failures": 1, "retry_in_s": pytest.approx(3.0)}
    # Another config of it, and taking it away, may be done, until that too has failed.
    assert made.add(replace(action(300), batching=Batching((4,), 1)))
    gone = Action(ActionKind.UNLOAD, A, ActionReason.IDLE, instances=0)
    assert builder(state=replace(LEARNED, quarantine=quarantined)).add(gone)
    quarantined = quarantined.fail((A, 0, Batching()), "still in use", now_s=98.0, first_s=5.0, max_s=9.0)
    assert not builder(state=replace(LEARNED, quarantine=quarantined)).add(gone)


def test_a_load_has_one_instance_and_the_batching_of_its_files() -> None:
    made = builder()
    load = changes.load(made, seen(A, ModelStatus.ABSENT, 0), ActionReason.WANTED)
    assert (load.kind, load.instances, load.batching, load.needed_bytes) == (
        ActionKind.LOAD,
        1,
        Batching((4,), 700),
        150,
    )
    assert dict(load.numbers) == {"budget_bytes": BUDGET, "used_bytes": 500, "needed_bytes": 150}


@pytest.mark.parametrize(("instances", "after", "needed"), [(0, 1, 150), (1, 1, 150), (3, 3, 330)])
def test_a_reload_needs_all_its_instances_once_more(instances: int, after: int, needed: int) -> None:
    reload = changes.reload(
        builder(), seen(A, instances=instances), ActionReason.FAILING, Batching(), (("x", 1.0),), is_forced=True
    )
    assert (reload.kind, reload.instances, reload.needed_bytes) == (ActionKind.RELOAD, after, needed)
    assert (reload.batching, reload.is_forced) == (Batching(), True)
    assert reload.numbers[0] == ("x", 1.0)
    assert dict(reload.numbers)["needed_bytes"] == needed


@pytest.mark.parametrize(
    ("before", "after", "kind", "needed"),
    [(1, 2, ActionKind.SCALE_UP, 90), (1, 4, ActionKind.SCALE_UP, 270), (4, 1, ActionKind.SCALE_DOWN, 0)],
)
def test_a_change_in_place_needs_only_what_is_added_and_keeps_the_batching(
    before: int, after: int, kind: ActionKind, needed: int
) -> None:
    scale = changes.scale(builder(), seen(A, instances=before), ActionReason.QUEUEING, after, ())
    assert (scale.kind, scale.instances, scale.needed_bytes) == (kind, after, needed)
    assert scale.batching == Batching((8,), 900)


def test_what_is_desired_is_what_there_is_until_something_else_is_wanted_or_added() -> None:
    made = builder(seen(B, instances=3), seen(A, ModelStatus.FAILED, 0), seen(C, ModelStatus.ABSENT, 0))
    assert made.finish().desired_instances == ((A, 0), (B, 3), (C, 0))
    made.want(seen(A), 1)
    made.add(changes.unload(seen(B), ActionReason.IDLE, ()))
    assert made.finish().desired_instances == ((A, 1), (B, 0), (C, 0))


@settings(deadline=None, max_examples=30)
@given(st.permutations([(A, 100), (B, 25), (C, 25)]))
def test_models_go_from_narrow_to_wide_whatever_their_order(order: list[tuple[ModelName, int]]) -> None:
    made = builder(*(seen(name, width=width) for name, width in order))
    assert list(made.models) == [B, C, A]


@settings(deadline=None, max_examples=30)
@given(st.permutations([(name, kind) for name in (A, B) for kind in (ActionKind.LOAD, ActionKind.RELOAD)]))
def test_refusals_are_ordered_and_actions_keep_their_order(order: list[tuple[ModelName, ActionKind]]) -> None:
    made = builder(used=BUDGET)
    for name, kind in order:
        made.add_if_fits(action(5, name, kind=kind))
    for name, kind in order:
        made.add(action(0, name, kind=kind))
    plan = made.finish()
    assert [(r.model, r.kind) for r in plan.refusals] == sorted(order)
    assert [(a.model, a.kind) for a in plan.actions] == order


@pytest.mark.parametrize(("changed_s", "is_settled"), [(None, True), (98.0, True), (98.1, False), (100.0, False)])
def test_a_model_is_settled_once_its_last_change_is_long_enough_ago(changed_s: float | None, is_settled: bool) -> None:
    made = builder(
        state=SchedulerState({A: ModelMemory(changed_s=changed_s)}), limits=with_settings(LIMITS, cooldown_s=2.0)
    )
    assert made.is_settled(seen()) is is_settled
    assert not made.is_settled(seen(status=ModelStatus.ABSENT))


def test_a_model_is_touched_once_a_plan() -> None:
    made = builder(seen(A), seen(B))
    made.add(action(0, A))
    assert not made.may_touch(seen(A))
    assert not made.is_settled(seen(A))
    assert made.may_touch(seen(B))


@pytest.mark.parametrize(("until_s", "is_demanded"), [(None, False), (100.0, False), (100.1, True)])
def test_kept_is_what_is_in_the_minimum_set_or_still_demanded(until_s: float | None, is_demanded: bool) -> None:
    made = builder()
    assert made.is_kept(seen(A, demanded_until_s=until_s))
    assert made.is_kept(seen(B, demanded_until_s=until_s)) is is_demanded
    assert made.is_demanded(seen(B, demanded_until_s=until_s)) is is_demanded


@pytest.mark.parametrize(("since_s", "held"), [(None, False), (97.0, True), (97.1, False)])
def test_a_condition_that_does_not_hold_has_held_for_no_time(since_s: float | None, held: bool) -> None:
    assert builder().has_held(since_s, 3.0) is held


def test_what_a_builder_is_given_is_left_as_it_is() -> None:
    snapshot, state = HostSnapshot((seen(B), seen(A, ModelStatus.LOADING)), 500, 0.1), replace(LEARNED)
    made = PlanBuilder(snapshot, state, LIMITS, 100.0)
    made.add(action(100))
    made.want(seen(B), 3)
    made.notify(NoticeKind.STUCK, A, ())
    assert snapshot == HostSnapshot((seen(B), seen(A, ModelStatus.LOADING)), 500, 0.1)
    assert state == LEARNED
    (notice,) = made.finish().notices
    assert (notice.kind, notice.model) == (NoticeKind.STUCK, A)
