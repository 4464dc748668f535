from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import ControllerSettings
from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
from orchestrator.planner.host import Batching, Limits
from orchestrator.planner.state import ModelMemory, SchedulerState, Trial
from orchestrator.snapshot import ModelName

A, B = ModelName("a"), ModelName("b")
LIMITS = Limits(
    memory_budget_bytes=1 << 30, minimum=(), settings=ControllerSettings(quarantine_s=5.0, quarantine_max_s=20.0)
)
OLD = ModelMemory(items_per_s=3.0, idle_since_s=1.0, repairs=1, repaired_s=2.0, unloaded_s=3.0, batching_changed_s=4.0)
REPAIRS = (ActionReason.DEAD_INSTANCE, ActionReason.FAILING)


def done(
    kind: ActionKind,
    reason: ActionReason = ActionReason.WANTED,
    *,
    model: ModelName = A,
    instances: int = 1,
    batching: Batching | None = None,
    error: str | None = None,
) -> Outcome:
    action = Action(kind, model, reason, instances, batching or Batching())
    return Outcome(action, began_s=99.0, ended_s=100.0, error=error, memory_before_bytes=1000, memory_after_bytes=1500)


def record(state: SchedulerState, outcome: Outcome, before: int = 1) -> SchedulerState:
    return state.record(replace(outcome, instances_before=before), LIMITS)


def test_a_model_never_seen_is_blank() -> None:
    assert SchedulerState().model(A) == ModelMemory()


RECORDED: list[tuple[ActionKind, ActionReason, str | None, dict[str, object]]] = [
    (ActionKind.LOAD, ActionReason.WANTED, None, {}),
    (ActionKind.SCALE_UP, ActionReason.QUEUEING, None, {}),
    (ActionKind.SCALE_DOWN, ActionReason.IDLE, None, {}),
    (ActionKind.UNLOAD, ActionReason.MAKE_ROOM, None, {"unloaded_s": 100.0}),
    (ActionKind.UNLOAD, ActionReason.IDLE, None, {"unloaded_s": 100.0}),
    (
        ActionKind.RELOAD,
        ActionReason.BATCHING_GAIN,
        None,
        {"batching_changed_s": 100.0, "sized_batching": Batching(), "trial": Trial(Batching(), OLD.items_per_s)},
    ),
    (
        ActionKind.RELOAD,
        ActionReason.BATCHING_HARMFUL,
        None,
        {
            "batching_changed_s": 100.0,
            "sized_batching": Batching(),
            "trials_failed": OLD.trials_failed + 1,
            "barred_until_s": 3700.0,
        },
    ),
    (ActionKind.RELOAD, ActionReason.QUEUEING, None, {}),
    (ActionKind.UNLOAD, ActionReason.DRIFTED, None, {}),
    (ActionKind.RELOAD, ActionReason.DRIFTED, "no", {"batching_changed_s": 100.0, "drift_failures": 1}),
    (
        ActionKind.RELOAD,
        ActionReason.BATCHING_NEEDLESS,
        None,
        {"batching_changed_s": 100.0, "sized_batching": Batching()},
    ),
    (ActionKind.RELOAD, ActionReason.DRIFTED, None, {"batching_changed_s": 100.0}),
    (ActionKind.RELOAD, ActionReason.DEAD_INSTANCE, None, {"repairs": 2, "repaired_s": 100.0}),
    (ActionKind.RELOAD, ActionReason.FAILING, None, {"repairs": 2, "repaired_s": 100.0}),
    (ActionKind.LOAD, ActionReason.WANTED, "no", {}),
    (ActionKind.UNLOAD, ActionReason.IDLE, "no", {}),  # it is still there
    (ActionKind.RELOAD, ActionReason.BATCHING_GAIN, "no", {"batching_changed_s": 100.0}),  # and not tried at once
    (ActionKind.RELOAD, ActionReason.FAILING, "no", {"repairs": 2, "repaired_s": 100.0}),
]


@pytest.mark.parametrize(("kind", "reason", "error", "changes"), RECORDED)
def test_each_outcome_leaves_its_time_and_nothing_else(
    kind: ActionKind, reason: ActionReason, error: str | None, changes: dict[str, object]
) -> None:
    other = replace(OLD, items_per_s=8.0)
    state = record(SchedulerState({A: OLD, B: other}), done(kind, reason, error=error))
    assert state.model(A) == replace(OLD, changed_s=100.0, **changes)  # type: ignore[arg-type]
    assert state.model(B) == other


def test_a_failed_config_is_left_alone_for_a_growing_time_and_another_is_not() -> None:
    failed = done(ActionKind.RELOAD, ActionReason.BATCHING_GAIN, instances=2, batching=Batching((8,), 900), error="no")
    key = (A, 2, Batching((8,), 900))
    state = SchedulerState()
    for delay_s in (5.0, 10.0, 20.0, 20.0):
        state = record(state, failed)
        entry = state.quarantine.entry(key, now_s=100.0)
        assert entry is not None
        assert (entry.until_s, entry.reason) == (100.0 + delay_s, "no")
    assert set(state.quarantine.entries) == {key}


@pytest.mark.parametrize("kind", [ActionKind.LOAD, ActionKind.RELOAD])
def test_a_load_that_succeeds_pardons_the_model_and_no_other(kind: ActionKind) -> None:
    state = SchedulerState()
    for model in (A, B):
        state = record(state, done(ActionKind.LOAD, model=model, error="no"), 0)
    state = record(state, done(kind))
    assert set(state.quarantine.entries) == {(B, 1, Batching())}


def test_an_unload_pardons_nobody() -> None:
    state = record(SchedulerState(), done(ActionKind.LOAD, error="no"), 0)
    assert record(state, done(ActionKind.UNLOAD, instances=0)).quarantine == state.quarantine


def test_prices_and_sizes_are_learned_from_success_and_not_from_failure() -> None:
    state = record(SchedulerState(), done(ActionKind.LOAD), 0)
    assert state.prices.measured_s == {ActionKind.LOAD: 1.0}
    assert state.memory.loads_bytes == {A: (500,)}
    failed = record(SchedulerState(), done(ActionKind.LOAD, error="no"), 0)
    assert failed.prices.measured_s == {}
    assert failed.memory.loads_bytes == {}


def test_how_many_there_were_before_shows_what_each_of_several_instances_took() -> None:
    state = record(SchedulerState(), done(ActionKind.SCALE_UP, instances=3), 1)
    assert state.memory.instances_bytes == {A: (250,)}


@settings(deadline=None, max_examples=50)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(list(ActionKind)),
            st.sampled_from(list(ActionReason)),
            st.sampled_from([None, "no"]),
            st.sampled_from([A, B]),
        ),
        max_size=15,
    )
)
def test_whatever_is_recorded_the_old_state_stays_and_repairs_are_counted(
    happened: list[tuple[ActionKind, ActionReason, str | None, ModelName]],
) -> None:
    state = SchedulerState()
    for kind, reason, error, model in happened:
        before = (dict(state.models), state.memory, state.prices, state.quarantine)
        new = record(state, done(kind, reason, model=model, error=error, instances=int(kind is not ActionKind.UNLOAD)))
        assert (dict(state.models), state.memory, state.prices, state.quarantine) == before
        state = new
    for name in (A, B):
        repairs = [r for k, r, _, m in happened if m == name and k is ActionKind.RELOAD and r in REPAIRS]
        assert state.model(name).repairs == len(repairs)
        assert (state.model(name).changed_s == 100.0) == any(m == name for *_, m in happened)
