"""What a controller tells of itself after each step; status page, metrics and terminal are all drawn from this."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.planner.actions import Action, Plan
from orchestrator.planner.host import HostSnapshot
from orchestrator.planner.limits import Limits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ServerName
from orchestrator.telemetry.reading import HostReading

RECENT_ACTIONS = 50


@dataclass(frozen=True, slots=True)
class ActionRecord:
    """One action that ended, or has gone on for longer than a step waits.

    Attributes:
        ended_unix_s: Wall-clock time at which it ended, or was left to itself.
        took_s: The time it took, or has taken when it was left to itself.
        error: The reason why it failed; None when it did not.
        is_under_way: True while it has not ended.
    """

    ended_unix_s: float
    action: Action
    took_s: float
    error: str | None = None
    is_under_way: bool = False


@dataclass(frozen=True, slots=True)
class StepReport:
    """One step and what led to it.

    Attributes:
        unix_s: Wall-clock time of the observation.
        now_s: The same moment on the controller's clock, which all timers in ``state`` and ``snapshot`` are on.
        steps: The number of steps so far, this one included.
        snapshot: The host; None when Triton could not be observed.
        trouble: What of Triton could not be read, in one line; beside a snapshot it is the metrics alone.
        reading: What telemetry told; None when it could not be read at all.
        plan: The plan made of the snapshot; None without one.
        state: What a plan remembers, after the step.
        step_s: The time that the step took without its actions.
        recent: The last actions, oldest first.
        family: The family that is looked after, as last seen; None until a repository has been read.
    """

    server: ServerName
    unix_s: float
    now_s: float
    steps: int
    snapshot: HostSnapshot | None
    trouble: str | None
    reading: HostReading | None
    plan: Plan | None
    state: SchedulerState
    limits: Limits
    plan_s: float
    step_s: float
    recent: tuple[ActionRecord, ...] = ()
    family: Family | None = None

    @property
    def has_failed(self) -> bool:
        """Whether Triton could not be observed, or one of the last actions failed."""
        return self.snapshot is None or any(record.error is not None for record in self.recent)
