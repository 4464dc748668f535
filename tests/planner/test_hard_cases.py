from __future__ import annotations

from dataclasses import replace

import pytest

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
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
from orchestrator.planner.plan import plan
from orchestrator.planner.rates import Counters, Rates, measure_rates
from orchestrator.planner.scaling.batching import NO_DELAY, Demand, choose_batching, plan_batching
from orchestrator.planner.scaling.plan_builder import PlanBuilder
from orchestrator.planner.state import BatchCurve, SchedulerState
from orchestrator.snapshot import Family, ModelName, Width
from tests.planner.settings import with_settings

NAME = ModelName("m")
LIMITS = Limits(memory_budget_bytes=1000, minimum=(NAME,))


def host(rates: Rates, *, instances: int = 1, live: int | None = None, busy: bool = False) -> HostSnapshot:
    model = RepositoryModel(NAME, Family("f"), Width(50), 0.9, 32, 1)
    loaded = LoadedModel(
        NAME, ModelStatus.READY, instances=instances, is_python_based=live is not None or instances > 1
    )
    return HostSnapshot(
        (ModelSnapshot(model, loaded, rates, live),), 100, 0.1, "1", frozenset({NAME}) if busy else frozenset()
    )


@pytest.mark.parametrize("items_per_s", [1e-3, 1e-100, 1e-305, 5e-324])
def test_arrivals_that_have_all_but_ceased_call_for_no_delay(items_per_s: float) -> None:
    assert choose_batching(Demand(0.001, 0.004, items_per_s, 1.0, 1, 32), LIMITS) == NO_DELAY


def test_a_width_that_is_kept_may_be_idle_for_hours_and_is_left_as_it_is() -> None:
    state, sizes = SchedulerState(), [1.0, 4.0]
    for now_s in range(10):
        n = sizes[now_s % 2]
        _, state = plan(host(Rates(1, 20, 0, 20 * n, 20, 0, n, 0.002 + 0.001 * n)), state, LIMITS, now_s=float(now_s))
    for now_s in range(10, 8000):
        made, state = plan(host(Rates(window_s=1.0)), state, LIMITS, now_s=float(now_s))
        assert (made.actions, made.desired_instances) == ((), ((NAME, 1),)), now_s
    assert (state.model(NAME).idle_since_s, state.model(NAME).items_per_s) == (9.0, 0.0)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (
            Counters(requests=1, items=64, executions=1, service_s=1.0),
            Counters(requests=10, items=10, executions=10, service_s=0.1),
            Rates(1.0, 10, 0, 10, 10, 0, 1.0, 0.01),
        ),
        (Counters(failures=10), Counters(failures=3), Rates(1.0, failures_per_s=3.0)),
    ],
)
def test_any_counter_that_went_down_is_a_reset(before: Counters, after: Counters, expected: Rates) -> None:
    assert measure_rates(before, after, 1.0) == expected


@pytest.mark.parametrize("items", [0.0, -6.0])
def test_a_window_without_items_leaves_the_curve_as_it_is(items: float) -> None:
    assert BatchCurve().observe(items, 0.01, now_s=0.0).line() is None


def test_quiet_windows_do_not_make_a_failing_model_well() -> None:
    state, reasons = SchedulerState(), []
    for now_s in range(60):
        rates = Rates(window_s=1.0, failures_per_s=float(now_s % 2))
        made, state = plan(host(rates), state, replace(LIMITS, memory_budget_bytes=10**12), now_s=float(now_s))
        reasons += [action.reason for action in made.actions]
    assert ActionReason.FAILING in reasons


def test_a_reading_that_is_missing_now_and_then_does_not_hide_a_dead_stub() -> None:
    state, reasons = SchedulerState(), []
    for now_s in range(60):
        snapshot = host(Rates(window_s=1.0), instances=2, live=1 if now_s % 2 else None)
        made, state = plan(snapshot, state, replace(LIMITS, memory_budget_bytes=10**12), now_s=float(now_s))
        reasons += [action.reason for action in made.actions]
    assert ActionReason.DEAD_INSTANCE in reasons


def test_a_reload_under_way_is_reserved_with_all_its_instances() -> None:
    state = SchedulerState(memory=MemoryLedger({NAME: (100,)}, {NAME: (100,)}))
    builder = PlanBuilder(host(Rates(), instances=4, busy=True), state, with_settings(LIMITS, memory_margin=0.0), 0.0)
    assert builder.lacking_bytes(501) == 1  # 100 used, 400 on their way


def test_taking_an_instance_away_pardons_nothing() -> None:
    def done(kind: ActionKind, instances: int, error: str | None = None) -> Outcome:
        return Outcome(Action(kind, NAME, ActionReason.QUEUEING, instances), 0.0, 1.0, error, instances_before=2)

    failed = SchedulerState().record(done(ActionKind.SCALE_UP, 3, "oom"), LIMITS)
    smaller = failed.record(done(ActionKind.SCALE_DOWN, 1), LIMITS)
    assert smaller.quarantine == failed.quarantine


def test_a_delay_beyond_the_deadline_budget_is_not_kept() -> None:
    demand = Demand(
        per_item_s=0.0014, batch_s=0.00033, items_per_s=415.0, request_items=1.0, instances=1, max_batch_size=32
    )
    # 54.7 ms with it, 3 ms without, 50 ms allowed.
    assert plan_batching(demand, Batching((16,), 27_000), LIMITS, reload_s=1.5) is not None


def test_a_failed_unload_is_not_tried_again_at_every_step() -> None:
    state, tries, limits = SchedulerState(), 0, replace(LIMITS, minimum=())
    for now_s in range(20):
        over = replace(host(Rates(window_s=1.0)), memory_used_bytes=2000)
        made, state = plan(over, state, limits, now_s=float(now_s))
        for action in made.actions:
            tries += 1
            failed = Outcome(action, float(now_s), now_s + 0.5, "still in use", instances_before=1)
            state = state.record(failed, limits)
    assert tries <= 4
