"""The plan of one host: greedy, bounded, and with a reason for everything.

In the order of what matters: back under the budget, repair what is broken, the minimum set, what was asked for, the
width whose next instance relieves the most queueing per byte, then what costs nothing to give up, then the widths
that there is room for, then batching. More budget never gives an earlier line of this list less; a later line may
get less, because an earlier one took it. A solver over all of it at once would find fuller packings and could not
say why; and a host has a handful of widths.

What keeps a plan from swinging under constant load: conditions must hold for seconds without a break; an instance is
added above one busy ratio and taken away only when the rest would stay below a smaller one; a width that made room
is not loaded again while the one it made room for still lacks memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.scheduling.actions import Action, ActionKind, ActionReason, NoticeKind, Numbers, Plan, RefusalReason
from orchestrator.scheduling.batching import Demand, plan_batching
from orchestrator.scheduling.draft import Draft
from orchestrator.scheduling.host import HostSnapshot, ModelSnapshot, ModelStatus
from orchestrator.scheduling.limits import Limits
from orchestrator.scheduling.state import ModelMemory, SchedulerState, Trial
from orchestrator.scheduling.tracking import track
from orchestrator.snapshot import ModelName


def plan(snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float) -> tuple[Plan, SchedulerState]:
    """Return what to do now, and the state to plan the next step with.

    Deterministic, and independent of the order of the snapshot's models. The actions are to be done one after another
    in the order given, each only while ``still_fits``.

    Args:
        snapshot: the host now.
        state: as the last call returned it, with the outcomes of its actions recorded.
        limits: within which to stay.
        now_s: on a clock that never goes back.
    """
    state = track(snapshot, state, limits, now_s=now_s)
    draft = Draft(snapshot, state, limits, now_s)
    _notify(draft)
    if not _shed(draft):
        _repair(draft)
        _load_minimum(draft)
        _load_demanded(draft)
        _grow(draft)
    _shrink(draft)
    _load_wanted(draft)
    _follow_files(draft)
    _size_batches(draft)
    return draft.finish(), state


def _notify(draft: Draft) -> None:
    for seen in draft.models.values():
        since_s = draft.memory(seen).moving_since_s
        if since_s is not None and draft.has_held(since_s, draft.limits.stuck_after_s):
            draft.notify(NoticeKind.STUCK, seen.name, (("for_s", draft.now_s - since_s),))
    residue, limit = draft.state.memory.residue_bytes, draft.limits.leak_limit_bytes
    if residue > limit:
        draft.notify(NoticeKind.RESTART_ADVISED, None, (("residue_bytes", residue), ("limit_bytes", limit)))


def _shed(draft: Draft) -> bool:
    """Take one thing away when memory has grown over the budget by itself; return whether something is.

    In this order: an instance that would not be missed, a width that is not kept and longest idle, an instance of the
    width with the most, a width that is not kept and waited for least. One at a time, because each gives back what
    only a reading can tell.
    """
    used, budget = draft.snapshot.memory_used_bytes, draft.limits.memory_budget_bytes
    if used is None or used <= budget:
        return False
    numbers = (("used_bytes", float(used)), ("budget_bytes", float(budget)))
    ready = [seen for seen in draft.models.values() if seen.is_ready and draft.may_touch(seen)]
    loose = [seen for seen in ready if not draft.is_kept(seen)]
    idle = [(since_s, seen) for seen in loose if (since_s := draft.memory(seen).idle_since_s) is not None]
    crowded = [seen for seen in ready if seen.loaded.instances > 1 and seen.loaded.is_canonical]
    reason = ActionReason.OVER_BUDGET
    spare = [seen for seen in crowded if draft.memory(seen).slack_since_s is not None]
    actions = [
        *(
            draft.scale(seen, reason, seen.loaded.instances - 1, numbers)
            for seen in sorted(spare, key=lambda s: (-s.loaded.instances, *_widest(s)))
        ),
        *(draft.unload(seen, reason, numbers) for _, seen in sorted(idle, key=lambda p: (p[0], *_widest(p[1])))),
        *(
            draft.scale(seen, reason, seen.loaded.instances - 1, numbers)
            for seen in sorted(crowded, key=lambda s: (-s.loaded.instances, *_widest(s)))
        ),
        *(
            draft.unload(seen, reason, numbers)
            for seen in sorted(loose, key=lambda s: (draft.memory(s).waiting_requests, *_widest(s)))
        ),
    ]
    if any(draft.add(action) for action in actions):  # the first that is not in quarantine
        return True
    draft.notify(NoticeKind.OVER_BUDGET, None, numbers)
    return False


def _widest(seen: ModelSnapshot) -> tuple[int, ModelName]:
    """Break ties among those who are to go: the widest first, it gives back most."""
    return (-seen.model.width, seen.name)


def _repair(draft: Draft) -> None:
    """Reload what has dead stubs or answers with errors; each repair that does not last waits longer."""
    limits = draft.limits
    for seen in draft.models.values():
        memory = draft.memory(seen)
        if not seen.is_ready or not draft.may_touch(seen):
            continue
        is_failing = seen.rates.failures_per_s > 0 and draft.has_held(memory.failing_since_s, limits.repair_after_s)
        if draft.has_held(memory.dead_since_s, limits.repair_after_s):
            reason = ActionReason.DEAD_INSTANCE
            numbers = (("instances", float(seen.loaded.instances)), ("alive", float(seen.live_instances or 0)))
        elif is_failing:
            reason = ActionReason.FAILING
            numbers = (
                ("failures_per_s", seen.rates.failures_per_s),
                ("for_s", _elapsed(draft, memory.failing_since_s)),
            )
        else:
            continue
        pause_s = min(limits.quarantine_max_s, limits.quarantine_s * 2.0 ** min(30, memory.repairs - 1))
        if memory.repairs and memory.repaired_s is not None and draft.now_s - memory.repaired_s < pause_s:
            continue
        action = draft.reload(seen, reason, seen.loaded.batching, numbers, is_forced=True)
        answers_nothing = seen.live_instances == 0 or (is_failing and seen.rates.requests_per_s == 0)
        _reload_or_unload(draft, seen, action, may_unload=answers_nothing)


def _reload_or_unload(draft: Draft, seen: ModelSnapshot, action: Action, *, may_unload: bool) -> bool:
    """Add a reload that can't wait, making room for it; where there is none, unload first what need not be held twice.

    What was unloaded is loaded again by a later step, as it should be.
    """
    if draft.lacking_bytes(action.needed_bytes) and not _victims(draft, action) and may_unload:
        return draft.add(draft.unload(seen, action.reason, action.numbers))
    return _add_making_room(draft, action)


def _load_minimum(draft: Draft) -> None:
    absent = [seen for seen in draft.models.values() if seen.name in draft.limits.minimum and not seen.is_ready]
    for seen in sorted(absent, key=lambda s: (draft.load_bytes(s, 1), s.model.width, s.name)):
        draft.want(seen, 1)
        if draft.may_touch(seen):
            _add_making_room(draft, draft.load(seen, ActionReason.MINIMUM_SET))


def _load_demanded(draft: Draft) -> None:
    """Load what was asked for, the smallest first, so that as many as possible fit."""
    absent = [seen for seen in draft.models.values() if draft.is_demanded(seen) and not seen.is_ready]
    for seen in sorted(absent, key=lambda s: (draft.load_bytes(s, 1), s.model.width, s.name)):
        if seen.name in draft.limits.minimum:
            continue
        draft.want(seen, 1)
        if draft.may_touch(seen):
            _add_making_room(draft, draft.load(seen, ActionReason.DEMANDED))


STARVED_S = 10.0
"""Price of an in-place change that has to wait for a gap between full batches; 10 to 50 s were measured."""
FULL_RATIO = 0.9
"""Of the largest batch, above which batches count as full."""


MAX_DRIFT_FAILURES = 3
STEADY_S = 10.0
"""For which arrivals must have been steady before a batching is sized for them."""
TRIAL_S = 5.0
"""After which a new batching is judged by what is answered."""
TRIAL_RATIO = 0.85
SATURATED_RATIO = 0.7
"""Instances busier than this leave no doubt that what waits is all that there is."""


@dataclass(frozen=True, slots=True)
class _Growth:
    seen: ModelSnapshot
    action: Action
    relief_per_byte: float
    needs_reload: bool


def _grow(draft: Draft) -> None:
    """Add one instance to the width where it relieves the most queueing per byte.

    One instance more than c takes over the (c+1)-th part of those who wait. The best that may grow does, and no other:
    the next one is judged by what this one changed. Ties go to the narrower width.
    """
    for growth in sorted(_growths(draft), key=lambda g: (-g.relief_per_byte, g.seen.model.width, g.seen.name)):
        draft.want(growth.seen, growth.action.instances)
        utilisation, ceiling = draft.snapshot.utilisation_ratio, draft.limits.utilisation_ceiling_ratio
        if utilisation is not None and utilisation >= ceiling:
            numbers = (("utilisation_ratio", utilisation), ("ceiling_ratio", ceiling))
            draft.refuse(growth.action, RefusalReason.UTILISATION, numbers)
        elif (growth.needs_reload and _reload_larger(draft, growth)) or _add_making_room(draft, growth.action):
            return
        else:
            draft.growth_lacks_memory = True


def _reload_larger(draft: Draft, growth: _Growth) -> bool:
    """Add the growth as a full reload if that fits as it is; return whether it was added."""
    seen, action = growth.seen, growth.action
    reload = draft.reload(
        seen, action.reason, action.batching, action.numbers, is_forced=True, instances=action.instances
    )
    return draft.lacking_bytes(reload.needed_bytes) == 0 and draft.add(reload)


def _is_starved(seen: ModelSnapshot, waiting_requests: float) -> bool:
    """Return whether an in-place change of a model would not come through.

    WORKAROUND(Triton 2.51): a new instance is set up by an order in a queue of its own, and a thread looks there only
    when the queue of ready batches is empty (rate_limiter.cc, DequeuePayload). With more than one full batch waiting
    for each instance it never is: measured here, an instance more took 10 to 50 s, and a full reload one second.
    """
    rates = seen.rates
    if not rates.items_per_execution or not rates.requests_per_s:
        return False
    full_items = FULL_RATIO * seen.model.max_batch_size
    waiting_items = waiting_requests * rates.items_per_s / rates.requests_per_s
    return rates.items_per_execution >= full_items and waiting_items > full_items * seen.loaded.instances


def _growths(draft: Draft) -> list[_Growth]:
    growths = []
    for seen in draft.models.values():
        memory, instances = draft.memory(seen), seen.loaded.instances
        is_pressed = draft.has_held(memory.pressed_since_s, draft.limits.grow_after_s)
        # Beside a dead stub a further instance would be of little use, and the repair is due in a moment.
        if not is_pressed or memory.dead_since_s is not None:
            continue
        if not seen.loaded.is_canonical or not draft.is_settled(seen):
            continue
        needed = draft.instance_bytes(seen)
        relief = memory.waiting_requests / (instances + 1)
        numbers = (
            ("waiting_requests", memory.waiting_requests),
            ("busy_ratio", memory.busy_instances / instances),
            ("relieved_requests", relief),
            ("instance_bytes", float(needed)),
            *draft.memory_numbers(needed),
        )
        action = draft.scale(seen, ActionReason.QUEUEING, instances + 1, numbers)
        if instances >= draft.limits.max_instances:
            draft.refuse(action, RefusalReason.MAX_INSTANCES, (("max_instances", float(draft.limits.max_instances)),))
            continue
        prices = draft.state.prices
        in_place_s = STARVED_S if _is_starved(seen, memory.waiting_requests) else prices.price_s(ActionKind.SCALE_UP)
        needs_reload = in_place_s > prices.price_s(ActionKind.RELOAD)
        growths.append(_Growth(seen, action, relief / max(1, needed), needs_reload))
    return growths


def _add_making_room(draft: Draft, action: Action) -> bool:
    """Add an action, after unloading other widths where that makes it fit; return whether it was added."""
    lacking = draft.lacking_bytes(action.needed_bytes)
    victims = _victims(draft, action) if lacking else []
    if not victims:
        return draft.add_if_fits(action)
    key = (action.model, action.instances, action.batching)
    if draft.state.quarantine.sentence(key, now_s=draft.now_s) is not None:
        draft.add(action)  # which says that it is quarantined; nobody is unloaded for it
        return False
    for seen in victims:
        idle_s = _elapsed(draft, draft.memory(seen).idle_since_s)
        numbers = (("idle_s", idle_s), ("lacking_bytes", float(lacking or 0)))
        draft.add(draft.unload(seen, ActionReason.MAKE_ROOM, numbers))
    return draft.add(action, freed_bytes=sum(draft.learned_bytes(seen) for seen in victims))


def _victims(draft: Draft, action: Action) -> list[ModelSnapshot]:
    """Return the widths to unload for an action, longest idle first, or none when all would not be enough.

    Only idle ones that are not kept, but for the minimum set whatever is not of it: without it nothing answers when
    nothing else can. One whose size was never learned, as after a restart of the controller, ends the search: what it
    gives back is known only afterwards, and whoever carries the plan out looks before the action.
    """
    lacking_bytes = draft.lacking_bytes(action.needed_bytes) or 0
    others = [seen for seen in draft.models.values() if seen.name != action.model and draft.may_touch(seen)]
    idle = [
        (since_s, seen)
        for seen in others
        if not draft.is_kept(seen)
        and draft.is_settled(seen)
        and (since_s := draft.memory(seen).idle_since_s) is not None
        and draft.has_held(since_s, draft.limits.idle_s)
    ]
    candidates = [seen for _, seen in sorted(idle, key=lambda p: (p[0], *_widest(p[1])))]
    if action.model in draft.limits.minimum:
        busy = [s for s in others if s.is_ready and s.name not in draft.limits.minimum and s not in candidates]
        candidates += sorted(busy, key=lambda s: (draft.memory(s).waiting_requests, *_widest(s)))
    chosen: list[ModelSnapshot] = []
    freed = 0
    for seen in candidates:
        chosen.append(seen)
        freed += draft.learned_bytes(seen)
        if freed >= lacking_bytes or draft.learned_bytes(seen) == 0:
            return chosen
    return []


def _shrink(draft: Draft) -> None:
    """Take away instances that would not be missed, and widths that nobody wants and nobody uses."""
    for seen in draft.models.values():
        memory, limits = draft.memory(seen), draft.limits
        if not draft.is_settled(seen):
            continue
        is_unwanted = not draft.is_kept(seen) and seen.name not in limits.wanted
        if seen.loaded.instances > limits.max_instances and seen.loaded.is_canonical:
            too_many: Numbers = (
                ("instances", float(seen.loaded.instances)),
                ("max_instances", float(limits.max_instances)),
            )
            draft.add(draft.scale(seen, ActionReason.MAX_INSTANCES, limits.max_instances, too_many))
        elif is_unwanted and draft.has_held(memory.idle_since_s, limits.unload_after_s):
            idle: Numbers = (("idle_s", _elapsed(draft, memory.idle_since_s)),)
            draft.add(draft.unload(seen, ActionReason.IDLE, idle))
        elif seen.loaded.is_canonical and draft.has_held(memory.slack_since_s, limits.idle_s):
            instances = _fewest_instances(memory.busy_instances, seen.loaded.instances, limits.shrink_busy_ratio)
            slack: Numbers = (
                ("busy_instances", memory.busy_instances),
                ("for_s", _elapsed(draft, memory.slack_since_s)),
            )
            draft.add(draft.scale(seen, ActionReason.IDLE, instances, slack))


def _fewest_instances(busy_instances: float, instances: int, shrink_busy_ratio: float) -> int:
    """Return the smallest count at which each stays below the ratio; at least one is taken away, one stays."""
    count = instances - 1
    while count > 1 and busy_instances / (count - 1) < shrink_busy_ratio:
        count -= 1
    return max(1, count)


def _load_wanted(draft: Draft) -> None:
    """Load what there is room for, in the order in which it is wanted; the first that does not fit ends it.

    What comes later must not take the room that what is wanted more waits for.
    """
    used, limits = draft.snapshot.memory_used_bytes, draft.limits
    is_over = used is not None and used > limits.memory_budget_bytes
    is_blocked = draft.growth_lacks_memory or is_over
    for name in limits.wanted:
        seen = draft.models.get(name)
        if seen is None or seen.is_ready or draft.is_kept(seen) or seen.loaded.status is ModelStatus.LOADING:
            continue
        draft.want(seen, 1)
        unloaded_s = draft.memory(seen).unloaded_s
        has_rested = unloaded_s is None or draft.now_s - unloaded_s >= limits.idle_s
        if is_blocked or not has_rested or not draft.may_touch(seen):
            continue
        action = draft.load(seen, ActionReason.WANTED)
        is_blocked = draft.lacking_bytes(action.needed_bytes) != 0
        draft.add_if_fits(action)


def _follow_files(draft: Draft) -> None:
    """Reload what runs with something else than its files say; not often, in case it can't be made the same.

    A batching that nobody here has sized is such a thing too, unless the curve is known: then it is judged like any.
    Files that have failed to load several times are left alone until they change, because the old version serves, and
    each failed reload leaves an entry in Triton that makes its shutdown wait.
    """
    for seen in draft.models.values():
        memory, limits = draft.memory(seen), draft.limits
        is_unsized = limits.batching_horizon_s <= 0 or (
            memory.curve.line() is None and draft.has_held(memory.foreign_since_s, limits.batching_cooldown_s)
        )
        has_drifted = not seen.loaded.is_canonical or (memory.foreign_since_s is not None and is_unsized)
        is_recent = _is_recent(draft, memory.batching_changed_s)
        if not has_drifted or is_recent or not draft.is_settled(seen):
            continue
        numbers: Numbers = (("failures", float(memory.drift_failures)),)
        action = draft.reload(seen, ActionReason.DRIFTED, seen.model.batching, numbers, is_forced=False)
        if memory.drift_failures >= MAX_DRIFT_FAILURES:
            draft.refuse(action, RefusalReason.QUARANTINED, numbers, "its files have failed to load; export them again")
            continue
        is_idle = not draft.is_kept(seen) and draft.has_held(memory.idle_since_s, limits.idle_s)
        _reload_or_unload(draft, seen, action, may_unload=is_idle)


def _size_batches(draft: Draft) -> None:
    limits = draft.limits
    if limits.batching_horizon_s <= 0:
        return
    for seen in draft.models.values():
        memory, line = draft.memory(seen), draft.memory(seen).curve.line()
        if line is None or seen.rates.window_s <= 0 or memory.items_per_s <= 0:
            continue
        if not seen.loaded.is_canonical or not draft.is_settled(seen):
            continue
        if memory.trial is not None:
            _judge_trial(draft, seen, memory, memory.trial)
            continue
        is_barred = memory.barred_until_s is not None and draft.now_s < memory.barred_until_s
        if is_barred or _is_recent(draft, memory.batching_changed_s):
            continue
        if not draft.has_held(memory.steady_since_s, STEADY_S):
            continue
        if memory.pressed_since_s is not None:  # another instance is cheaper, and changes what batching should be
            continue
        reload_s = draft.state.prices.price_s(ActionKind.RELOAD)
        change = plan_batching(_demand(seen, memory, line), seen.loaded.batching, limits, reload_s=reload_s)
        if change is not None:
            action = draft.reload(seen, change.reason, change.batching, change.numbers, is_forced=False)
            draft.add_if_fits(action)


def _judge_trial(draft: Draft, seen: ModelSnapshot, memory: ModelMemory, trial: Trial) -> None:
    """Go back to what was before a delay when less has been answered since.

    Arrivals are taken to be independent of the delay. Clients that wait for an answer before they send the next
    request belie that: a delay for a batch that they can't fill throttles them, and only trying it shows.
    """
    changed_s = memory.batching_changed_s
    is_due = changed_s is not None and draft.now_s - changed_s >= TRIAL_S
    if not is_due or memory.recent_items_per_s >= TRIAL_RATIO * trial.items_per_s:
        return
    numbers: Numbers = (("items_per_s", memory.recent_items_per_s), ("items_before_per_s", trial.items_per_s))
    action = draft.reload(seen, ActionReason.BATCHING_HARMFUL, trial.batching, numbers, is_forced=False)
    draft.add_if_fits(action)


def _demand(seen: ModelSnapshot, memory: ModelMemory, line: tuple[float, float]) -> Demand:
    item_s, batch_s = line
    requests_per_s = seen.rates.requests_per_s
    request_items = seen.rates.items_per_s / requests_per_s if requests_per_s else 1.0
    # Behind busy instances no more can gather than are there; what comes when they are not is not known.
    present_items = memory.waiting_requests * request_items + memory.busy_instances * (
        seen.rates.items_per_execution or 1.0
    )
    is_busy = memory.busy_instances > SATURATED_RATIO * seen.loaded.instances
    largest = int(max(1.0, present_items)) if is_busy else seen.model.max_batch_size
    return Demand(
        item_s=item_s,
        batch_s=batch_s,
        items_per_s=memory.items_per_s,
        request_items=max(1.0, request_items),
        instances=seen.loaded.instances,
        max_batch_size=seen.model.max_batch_size,
        gatherable_items=min(largest, seen.model.max_batch_size),
    )


def _is_recent(draft: Draft, reloaded_s: float | None) -> bool:
    return reloaded_s is not None and draft.now_s - reloaded_s < draft.limits.batching_cooldown_s


def _elapsed(draft: Draft, since_s: float | None) -> float:
    return 0.0 if since_s is None else draft.now_s - since_s
