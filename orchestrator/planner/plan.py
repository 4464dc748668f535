"""The plan of one host: greedy, bounded, and with a reason for everything.

In the order of what matters: back under the budget, repair what is broken, the minimum set, what was asked for, the
width whose next instance relieves the most queueing per byte, then what costs nothing to give up, then the widths
that there is room for, then batching. More budget never gives an earlier line of this list less; a later line may
get less, because an earlier one took it. Nothing of it is done while somebody else undoes it (``rivalry``). A solver
over all of it at once would find fuller packings and could not say why; and a host has a few dozen widths at most.

All families of the host are planned at once, within one budget. Where they compete, each counts by its weight
(``growth`` and ``wanted``); what does not compete is the same whatever the weights, so a family that is alone gets what
it would get without any.

What keeps a plan from swinging under constant load: conditions must hold for seconds without a break; an instance is
added above one busy ratio and taken away only when the rest would stay below a smaller one; a width that made room
is not loaded again while the one it made room for still lacks memory.
"""

from __future__ import annotations

from orchestrator.planner.actions import ActionReason, NoticeKind, Numbers, Plan
from orchestrator.planner.conditions import track
from orchestrator.planner.host import HostSnapshot, Limits, ModelSnapshot
from orchestrator.planner.ledgers.rivalry import RIVAL_AFTER
from orchestrator.planner.scaling import changes
from orchestrator.planner.scaling.growth import grow
from orchestrator.planner.scaling.plan_builder import PlanBuilder
from orchestrator.planner.scaling.reloads import follow_files, size_batches
from orchestrator.planner.scaling.wanted import load_wanted
from orchestrator.planner.state import SchedulerState


def plan(snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float) -> tuple[Plan, SchedulerState]:
    """Return what to do now, and the state to plan the next step with.

    Deterministic, and independent of the order of the snapshot's models. The actions are to be done one after another
    in the order given, each only while ``still_fits``. The state is what the last call returned, with the outcomes of
    its actions recorded; the time is of a clock that never goes back.
    """
    state = track(snapshot, state, limits, now_s=now_s)
    builder = PlanBuilder(snapshot, state, limits, now_s)
    _notify(builder)
    if state.rivalry.rival_of is not None:
        return builder.finish(), state
    if not _shed(builder):
        _repair(builder)
        _load_needed(builder)
        grow(builder)
    _shrink(builder)
    load_wanted(builder)
    follow_files(builder)
    size_batches(builder)
    return builder.finish(), state


def _notify(builder: PlanBuilder) -> None:
    for seen in builder.models.values():
        since_s = builder.memory(seen).moving_since_s
        if since_s is not None and builder.has_held(since_s, builder.settings.stuck_after_s):
            builder.notify(NoticeKind.STUCK, seen.name, (("for_s", builder.now_s - since_s),))
        if seen.model.damage:
            builder.notify(NoticeKind.WEIGHTS_DIFFER, seen.name, detail=seen.model.damage)
    _notify_of_rival(builder)
    residue, limit = builder.state.memory.residue_bytes, builder.limits.leak_limit_bytes
    if residue > limit:
        builder.notify(NoticeKind.RESTART_ADVISED, None, (("residue_bytes", residue), ("limit_bytes", limit)))
    threads, most = builder.state.threads.left_behind, builder.settings.leak_limit_threads
    if threads > most:
        counts: Numbers = (("left_threads", threads), ("limit_threads", most), ("idle_s", _idle_s(builder)))
        builder.notify(
            NoticeKind.RESTART_ADVISED, None, counts, "repairs left threads behind; restart Triton while it is idle"
        )


def _idle_s(builder: PlanBuilder) -> float:
    """Return for how long no model has had anything to do."""
    ready = [builder.memory(seen) for seen in builder.models.values() if seen.is_ready]
    return min((builder.elapsed_s(memory.idle_since_s) for memory in ready), default=0.0)


def _notify_of_rival(builder: PlanBuilder) -> None:
    rivalry, settings = builder.state.rivalry, builder.settings
    if rivalry.rival_of is None:
        return
    needed_s = rivalry.quiet_s(settings)
    numbers: Numbers = (("quiet_s", builder.elapsed_s(rivalry.moved_s)), ("needed_quiet_s", needed_s))
    builder.notify(
        NoticeKind.RIVAL,
        rivalry.rival_of,
        numbers,
        f"somebody else has undone {RIVAL_AFTER} changes of it, so nothing is changed until nobody else has for "
        f"{needed_s:g} s (controller.rival_quiet_s = {settings.rival_quiet_s:g}); leave this Triton to one controller",
    )


