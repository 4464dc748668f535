"""Whether a server, and each of its models, may be sent anything; a state without a clock, a loop or a connection.

Several things can be wrong, and each takes out as little as it must:

- A server that can't be reached, or answers nothing any more, is out as a whole. After a stall it returns only when
  its models have answered blank items again: one that hangs may well go on saying that it is ready.
- A server that does harm is ejected for a time.
- A model that has left a batch overdue is suspect, and its server as a whole where it has answered nothing else since:
  others are taken while there are any.
- A model that fails (a Python stub that died keeps its model "ready"), or leaves a batch unanswered while others
  answer, is out alone, and returns when it has answered blank items; it is tried again after 1, 2, 4, … seconds.
- A model that answers the golden probe wrong is out alone too, until it answers it right.
- A model that is new, and in no profile, is tried on blank items before it is used; so the first decisions rest on
  measured times.

Times are seconds on the event loop's clock. Who is ejected is decided in orchestrator.router.servers.ejection_rules.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from orchestrator.config import EjectionSettings
from orchestrator.snapshot import ModelName

_RECHECK_S = 0.25  # so that a server that returns is used again within a second
_SHORTEST_PAUSE_S = 0.05
_BLIP_S = 1.0  # a server that was away for less comes back with its full in-flight budget
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 30.0
_MOST_DOUBLINGS = 32  # far beyond the longest back-off or ejection, far below what a float holds
_FIRST_SHARE = 0.1
"""Of the in-flight budget that a returning server gets at once; less would leave no batch to learn from."""


@dataclass(frozen=True, slots=True)
class TimedRun:
    """How long a server took for what ended at ``at_s``, and how long its profile had given it, which is above 0."""

    at_s: float
    observed_s: float
    expected_s: float


class BackOff(NamedTuple):
    """A model that is out is not tried again before ``until_s``, after so many failures in a row."""

    failures: int = 0
    until_s: float = -math.inf


_TRY_NOW = BackOff()


@dataclass(slots=True)
class ServerHealth:
    """What is known of a server's state, changed by what happens to it.

    It has a method for each thing that can happen, and a question for each that depends on it: so all rules about the
    state of one server are here, and nobody else changes it.

    Attributes:
        problem: Why the server is out as a whole, in words; None while it answers.
        is_suspect: Whether it has an overdue batch and has answered nothing since that was sent.
        suspects: Models that have an overdue batch and have answered nothing since that was sent, each with when it
            was; replaced when it changes.
        answered_s: When each model last answered a batch.
        probed_s: When each model was last asked a golden probe that it answered, but for trials.
        heard_s: When it last answered anything.
        suspended: Models that may not be sent anything, each with its back-off; replaced when it changes.
        failures_in_row: Attempts that failed since the last that did not. Those that were under way together count as
            one, because they failed of the same thing.
        failed_s: When the last attempt failed; None when none has.
        runs: The last runs, oldest first.
        ejections: How many ejections count for the length of the next one.
        ejected_until_s: When the ejection ends; None while the server is not ejected.
        returned_s: When the server last came back; None when it was never away.
    """

    problem: str | None = "not asked yet"
    is_suspect: bool = False
    suspects: Mapping[ModelName, float] = field(default_factory=dict)
    answered_s: dict[ModelName, float] = field(default_factory=dict)
    probed_s: dict[ModelName, float] = field(default_factory=dict)
    heard_s: float = -math.inf
    suspended: Mapping[ModelName, BackOff] = field(default_factory=dict)
    failures_in_row: int = 0
    failed_s: float | None = None
    runs: tuple[TimedRun, ...] = ()
    ejections: int = 0
    ejected_until_s: float | None = None
    returned_s: float | None = None
    _away_since_s: float | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the server answered when it was last asked, and is not ejected."""
        return self.problem is None and self.ejected_until_s is None

    def note_answer(self, model: ModelName, *, now_s: float) -> None:
        """Note that a model has answered a batch."""
        self.heard_s = self.answered_s[model] = now_s
        self.failures_in_row = 0
        if self.suspects:
            self.suspects = {name: sent_s for name, sent_s in self.suspects.items() if name != model}

    def was_used(self, model: ModelName) -> bool:
        """Return whether a model has answered a batch since it was last probed, or never was."""
        return self.answered_s.get(model, -math.inf) >= self.probed_s.get(model, -math.inf)

    def note_overdue(self, model: ModelName, *, sent_s: float) -> None:
        """Note that a model should have answered a batch by now that was sent at ``sent_s``."""
        if self.answered_s.get(model, -math.inf) <= sent_s:
            self.suspects = {model: sent_s, **self.suspects}
            self.is_suspect = max(self.answered_s.values(), default=-math.inf) <= sent_s

    def note_failure(self, *, sent_s: float, now_s: float) -> None:
        """Note that an attempt that was sent at ``sent_s`` failed."""
        if self.failed_s is None or sent_s >= self.failed_s:
            self.failures_in_row += 1
            self.failed_s = now_s

    def note_run(self, run: TimedRun, settings: EjectionSettings) -> None:
        """Note how long the server took for a run."""
        self.runs = (*self.runs, run)[-settings.latency_runs :]

    def note_unreachable(self, problem: str, *, now_s: float) -> bool:
        """Take the server out as a whole; return whether it was not out before."""
        is_new = self.problem is None
        if is_new:
            self._away_since_s = now_s
        self.problem = problem
        return is_new

    def note_reachable(self, *, now_s: float) -> bool:
        """Note that the server says what it serves; return whether it was out before."""
        if self.problem is None:
            return False
        if self._away_since_s is not None and now_s - self._away_since_s >= _BLIP_S and self.ejected_until_s is None:
            self.readmit(now_s=now_s)
        self.problem, self.is_suspect = None, False
        return True

    def eject(self, models: Iterable[ModelName], settings: EjectionSettings, *, now_s: float) -> float:
        """Leave the server out for a time, then until its models have answered blank items; return when that ends.

        The time is twice as long for each ejection that still counts. Each ``ejection_s`` of good behaviour since the
        return takes one off.
        """
        good_s = now_s - self.returned_s if self.returned_s is not None else 0.0
        counted = max(0, self.ejections - math.floor(good_s / settings.ejection_s))
        length_s = min(settings.ejection_max_s, settings.ejection_s * 2.0 ** min(counted, _MOST_DOUBLINGS))
        self.ejections, self.ejected_until_s = counted + 1, now_s + length_s
        self.suspend(models)
        return self.ejected_until_s

    def readmit(self, *, now_s: float) -> None:
        """Take the server as one that has come back, with nothing held against it but how often it was ejected."""
        self.failures_in_row, self.failed_s, self.runs = 0, None, ()
        self.ejected_until_s, self.returned_s = None, now_s

    def share(self, settings: EjectionSettings, *, now_s: float) -> float:
        """Return which part of its in-flight budget the server is given, in (0, 1]."""
        if self.returned_s is None or settings.slow_start_s == 0:
            return 1.0
        return min(1.0, max(_FIRST_SHARE, (now_s - self.returned_s) / settings.slow_start_s))

    def suspend(self, models: Iterable[ModelName], back_off: BackOff = _TRY_NOW) -> None:
        """Take models out until they have answered; those that are out already keep their back-off."""
        self.suspended = {**dict.fromkeys(models, back_off), **self.suspended}

    def back_off(self, model: ModelName, *, now_s: float) -> None:
        """Take a model out that has failed, until it has answered; it is tried after a while, longer each time."""
        failures = self.suspended.get(model, _TRY_NOW).failures
        pause_s = min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** min(failures, _MOST_DOUBLINGS))
        self.suspended = {**self.suspended, model: BackOff(failures + 1, now_s + pause_s)}

    def back_s(self, model: ModelName, *, now_s: float) -> float | None:
        """Return when a model may be expected to answer again; None when nothing is known against it.

        What has been silent for some time is expected to be so for as long again.
        """
        times_s = [] if self.is_healthy else [now_s]
        if (since_s := self.silent_since_s(model)) is not None:
            times_s.append(2 * now_s - since_s)
        if model in self.suspended:
            times_s.append(max(now_s, self.suspended[model].until_s))
        return max(times_s, default=None)

    def is_alone(self, model: ModelName) -> bool:
        """Return whether a model is suspect and its server is not, because something else has answered."""
        return model in self.suspects and not self.is_suspect

    def silent_since_s(self, model: ModelName) -> float | None:
        """Return since when a model that is suspect, or whose server is, has answered nothing; None when it is not."""
        if self.is_suspect:
            return min(self.suspects.values(), default=None)
        return self.suspects.get(model)

    def restore(self, model: ModelName) -> None:
        """Let a model be used again that has answered."""
        self.suspended = {name: back_off for name, back_off in self.suspended.items() if name != model}

    def keep(self, models: Iterable[ModelName]) -> None:
        """Forget what is known of all models but these."""
        kept = set(models)
        if not self.suspended.keys() <= kept:
            self.suspended = {name: back_off for name, back_off in self.suspended.items() if name in kept}

    def is_trial_due(self, model: ModelName, *, now_s: float) -> bool:
        """Return whether a model is out and may be tried now."""
        back_off = self.suspended.get(model)
        return back_off is not None and self.ejected_until_s is None and now_s >= back_off.until_s

    def pause_s(self, period_s: float, *, now_s: float) -> float:
        """Return how long to wait before the server is asked again: a period, or until a model may be tried."""
        if not self.is_healthy:
            return _RECHECK_S
        waits_s = [back_off.until_s - now_s for back_off in self.suspended.values()]
        return max(_SHORTEST_PAUSE_S, min([period_s, *waits_s]))
