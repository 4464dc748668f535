"""Conditions and their timers, brought up to date with a snapshot before anything is decided.

Load is smoothed over about a second, arrivals over ten, because instances follow load and batching must not chase
it. Where a window could not be measured, no condition of load is known to have held without a break, so their timers
begin anew: missing data is neither load nor calm. A window in which the model was changed is passed over, because
Triton counts the warm-up of new instances as requests.
"""

from __future__ import annotations

import math
from dataclasses import replace

from orchestrator.planner.host import HostSnapshot, Limits, ModelSnapshot
from orchestrator.planner.state import ModelMemory, SchedulerState

LOAD_TIME_CONSTANT_S = 1.0
ARRIVAL_TIME_CONSTANT_S = 10.0
RECENT_TIME_CONSTANT_S = 2.0
STEADY_RATIO = 0.2
"""Two means of arrivals that differ by less are one."""
MIN_WAITING_REQUESTS = 0.5
"""Fewer waiting on average than this is no queue: half of the time nobody waits at all."""
NO_ARRIVALS_PER_S = 1e-3
"""Fewer is none: a mean that decays would never reach 0 by itself."""
HEALTHY_S = 60.0
"""A repair that has held for so long is forgotten, and the next one need not wait longer."""


def track(snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float) -> SchedulerState:
    """Return the state with every model's load, timers and curve as of this snapshot."""
    quarantine = state.quarantine
    for seen in snapshot.models:
        if state.model(seen.name).files_stamp not in ("", seen.model.files_stamp):
            quarantine = quarantine.pardon(seen.name)  # new files are tried at once
    models = {s.name: _track_model(s, state.model(s.name), snapshot, limits, now_s) for s in snapshot.models}
    sizes = {s.name: s.instance_bytes for s in snapshot.models if s.is_ready and s.instance_bytes is not None}
    memory = state.memory.follow(snapshot.server_id)
    if not snapshot.busy_models:  # in the middle of a change the instances of both versions are there
        memory = memory.observe(sizes, snapshot.overhead_bytes)
    rivalry = state.rivalry.follow(snapshot, limits.settings, now_s=now_s)
    threads = state.threads.observe(snapshot, now_s=now_s)
    return replace(state, models=models, quarantine=quarantine, memory=memory, rivalry=rivalry, threads=threads)


def _track_model(
    seen: ModelSnapshot, old: ModelMemory, snapshot: HostSnapshot, limits: Limits, now_s: float
) -> ModelMemory:
    if old.files_stamp != seen.model.files_stamp:
        # What another export needs must not wait for what the last one has just changed.
        old = replace(old, files_stamp=seen.model.files_stamp, drift_failures=0, batching_changed_s=None)
    moving_since_s = _since(old.moving_since_s, snapshot.is_moving(seen), now_s)
    # What a model that does not serve keeps is what was learned of it; its load and its timers begin anew.
    if not seen.is_ready:
        return ModelMemory(
            curve=old.curve,
            moving_since_s=moving_since_s,
            changed_s=old.changed_s,
            batching_changed_s=old.batching_changed_s,
            unloaded_s=old.unloaded_s,
            trials_failed=old.trials_failed,
            barred_until_s=old.barred_until_s,
            files_stamp=old.files_stamp,
            drift_failures=old.drift_failures,
            repairs=old.repairs,
            repaired_s=old.repaired_s,
        )
    is_busy = seen.name in snapshot.busy_models
    is_foreign = seen.loaded.batching not in (seen.model.batching, old.sized_batching)
    memory = replace(
        old,
        moving_since_s=moving_since_s,
        dead_since_s=_dead_since_s(seen, old, is_busy, now_s),
        foreign_since_s=_since(old.foreign_since_s, is_foreign and not is_busy, now_s),
    )
    if seen.rates.window_s <= 0:
        memory = replace(
            memory,
            pressed_since_s=None,
            slack_since_s=None,
            idle_since_s=None,
            failing_since_s=None,
            steady_since_s=None,
        )
    elif not is_busy and (old.changed_s is None or old.changed_s <= now_s - seen.rates.window_s):
        memory = _track_load(seen, memory, limits, now_s)
    is_well = memory.dead_since_s is None and memory.failing_since_s is None
    if memory.repairs and memory.repaired_s is not None and is_well and now_s - memory.repaired_s >= HEALTHY_S:
        memory = replace(memory, repairs=0)
    return memory