def _shed(builder: PlanBuilder) -> bool:
    """Take one thing away when memory has grown over the budget by itself; return whether something is.

    In this order: an instance that would not be missed, a width that is not kept and longest idle, an instance of the
    width with the most, a width that is not kept and waited for least; of widths those last that are wanted. One at a
    time, because each gives back what only a reading can show.
    """
    used, budget = builder.snapshot.memory_used_bytes, builder.limits.memory_budget_bytes
    if used is None or used <= budget:
        return False
    numbers = (("used_bytes", float(used)), ("budget_bytes", float(budget)))
    ready = [seen for seen in builder.models.values() if seen.is_ready and builder.may_touch(seen)]
    loose = [seen for seen in ready if not builder.is_kept(seen)]
    idle = [(since_s, seen) for seen in loose if (since_s := builder.memory(seen).idle_since_s) is not None]
    crowded = [seen for seen in ready if seen.loaded.instances > 1 and seen.loaded.is_canonical]
    reason = ActionReason.OVER_BUDGET

    def is_wanted(seen: ModelSnapshot) -> bool:
        return seen.name in builder.limits.wanted

    one_fewer = [
        (seen, changes.scale(builder, seen, reason, seen.loaded.instances - 1, numbers))
        for seen in sorted(crowded, key=lambda s: (-s.loaded.instances, *changes.widest_first(s)))
    ]
    actions = [
        *(action for seen, action in one_fewer if builder.memory(seen).slack_since_s is not None),
        *(
            changes.unload(seen, reason, numbers)
            for _, seen in sorted(idle, key=lambda p: (is_wanted(p[1]), p[0], *changes.widest_first(p[1])))
        ),
        *(action for _, action in one_fewer),
        *(
            changes.unload(seen, reason, numbers)
            for seen in sorted(
                loose, key=lambda s: (is_wanted(s), changes.weighted_waiting(builder, s), *changes.widest_first(s))
            )
        ),
    ]
    if any(builder.add(action) for action in actions):  # the first that is not in quarantine
        return True
    builder.notify(NoticeKind.OVER_BUDGET, None, numbers)
    return False


def _repair(builder: PlanBuilder) -> None:
    """Reload what has dead stubs or answers with errors; each repair that does not last waits longer."""
    settings = builder.settings
    for seen in builder.models.values():
        memory = builder.memory(seen)
        if not seen.is_ready or not builder.may_touch(seen):
            continue
        is_failing = seen.rates.failures_per_s > 0 and builder.has_held(memory.failing_since_s, settings.repair_after_s)
        if builder.has_held(memory.dead_since_s, settings.repair_after_s):
            reason = ActionReason.DEAD_INSTANCE
            numbers = (("instances", float(seen.loaded.instances)), ("alive", float(seen.live_instances or 0)))
        elif is_failing:
            reason = ActionReason.FAILING
            numbers = (
                ("failures_per_s", seen.rates.failures_per_s),
                ("for_s", builder.elapsed_s(memory.failing_since_s)),
            )
        else:
            continue
        pause_s = min(settings.quarantine_max_s, settings.quarantine_s * 2.0 ** min(30, memory.repairs - 1))
        if memory.repairs and memory.repaired_s is not None and builder.now_s - memory.repaired_s < pause_s:
            continue
        action = changes.reload(builder, seen, reason, seen.loaded.batching, numbers, is_forced=True)
        answers_nothing = seen.live_instances == 0 or (is_failing and seen.rates.requests_per_s == 0)
        changes.reload_or_unload(builder, seen, action, may_unload=answers_nothing)


def _load_needed(builder: PlanBuilder) -> None:
    """Load the minimum set, then what was asked for; each the smallest first, so that as many as possible fit."""
    absent = [seen for seen in builder.models.values() if not seen.is_ready]
    minimum = [seen for seen in absent if seen.name in builder.limits.minimum]
    demanded = [seen for seen in absent if builder.is_demanded(seen) and seen not in minimum]
    for reason, models, add in (
        (ActionReason.MINIMUM_SET, minimum, changes.add_minimum),
        (ActionReason.DEMANDED, demanded, changes.add_making_room),
    ):
        for seen in sorted(models, key=lambda s: (builder.sizes.load_bytes(s, 1), s.model.width, s.name)):
            builder.want(seen, 1)
            if builder.may_touch(seen):
                add(builder, changes.load(builder, seen, reason))


def _shrink(builder: PlanBuilder) -> None:
    """Take away instances that would not be missed, and widths that nobody wants and nobody uses."""
    for seen in builder.models.values():
        memory, limits = builder.memory(seen), builder.limits
        if not builder.is_settled(seen):
            continue
        is_unwanted = not builder.is_kept(seen) and seen.name not in limits.wanted
        if seen.loaded.instances > limits.max_instances and seen.loaded.is_canonical:
            too_many: Numbers = (
                ("instances", float(seen.loaded.instances)),
                ("max_instances", float(limits.max_instances)),
            )
            builder.add(changes.scale(builder, seen, ActionReason.MAX_INSTANCES, limits.max_instances, too_many))
        elif is_unwanted and builder.has_held(memory.idle_since_s, builder.settings.unload_after_s):
            idle: Numbers = (("idle_s", builder.elapsed_s(memory.idle_since_s)),)
            builder.add(changes.unload(seen, ActionReason.IDLE, idle))
        elif seen.loaded.is_canonical and builder.has_held(memory.slack_since_s, builder.settings.idle_s):
            instances = _fewest_instances(
                memory.busy_instances, seen.loaded.instances, builder.settings.shrink_busy_ratio
            )
            slack: Numbers = (
                ("busy_instances", memory.busy_instances),
                ("for_s", builder.elapsed_s(memory.slack_since_s)),
            )
            builder.add(changes.scale(builder, seen, ActionReason.IDLE, instances, slack))


def _fewest_instances(busy_instances: float, instances: int, shrink_busy_ratio: float) -> int:
    """Return the smallest count at which each stays below the ratio; at least one is taken away, one stays."""
    count = instances - 1
    while count > 1 and busy_instances / (count - 1) < shrink_busy_ratio:
        count -= 1
    return max(1, count)
