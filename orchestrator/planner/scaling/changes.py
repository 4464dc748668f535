"""The four kinds of change as actions, each with the memory that it may add at its peak, and the room made for them.

Room is made for what must not wait: other widths are unloaded where that makes an action fit, and for the minimum set
others give instances as well.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Numbers
from orchestrator.planner.host import Batching, ModelSnapshot
from orchestrator.planner.scaling.plan_builder import PlanBuilder
from orchestrator.snapshot import ModelName


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
    """Return a full reload, with as many instances as before by default; old and new are held at once."""
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


def add_making_room(builder: PlanBuilder, action: Action) -> bool:
    """Add an action, after unloading other widths where that makes it fit; return whether it was added."""
    victims = choose_victims(builder, action)
    return add_in_place_of(builder, action, victims) if victims else builder.add_if_fits(action)


def add_in_place_of(builder: PlanBuilder, action: Action, victims: Sequence[ModelSnapshot]) -> bool:
    """Add an action after unloading widths for it; return whether it was added."""
    lacking = builder.lacking_bytes(action.needed_bytes)
    if builder.refuse_barred(action):  # nobody is unloaded for it
        return False
    for seen in victims:
        idle_s = builder.elapsed_s(builder.memory(seen).idle_since_s)
        numbers = (("idle_s", idle_s), ("lacking_bytes", float(lacking or 0)))
        builder.add(unload(seen, ActionReason.MAKE_ROOM, numbers))
    return builder.add(action, freed_bytes=sum(builder.sizes.learned_bytes(seen) for seen in victims))


def add_minimum(builder: PlanBuilder, action: Action) -> bool:
    """Add the load of a model of the minimum set, making room for it; return whether it was added.

    Where all that may be unloaded is not enough, what stays gives instances of known size, never a last one; the models
    that fewest wait for give first.
    """
    lacking_bytes = builder.lacking_bytes(action.needed_bytes)
    if not lacking_bytes or choose_victims(builder, action):
        return add_making_room(builder, action)
    # With a margin, or an instance would be given, bring too little, and be taken back by growth, for ever.
    enough_bytes = int(lacking_bytes * (1 + builder.settings.memory_margin))
    victims = _candidates(builder, action)
    freed_bytes = sum(builder.sizes.learned_bytes(seen) for seen in victims)
    reduced: list[Action] = []
    for seen in _crowded(builder, victims):
        each_bytes = builder.sizes.given_bytes(seen)
        if freed_bytes >= enough_bytes or each_bytes == 0:
            continue
        given = min(seen.loaded.instances - 1, math.ceil((enough_bytes - freed_bytes) / each_bytes))
        numbers: Numbers = (("lacking_bytes", float(lacking_bytes)), ("instance_bytes", float(each_bytes)))
        reduced.append(scale(builder, seen, ActionReason.MAKE_ROOM, seen.loaded.instances - given, numbers))
        freed_bytes += given * each_bytes
    if freed_bytes < enough_bytes:
        return builder.add_if_fits(action)  # is refused, and nobody gives anything for it
    if builder.refuse_barred(action) or any([builder.refuse_barred(each) for each in reduced]):
        return False
    for seen in victims:
        builder.add(unload(seen, ActionReason.MAKE_ROOM, (("lacking_bytes", float(lacking_bytes)),)))
    for each in reduced:
        builder.add(each)
    return builder.add(action, freed_bytes=freed_bytes)


def _crowded(builder: PlanBuilder, victims: Sequence[ModelSnapshot]) -> list[ModelSnapshot]:
    """Return what may give instances in place, but for victims, which go as a whole; who fewest wait for first."""
    crowded = [
        seen
        for seen in builder.models.values()
        if seen.is_ready
        and seen.loaded.instances > 1
        and seen.loaded.is_canonical
        and not seen.model.damage
        and seen not in victims
        and builder.may_touch(seen)
    ]
    return sorted(crowded, key=lambda s: (weighted_waiting(builder, s), *widest_first(s)))


def reload_or_unload(builder: PlanBuilder, seen: ModelSnapshot, action: Action, *, may_unload: bool) -> bool:
    """Add a reload that can't wait, making room for it; where there is none, unload first what need not be held twice.

    What was unloaded is loaded again by a later step, as it should be.
    """
    may_unload = may_unload and not seen.model.damage
    if builder.lacking_bytes(action.needed_bytes) and not choose_victims(builder, action) and may_unload:
        return builder.add(unload(seen, action.reason, action.numbers))
    return add_making_room(builder, action)


def choose_victims(builder: PlanBuilder, action: Action) -> list[ModelSnapshot]:
    """Return the widths to unload for an action, longest idle first; none when it fits, or when all are not enough.

    Only idle ones that are not kept, but for the minimum set whatever is not of it: without it nothing answers when
    nothing else can. One whose size was never learned, as after a restart of the controller, ends the search: what it
    gives back is known only afterwards, and whoever carries the plan out looks before the action.
    """
    lacking_bytes = builder.lacking_bytes(action.needed_bytes)
    return enough_of(builder, _candidates(builder, action), lacking_bytes) if lacking_bytes else []


def _candidates(builder: PlanBuilder, action: Action) -> list[ModelSnapshot]:
    candidates = [seen for seen in idle_widths(builder) if seen.name != action.model]
    if action.model in builder.limits.minimum:
        others = [seen for seen in builder.models.values() if seen.name != action.model and builder.may_touch(seen)]
        busy = [s for s in others if s.is_ready and s.name not in builder.limits.minimum and s not in candidates]
        candidates += sorted(busy, key=lambda s: (weighted_waiting(builder, s), *widest_first(s)))
    return candidates


def enough_of(builder: PlanBuilder, candidates: Iterable[ModelSnapshot], lacking_bytes: int) -> list[ModelSnapshot]:
    """Return the first candidates that give so much back together; none when all are not enough."""
    chosen: list[ModelSnapshot] = []
    freed = 0
    for seen in candidates:
        chosen.append(seen)
        freed += builder.sizes.learned_bytes(seen)
        if freed >= lacking_bytes or builder.sizes.learned_bytes(seen) == 0:
            return chosen
    return []


def idle_widths(builder: PlanBuilder) -> list[ModelSnapshot]:
    """Return the widths that may be unloaded because nobody has used them for ``idle_s``, longest idle first."""
    idle = [
        (since_s, seen)
        for seen in builder.models.values()
        if not builder.is_kept(seen)
        and builder.is_settled(seen)
        and builder.memory(seen).dead_since_s is None  # Triton 2.51 may never end the unload of one with a dead stub
        and (since_s := builder.memory(seen).idle_since_s) is not None
        and builder.has_held(since_s, builder.settings.idle_s)
    ]
    return [seen for _, seen in sorted(idle, key=lambda p: (p[0], *widest_first(p[1])))]


def weighted_waiting(builder: PlanBuilder, seen: ModelSnapshot) -> float:
    """Return how many requests wait for a model, each counted by the weight of its family."""
    return builder.memory(seen).waiting_requests * builder.weight(seen.model.family)


def widest_first(seen: ModelSnapshot) -> tuple[int, ModelName]:
    """Break ties among those who are to go: the widest first, it gives back most."""
    return (-seen.model.width, seen.name)
