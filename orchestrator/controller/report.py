"""What a controller reports: each step to the status page, the metrics and the terminal, and what is new to the log.

Each action is logged, and everything else only when it changes. A refusal that stands for an hour is one line, not
3600; its numbers move with every reading and do not make it new.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from orchestrator.controller.observer import Observation
from orchestrator.planner.actions import Action, Notice, Numbers, Outcome, Plan, Refusal
from orchestrator.planner.energy import EnergyAccount
from orchestrator.planner.host import Limits
from orchestrator.planner.state import SchedulerState
from orchestrator.snapshot import Family, ServerName

log = logging.getLogger(__name__)

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
        seen: What was observed; all timers in ``state`` and the snapshot are on the clock of its ``at_s``.
        steps: The number of steps so far, this one included.
        plan: The plan made of the snapshot; None without one.
        state: What a plan remembers, after the step.
        step_s: The time that the step took without its actions.
        recent: The last actions, oldest first.
        families: The families that are looked after, as last seen; none until a repository has been read.
        energy: Joules since the controller started, up to this step.
    """

    server: ServerName
    unix_s: float
    seen: Observation
    steps: int
    plan: Plan | None
    state: SchedulerState
    limits: Limits
    plan_s: float
    step_s: float
    recent: tuple[ActionRecord, ...] = ()
    families: tuple[Family, ...] = ()
    energy: EnergyAccount = field(default_factory=EnergyAccount)

    @property
    def has_failed(self) -> bool:
        """Whether Triton could not be observed, or one of the last actions failed."""
        return self.seen.snapshot is None or any(record.error is not None for record in self.recent)


class StepLog:
    """Logs what is new in a step, and keeps the last actions for the status page."""

    def __init__(self, server: ServerName, *, wall_clock: Callable[[], float]) -> None:
        self._server = server
        self._wall_clock = wall_clock
        self._records: list[ActionRecord] = []
        self._logged: dict[object, str] = {}
        self._trouble: str | None = None
        self._misfits: Mapping[str, str] = {}

    @property
    def recent(self) -> tuple[ActionRecord, ...]:
        """The last actions, oldest first."""
        return tuple(self._records)

    def note_trouble(self, trouble: str | None) -> None:
        """Log trouble when it begins and when it is over; while it lasts its wording may change."""
        if trouble is not None and self._trouble is None:
            log.warning("server %s: %s", self._server, trouble)
        elif trouble is None and self._trouble is not None:
            log.info("server %s can be observed again", self._server)
        self._trouble = trouble

    def note_misfits(self, misfits: Mapping[str, str]) -> None:
        """Log models that are left out, each when it or its reason is new."""
        for model, reason in misfits.items() - self._misfits.items():
            log.warning("%s: model %s is left out: %s", self._server, model, reason)
        self._misfits = misfits

    def note_plan(self, plan: Plan, *, is_dry: bool) -> None:
        """Log refusals, notices and, of a plan that nobody will carry out, actions, each when it is new."""
        texts: dict[object, str] = {}  # by what makes it new; the numbers are no part of that
        for refusal in plan.refusals:
            texts[("refusal", refusal.kind, refusal.model, refusal.reason, refusal.detail)] = _refusal_text(refusal)
        for notice in plan.notices:
            texts[("notice", notice.kind, notice.model, notice.detail)] = _notice_text(notice)
        for action in plan.actions if is_dry else ():
            texts[("action", action.kind, action.model, action.reason, action.instances, action.batching)] = (
                f"would {_action_text(action)}"
            )
        for key, text in texts.items():
            if key not in self._logged:
                log.log(logging.INFO if text.startswith("would") else logging.WARNING, "%s: %s", self._server, text)
        self._logged = texts

    def note_ended(self, outcome: Outcome) -> None:
        """Log and remember an action that ended."""
        took_s = outcome.ended_s - outcome.began_s
        model = outcome.action.model
        self._records = [r for r in self._records if not (r.is_under_way and r.action.model == model)]
        self._remember(ActionRecord(self._wall_clock(), outcome.action, took_s, outcome.error))
        memory = ""
        if outcome.memory_before_bytes is not None and outcome.memory_after_bytes is not None:
            memory = f" memory_change_bytes={outcome.memory_after_bytes - outcome.memory_before_bytes}"
        late = " late" if outcome.is_late else ""
        text = f"{_action_text(outcome.action)} took_s={took_s:.3f}{memory}{late}"
        if outcome.error is None:
            log.info("%s: %s", self._server, text)
        else:
            log.warning("%s: %s failed: %s", self._server, text, outcome.error)

    def note_left(self, action: Action, *, took_s: float) -> None:
        """Log and remember an action that goes on by itself."""
        self._remember(ActionRecord(self._wall_clock(), action, took_s, is_under_way=True))
        log.warning(
            "%s: %s has not ended after %.3f s and goes on by itself; nothing that needs memory is begun meanwhile",
            self._server,
            _action_text(action),
            took_s,
        )

    def note_withheld(self, action: Action, why: str) -> None:
        """Log an action that must wait; at debug level, because it is planned again with every step."""
        log.debug("%s: %s is withheld, %s", self._server, _action_text(action), why)

    def _remember(self, record: ActionRecord) -> None:
        self._records = [*self._records, record][-RECENT_ACTIONS:]


def _action_text(action: Action) -> str:
    batching = action.batching
    parts = [f"{action.kind} {action.model} ({action.reason}) instances={action.instances}"]
    if batching.delay_us or batching.preferred_sizes:
        sizes = ",".join(str(size) for size in batching.preferred_sizes) or "none"
        parts.append(f"delay_us={batching.delay_us} preferred_sizes={sizes}")
    if action.is_forced:
        parts.append("forced")
    return " ".join([*parts, *_number_texts(action.numbers)])


def _refusal_text(refusal: Refusal) -> str:
    parts = [f"{refusal.kind} {refusal.model} is refused ({refusal.reason})", *_number_texts(refusal.numbers)]
    return " ".join(parts) + (f": {refusal.detail}" if refusal.detail else "")


def _notice_text(notice: Notice) -> str:
    about = f" {notice.model}" if notice.model is not None else ""
    parts = [f"notice {notice.kind}{about}", *_number_texts(notice.numbers)]
    return " ".join(parts) + (f": {notice.detail}" if notice.detail else "")


def _number_texts(numbers: Numbers) -> list[str]:
    return [f"{name}={int(value) if float(value).is_integer() else round(value, 4)}" for name, value in numbers]
