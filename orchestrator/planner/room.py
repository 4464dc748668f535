"""Room for what must not wait: other widths are unloaded where that makes an action fit."""

from __future__ import annotations

from orchestrator.planner.actions import Action, ActionReason
from orchestrator.planner.host import ModelSnapshot
from orchestrator.planner.plan_builder import Draft
from orchestrator.snapshot import ModelName


def add_making_room(draft: Draft, action: Action) -> bool:
    """Add an action, after unloading other widths where that makes it fit; return whether it was added."""
    lacking = draft.lacking_bytes(action.needed_bytes)
    victims = choose_victims(draft, action)
    if not victims:
        return draft.add_if_fits(action)
    key = (action.model, action.instances, action.batching)
    if draft.state.quarantine.sentence(key, now_s=draft.now_s) is not None:
        draft.add(action)  # which says that it is quarantined; nobody is unloaded for it
        return False
    for seen in victims:
        idle_s = draft.elapsed_s(draft.memory(seen).idle_since_s)
        numbers = (("idle_s", idle_s), ("lacking_bytes", float(lacking or 0)))
        draft.add(draft.unload(seen, ActionReason.MAKE_ROOM, numbers))
    return draft.add(action, freed_bytes=sum(draft.learned_bytes(seen) for seen in victims))


def reload_or_unload(draft: Draft, seen: ModelSnapshot, action: Action, *, may_unload: bool) -> bool:
    """Add a reload that can't wait, making room for it; where there is none, unload first what need not be held twice.

    What was unloaded is loaded again by a later step, as it should be.
    """
    if draft.lacking_bytes(action.needed_bytes) and not choose_victims(draft, action) and may_unload:
        return draft.add(draft.unload(seen, action.reason, action.numbers))
    return add_making_room(draft, action)


def choose_victims(draft: Draft, action: Action) -> list[ModelSnapshot]:
    """Return the widths to unload for an action, longest idle first; none when it fits, or when all are not enough.

    Only idle ones that are not kept, but for the minimum set whatever is not of it: without it nothing answers when
    nothing else can. One whose size was never learned, as after a restart of the controller, ends the search: what it
    gives back is known only afterwards, and whoever carries the plan out looks before the action.
    """
    lacking_bytes = draft.lacking_bytes(action.needed_bytes)
    if not lacking_bytes:
        return []
    others = [seen for seen in draft.models.values() if seen.name != action.model and draft.may_touch(seen)]
    idle = [
        (since_s, seen)
        for seen in others
        if not draft.is_kept(seen)
        and draft.is_settled(seen)
        and draft.memory(seen).dead_since_s is None  # Triton 2.51 may never end the unload of one with a dead stub
        and (since_s := draft.memory(seen).idle_since_s) is not None
        and draft.has_held(since_s, draft.limits.idle_s)
    ]
    candidates = [seen for _, seen in sorted(idle, key=lambda p: (p[0], *widest_first(p[1])))]
    if action.model in draft.limits.minimum:
        busy = [s for s in others if s.is_ready and s.name not in draft.limits.minimum and s not in candidates]
        candidates += sorted(busy, key=lambda s: (draft.memory(s).waiting_requests, *widest_first(s)))
    chosen: list[ModelSnapshot] = []
    freed = 0
    for seen in candidates:
        chosen.append(seen)
        freed += draft.learned_bytes(seen)
        if freed >= lacking_bytes or draft.learned_bytes(seen) == 0:
            return chosen
    return []


def widest_first(seen: ModelSnapshot) -> tuple[int, ModelName]:
    """Break ties among those who are to go: the widest first, it gives back most."""
    return (-seen.model.width, seen.name)