def _dead_since_s(seen: ModelSnapshot, old: ModelMemory, is_busy: bool, now_s: float) -> float | None:
    if not seen.loaded.is_python_based or is_busy:
        return None
    if seen.live_instances is None:  # not seen this time, which says nothing
        return old.dead_since_s
    return _since(old.dead_since_s, seen.live_instances < seen.loaded.instances, now_s)


def _track_load(seen: ModelSnapshot, old: ModelMemory, limits: Limits, now_s: float) -> ModelMemory:
    rates, instances, settings = seen.rates, max(1, seen.loaded.instances), limits.settings
    is_first = old.items_per_s == 0 and old.busy_instances == 0
    busy_now = min(float(instances), rates.busy_instances)
    busy = _smooth(old.busy_instances, busy_now, rates.window_s, LOAD_TIME_CONSTANT_S)
    waiting = _smooth(old.waiting_requests, rates.waiting_requests, rates.window_s, LOAD_TIME_CONSTANT_S)

    def arriving_per_s(old_per_s: float, time_constant_s: float) -> float:
        # The first arrivals are believed as they are; a long memory that starts at 0 would take half a minute to rise.
        new_per_s = rates.items_per_s
        return new_per_s if is_first else _smooth(old_per_s, new_per_s, rates.window_s, time_constant_s)

    arrivals = arriving_per_s(old.items_per_s, ARRIVAL_TIME_CONSTANT_S)
    recent = arriving_per_s(old.recent_items_per_s, RECENT_TIME_CONSTANT_S)
    is_pressed = busy / instances > settings.grow_busy_ratio and waiting >= MIN_WAITING_REQUESTS
    is_steady = abs(recent - arrivals) <= STEADY_RATIO * arrivals
    # An instance that fails at once looks as calm as one with nothing to do.
    # By the window itself: a mean that fades would hold the shrinking up, and one busy window ends the calm as well.
    is_slack = instances > 1 and rates.failures_per_s == 0 and busy_now / (instances - 1) < settings.shrink_busy_ratio
    is_idle = rates.requests_per_s == 0 and rates.failures_per_s == 0 and rates.waiting_requests == 0
    answers_per_s = rates.requests_per_s + rates.failures_per_s
    # One broken instance of n gets an n-th of the requests, and more when it fails faster than the others answer.
    is_failing = rates.failures_per_s > 0 and rates.failures_per_s >= answers_per_s / (2 * instances)
    curve = old.curve
    if rates.service_s is not None and rates.items_per_execution is not None:
        curve = curve.observe(rates.items_per_execution, rates.service_s, now_s=now_s)
    return replace(
        old,
        curve=curve,
        recent_items_per_s=recent,
        steady_since_s=_since(old.steady_since_s, is_steady, now_s),
        items_per_s=arrivals if arrivals >= NO_ARRIVALS_PER_S else 0.0,
        busy_instances=busy,
        waiting_requests=waiting,
        pressed_since_s=_since(old.pressed_since_s, is_pressed, now_s),
        # What a whole window shows has held since it began.
        slack_since_s=_since(old.slack_since_s, is_slack, now_s - rates.window_s),
        idle_since_s=_since(old.idle_since_s, is_idle, now_s - rates.window_s),
        # A window without an answer says nothing of whether it would have been an error.
        failing_since_s=_since(old.failing_since_s, is_failing, now_s) if answers_per_s else old.failing_since_s,
    )


def _since(since_s: float | None, holds: bool, now_s: float) -> float | None:
    if not holds:
        return None
    return now_s if since_s is None else since_s


def _smooth(old: float, new: float, window_s: float, time_constant_s: float) -> float:
    # By the window's length, not by a fixed weight: a step that came late must not count like one in time.
    kept = math.exp(-window_s / time_constant_s)
    return old * kept + new * (1 - kept)
