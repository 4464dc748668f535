"""Wanted widths: those that there is room for are loaded, and families share that room by their weights.

Within a family the settings give the order. Among families the next one is the family with traffic that holds the least
memory for its weight; families that nobody asks come last. So popularity that drifts moves memory: a family with
traffic takes the room of widths that nobody has used for ``idle_s``, from a family without any traffic, or from one
that then still holds no less for its weight. The second kind brings both nearer to each other, so it is not undone;
the first is undone only when the traffic has moved back.

A width that is not wanted gives way to one of its family that is, though requests come to it: the others can answer
them, and it would never be idle, and what is wanted never loaded. While its own growth lacks memory it stays.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.planner.actions import Action, ActionReason
from orchestrator.planner.host import ModelSnapshot, ModelStatus
from orchestrator.planner.scaling import changes
from orchestrator.planner.scaling.plan_builder import PlanBuilder
from orchestrator.snapshot import Family


def load_wanted(builder: PlanBuilder) -> None:
    """Load what there is room for, of each family in the order in which it is wanted, until one does not fit.

    What comes later must not take the room that what is wanted more waits for; nor that which the growth of a family
    waits for that holds no more for its weight.
    """
    used, limits = builder.snapshot.memory_used_bytes, builder.limits
    is_over = used is not None and used > limits.memory_budget_bytes
    waiting: dict[Family, list[ModelSnapshot]] = {}
    for name in limits.wanted:
        seen = builder.models.get(name)
        if seen is None or seen.is_ready or builder.is_kept(seen) or seen.loaded.status is ModelStatus.LOADING:
            continue
        builder.want(seen, 1)
        waiting.setdefault(seen.model.family, []).append(seen)
    while waiting and not is_over:
        family = min(waiting, key=lambda f: (not _has_traffic(builder, f), builder.share_bytes(f), f))
        seen = waiting[family].pop(0)
        if _growth_comes_first(builder, family) or not _load(builder, seen) or not waiting[family]:
            del waiting[family]


def _load(builder: PlanBuilder, seen: ModelSnapshot) -> bool:
    """Load a width if it may be; return whether there was room for it, or it does not need any now."""
    unloaded_s = builder.memory(seen).unloaded_s
    has_rested = unloaded_s is None or builder.now_s - unloaded_s >= builder.settings.idle_s
    if not has_rested or not builder.may_touch(seen):
        return True
    action = changes.load(builder, seen, ActionReason.WANTED)
    lacking_bytes = builder.lacking_bytes(action.needed_bytes)
    givers = (*_givers(builder, seen, action), *_unwanted(builder, seen.model.family)) if lacking_bytes else ()
    victims = changes.enough_of(builder, givers, lacking_bytes) if lacking_bytes else []
    if victims:
        return changes.add_in_place_of(builder, action, victims)
    builder.add_if_fits(action)
    return lacking_bytes == 0


def _givers(builder: PlanBuilder, seen: ModelSnapshot, action: Action) -> Iterable[ModelSnapshot]:
    """Yield the idle widths of other families that may go for a width, longest idle first; each is taken to go."""
    family = seen.model.family
    if not _has_traffic(builder, family):
        return
    own_bytes, given_bytes = builder.share_bytes(family, action.needed_bytes), dict[Family, int]()
    for other in changes.idle_widths(builder):
        giver = other.model.family
        given = given_bytes.get(giver, 0) + builder.sizes.load_bytes(other, other.loaded.instances)
        if giver == family or (not _is_idle(builder, giver) and builder.share_bytes(giver, -given) < own_bytes):
            continue
        given_bytes[giver] = given
        yield other


def _unwanted(builder: PlanBuilder, family: Family) -> list[ModelSnapshot]:
    """Return the widths of a family that nobody wants, those first that fewest wait for."""
    found = [
        seen
        for seen in _ready(builder, family)
        if not builder.is_kept(seen)
        and seen.name not in builder.limits.wanted
        and builder.is_settled(seen)
        and builder.memory(seen).dead_since_s is None  # as for idle widths
    ]
    return sorted(found, key=lambda s: (changes.weighted_waiting(builder, s), *changes.widest_first(s)))


def _growth_comes_first(builder: PlanBuilder, family: Family) -> bool:
    """Return whether what memory there is has to be left to the growth of a family that holds no more."""
    lacking = builder.families_lacking_memory
    return any(builder.share_bytes(other) <= builder.share_bytes(family) for other in lacking)


def _has_traffic(builder: PlanBuilder, family: Family) -> bool:
    return not _is_idle(builder, family) and any(builder.memory(s).items_per_s > 0 for s in _ready(builder, family))


def _is_idle(builder: PlanBuilder, family: Family) -> bool:
    return all(
        builder.has_held(builder.memory(seen).idle_since_s, builder.settings.idle_s) for seen in _ready(builder, family)
    )


def _ready(builder: PlanBuilder, family: Family) -> list[ModelSnapshot]:
    return [seen for seen in builder.models.values() if seen.model.family == family and seen.is_ready]
