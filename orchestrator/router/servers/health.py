"""Whether a server, and each of its models, may be sent anything; a state without a clock, a loop or a connection.

Several things can be wrong, and each takes out as little as it must:

- A server that can't be reached, or leaves a batch unanswered, is out as a whole. After a stall it returns only when
  its models have answered blank items again: one that hangs may well go on saying that it is ready.
- A server that does harm is ejected for a time; see orchestrator.router.servers.ejection.
- A model that fails (a Python stub that died keeps its model "ready") is out alone, and returns when it has answered
  blank items; it is tried again after 1, 2, 4, … seconds.
- A model that answers the golden probe wrong is out alone too, until it answers it right.
- A model that is new, and in no profile, is tried on blank items before it is used; so the first decisions rest on
  measured times.

Times are seconds on the event loop's clock. What depends on them is decided by values that return their successors
(``BackOff``, ``EjectionState``); ``ServerHealth`` holds the current ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from orchestrator.config import EjectionSettings
from orchestrator.router.servers.ejection import EjectionState
from orchestrator.snapshot import ModelName

_RECHECK_S = 0.25  # so that a server that returns is used again within a second
_SHORTEST_PAUSE_S = 0.05
_BLIP_S = 1.0  # a server that was away for less comes back with its full in-flight budget
_FIRST_BACK_OFF_S = 1.0
_LONGEST_BACK_OFF_S = 30.0
_MOST_DOUBLINGS = 32  # far beyond the longest back-off, far below what a float holds


@dataclass(frozen=True, slots=True)
class BackOff:
    """A model that is out is not tried again before ``until_s``, after so many failures in a row."""

    failures: int = 0
    until_s: float = -math.inf

    def after_failure(self, *, now_s: float) -> BackOff:
        """Return the next, longer back-off."""
        pause_s = min(_LONGEST_BACK_OFF_S, _FIRST_BACK_OFF_S * 2.0 ** min(self.failures, _MOST_DOUBLINGS))
        return BackOff(self.failures + 1, now_s + pause_s)


TRY_NOW = BackOff()


@dataclass(slots=True)
class ServerHealth:
    """What is known of a server's state, changed by what happens to it.

    Attributes:
        problem: Why the server is out as a whole, in words; None while it answers.
        is_suspect: Whether it has an overdue batch and has answered nothing since that was sent.
        heard_s: When it last answered anything.
        suspended: Models that may not be sent anything, each with its back-off; replaced when it changes.
        ejection: The state of its ejection.
    """

    problem: str | None = "not asked yet"
    is_suspect: bool = False
    heard_s: float = -math.inf
    suspended: Mapping[ModelName, BackOff] = field(default_factory=dict)
    ejection: EjectionState = field(default_factory=EjectionState)
    _away_since_s: float | None = None

    @property
    def is_healthy(self) -> bool:
        """Whether the server answered when it was last asked, and is not ejected."""
        return self.problem is None and self.ejection.ejected_until_s is None

    def note_answer(self, *, now_s: float) -> None:
        """Note that the server has answered a batch."""
        self.heard_s = now_s
        self.ejection = self.ejection.after_success()

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
        if self._away_since_s is not None and now_s - self._away_since_s >= _BLIP_S and not self.ejection.is_ejected:
            self.ejection = self.ejection.after_return(now_s=now_s)
        self.problem, self.is_suspect = None, False
        return True

    def eject(self, models: Iterable[ModelName], settings: EjectionSettings, *, now_s: float) -> float:
        """Leave the server out for a time, then until its models have answered blank items; return when that ends."""
        self.ejection, until_s = self.ejection.after_ejection(settings, now_s=now_s)
        self.suspend(models)
        return until_s

    def readmit(self, *, now_s: float) -> None:
        """End the server's ejection."""
        self.ejection = self.ejection.after_return(now_s=now_s)

    def suspend(self, models: Iterable[ModelName], back_off: BackOff = TRY_NOW) -> None:
        """Take models out until they have answered; those that are out already keep their back-off."""
        self.suspended = {**dict.fromkeys(models, back_off), **self.suspended}

    def back_off(self, model: ModelName, *, now_s: float) -> None:
        """Take a model out that has failed, until it has answered; it is tried after a while, longer each time."""
        self.suspended = {**self.suspended, model: self.suspended.get(model, TRY_NOW).after_failure(now_s=now_s)}

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
        return back_off is not None and not self.ejection.is_ejected and now_s >= back_off.until_s

    def pause_s(self, period_s: float, *, now_s: float) -> float:
        """Return how long to wait before the server is asked again: a period, or until a model may be tried."""
        if not self.is_healthy:
            return _RECHECK_S
        waits_s = [back_off.until_s - now_s for back_off in self.suspended.values()]
        return max(_SHORTEST_PAUSE_S, min([period_s, *waits_s]))
