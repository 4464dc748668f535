"""The plan of one host: see ``plan``."""

from __future__ import annotations

from orchestrator.scheduling.actions import Plan
from orchestrator.scheduling.host import HostSnapshot
from orchestrator.scheduling.limits import Limits
from orchestrator.scheduling.state import SchedulerState


def plan(snapshot: HostSnapshot, state: SchedulerState, limits: Limits, *, now_s: float) -> tuple[Plan, SchedulerState]:
    """Return what to do now, and the state to plan the next step with.

    Args:
        snapshot: the host now.
        state: as the last call returned it, with the outcomes of its actions recorded.
        limits: within which to stay.
        now_s: on a clock that never goes back.
    """
    del snapshot, limits, now_s
    return Plan(), state
