"""Full reloads that are worth it: to follow new files, and to batch by what arrives."""

from __future__ import annotations

from orchestrator.planner.actions import ActionKind, ActionReason, Numbers, RefusalReason
from orchestrator.planner.host import ModelSnapshot
from orchestrator.planner.scaling import changes
from orchestrator.planner.scaling.batching import Demand, plan_batching
from orchestrator.planner.scaling.plan_builder import PlanBuilder
from orchestrator.planner.state import ModelMemory, Trial

MAX_DRIFT_FAILURES = 3
STEADY_S = 10.0
"""The time for which arrivals must have been steady before a batching is sized for them."""
TRIAL_S = 5.0
"""The age at which a new batching is judged by what is answered."""
TRIAL_RATIO = 0.85
"""Share of what was answered before, below which a new batching did harm."""
SATURATED_RATIO = 0.7
"""Instances busier than this leave no doubt that what waits is all that there is."""


def follow_files(builder: PlanBuilder) -> None:
    """Reload what runs with something else than its files say; not often, in case it can't be made the same.

    A batching that nobody here has sized is such a thing too, unless the curve is known: then it is judged like any.
    Files that have failed to load several times are left alone until they change, because the old version serves, and
    each failed reload leaves an entry in Triton that makes its shutdown wait.
    """
    for seen in builder.models.values():
        memory, limits = builder.memory(seen), builder.limits
        is_unsized = limits.batching_horizon_s <= 0 or (
            memory.curve.line() is None
            and builder.has_held(memory.foreign_since_s, builder.settings.batching_cooldown_s)
        )
        has_drifted = not seen.loaded.is_canonical or (memory.foreign_since_s is not None and is_unsized)
        is_recent = _is_recent(builder, memory.batching_changed_s)
        if not has_drifted or is_recent or not builder.is_settled(seen):
            continue
        numbers: Numbers = (("failures", float(memory.drift_failures)),)
        action = changes.reload(builder, seen, ActionReason.DRIFTED, seen.model.batching, numbers, is_forced=False)
        if memory.drift_failures >= MAX_DRIFT_FAILURES:
            builder.refuse(
                action, RefusalReason.QUARANTINED, numbers, "its files have failed to load; export them again"
            )
            continue
        is_idle = not builder.is_kept(seen) and builder.has_held(memory.idle_since_s, builder.settings.idle_s)
        changes.reload_or_unload(builder, seen, action, may_unload=is_idle)


def size_batches(builder: PlanBuilder) -> None:
    """Change batching where that pays for its reload and arrivals have been steady; go back where it did harm."""
    limits = builder.limits
    if limits.batching_horizon_s <= 0:
        return
    for seen in builder.models.values():
        memory, line = builder.memory(seen), builder.memory(seen).curve.line()
        if line is None or seen.rates.window_s <= 0 or memory.items_per_s <= 0:
            continue
        if not seen.loaded.is_canonical or not builder.is_settled(seen):
            continue
        if memory.trial is not None:
            _judge_trial(builder, seen, memory, memory.trial)
            continue
        is_barred = memory.barred_until_s is not None and builder.now_s < memory.barred_until_s
        if is_barred or _is_recent(builder, memory.batching_changed_s):
            continue
        if not builder.has_held(memory.steady_since_s, STEADY_S):
            continue
        if memory.pressed_since_s is not None:  # another instance is cheaper, and changes what batching should be
            continue
        reload_s = builder.state.prices.price_s(ActionKind.RELOAD)
        change = plan_batching(_demand(seen, memory, line), seen.loaded.batching, limits, reload_s=reload_s)
        if change is not None:
            action = changes.reload(builder, seen, change.reason, change.batching, change.numbers, is_forced=False)
            builder.add_if_fits(action)


def _judge_trial(builder: PlanBuilder, seen: ModelSnapshot, memory: ModelMemory, trial: Trial) -> None:
    """Go back to what was before a delay when less has been answered since.

    Arrivals are taken to be independent of the delay. Clients that wait for an answer before they send the next
    request belie that: a delay for a batch that they can't fill throttles them, and only trying it shows.
    """
    changed_s = memory.batching_changed_s
    is_due = changed_s is not None and builder.now_s - changed_s >= TRIAL_S
    if not is_due or memory.recent_items_per_s >= TRIAL_RATIO * trial.items_per_s:
        return
    numbers: Numbers = (("items_per_s", memory.recent_items_per_s), ("items_before_per_s", trial.items_per_s))
    action = changes.reload(builder, seen, ActionReason.BATCHING_HARMFUL, trial.batching, numbers, is_forced=False)
    builder.add_if_fits(action)


def _demand(seen: ModelSnapshot, memory: ModelMemory, line: tuple[float, float]) -> Demand:
    per_item_s, batch_s = line
    requests_per_s = seen.rates.requests_per_s
    request_items = seen.rates.items_per_s / requests_per_s if requests_per_s else 1.0
    # Behind busy instances no more can gather than are there; what comes when they are not is not known.
    present_items = memory.waiting_requests * request_items + memory.busy_instances * (
        seen.rates.items_per_execution or 1.0
    )
    is_busy = memory.busy_instances > SATURATED_RATIO * seen.loaded.instances
    largest = int(max(1.0, present_items)) if is_busy else seen.model.max_batch_size
    return Demand(
        per_item_s=per_item_s,
        batch_s=batch_s,
        items_per_s=memory.items_per_s,
        request_items=max(1.0, request_items),
        instances=seen.loaded.instances,
        max_batch_size=seen.model.max_batch_size,
        gatherable_items=min(largest, seen.model.max_batch_size),
    )


def _is_recent(builder: PlanBuilder, reloaded_s: float | None) -> bool:
    return reloaded_s is not None and builder.now_s - reloaded_s < builder.settings.batching_cooldown_s
