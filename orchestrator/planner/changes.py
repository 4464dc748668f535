"""The four kinds of change as actions, each with the memory that it may add at its peak."""

from __future__ import annotations

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Numbers
from orchestrator.planner.host import Batching, ModelSnapshot
from orchestrator.planner.plan_builder import PlanBuilder


def load(builder: PlanBuilder, seen: ModelSnapshot, reason: ActionReason) -> Action:
    """Return the action that loads a model: one instance, batching as its files say."""
    needed = builder.sizes.load_bytes(seen, 1)
    return Action(
        ActionKind.LOAD,
        seen.name,
        reason,
        instances=1,
        batching=seen.model.batching,
        needed_bytes=needed,
        numbers=builder.memory_numbers(needed),
    )


def reload(
    builder: PlanBuilder,
    seen: ModelSnapshot,
    reason: ActionReason,
    batching: Batching,
    numbers: Numbers,
    *,
    is_forced: bool,
    instances: int | None = None,
) -> Action:
    """Return a full reload, with as many instances as before unless told; old and new are held at once."""
    instances = max(1, seen.loaded.instances) if instances is None else instances
    needed = builder.sizes.load_bytes(seen, instances)
    return Action(
        ActionKind.RELOAD,
        seen.name,
        reason,
        instances=instances,
        batching=batching,
        batching_before=seen.loaded.batching,
        is_forced=is_forced,
        needed_bytes=needed,
        numbers=(*numbers, *builder.memory_numbers(needed)),
    )


def unload(seen: ModelSnapshot, reason: ActionReason, numbers: Numbers) -> Action:
    """Return the action that unloads a model."""
    return Action(ActionKind.UNLOAD, seen.name, reason, instances=0, numbers=numbers)


def scale(builder: PlanBuilder, seen: ModelSnapshot, reason: ActionReason, instances: int, numbers: Numbers) -> Action:
    """Return the in-place change to so many instances."""
    extra = instances - seen.loaded.instances
    return Action(
        ActionKind.SCALE_UP if extra > 0 else ActionKind.SCALE_DOWN,
        seen.name,
        reason,
        instances=instances,
        batching=seen.loaded.batching,
        needed_bytes=extra * builder.sizes.instance_bytes(seen) if extra > 0 else 0,
        numbers=numbers,
    )
