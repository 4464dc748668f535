"""When a policy is not to be believed, and for how long the fallback then decides in its place.

A policy may be anything: a learned one, one of the user's. What it must keep to is checked here, purely: it chooses
among its candidates, and it does not let the head starve. Raising and taking too long are seen by the caller. One
fault costs one decision, which the fallback takes; many in a short time open a circuit breaker (Nygard, "Release It!",
2007), so that a broken policy is not asked, and waited for, hundreds of times a second. When its time is over one
decision is a trial: a fault opens it again at once, a good decision closes it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from orchestrator.decision import Candidate, Dispatch, Hold, Reason, Reject
from orchestrator.policies.protocol import Binding, Situation, is_sendable


class Fault(StrEnum):
    """Why the fallback decides; in one word each, for metrics."""

    RAISED = "raised"
    """It raised an exception."""
    NOT_OFFERED = "not_offered"
    """It chose what was no candidate, something without room, or nothing that is a decision with its reason."""
    SLOW = "slow"
    """It took longer than its time budget."""
    STARVING = "starving"
    """It held although nothing is under way anywhere, and named no time before the head is due."""
    OUT_OF_RANGE = "out_of_range"
    """It was shown what it was not trained on, and said so; that is no failure of it, and it is asked again at once."""
    STALE = "stale"
    """What is known of a server that could be chosen is too old; the policy was not asked and is not to blame."""
    CIRCUIT_OPEN = "circuit_open"
    """It was not asked, because it had failed too often."""


def find_fault(
    decision: object, candidates: Sequence[Candidate], situation: Situation, *, binding: Binding, is_idle: bool
) -> Fault | None:
    """Return what is wrong with whatever a policy decided about candidates, None when nothing is.

    With late binding it must choose something that has room. When no server has anything to do (``is_idle``) no answer
    will bring the next decision about. Its reason is written and counted, so it must be one of ours.
    """
    if not isinstance(getattr(decision, "reason", None), Reason):
        return Fault.NOT_OFFERED
    match decision:
        case Dispatch(choice):
            if not (isinstance(choice, Candidate) and is_sendable(choice, candidates, situation.queue)):
                return Fault.NOT_OFFERED
            if binding is Binding.LATE and not _has_room(choice, candidates):
                return Fault.NOT_OFFERED
            return None
        case Hold() as hold:
            is_starving = is_idle and candidates and not is_bounded(hold, situation)
            return Fault.STARVING if is_starving else None
        case Reject():
            return None
    return Fault.NOT_OFFERED


def is_bounded(hold: Hold, situation: Situation) -> bool:
    """Return whether a hold ends while that is of use to the head."""
    until_s = hold.until_s
    return until_s is not None and situation.now_s < until_s <= situation.queue.head_deadline_s  # NaN is neither


def _has_room(choice: Candidate, candidates: Sequence[Candidate]) -> bool:
    """Return whether what was chosen has room, by the candidates and not by what the policy says."""
    return any(c.has_room for c in candidates if (c.server, c.width) == (choice.server, choice.width))


@dataclass(frozen=True, slots=True)
class Breaker:
    """How often a policy failed lately; immutable, each method returns the next state.

    Attributes:
        faults: since ``since_s``.
        since_s: when the first of them was.
        until_s: the fallback decides until then; minus infinity: never opened since it last worked.
    """

    faults: int = 0
    since_s: float = -math.inf
    until_s: float = -math.inf

    def is_open(self, now_s: float) -> bool:
        """Return whether the policy is not even asked."""
        return now_s < self.until_s

    def failed(self, now_s: float, *, limit: int, window_s: float, pause_s: float) -> Breaker:
        """Return the state after a fault: open when it was a trial, or the ``limit``-th in ``window_s``."""
        is_trial = self.until_s > -math.inf
        is_fresh = now_s - self.since_s > window_s
        faults, since_s = (1, now_s) if is_fresh else (self.faults + 1, self.since_s)
        if is_trial or faults >= limit:
            return Breaker(until_s=now_s + pause_s)
        return Breaker(faults, since_s)

    def worked(self) -> Breaker:
        """Return the state after a good decision: closed. Faults of the window still count, a trial is over."""
        return Breaker(self.faults, self.since_s) if self.until_s > -math.inf else self
