"""A policy in the shadow of another: asked about the same decisions, compared, and never obeyed.

So a new policy meets real traffic before it may touch it. What it would have done is in the decision log beside what
was done, is counted (the same, another, or a fault), and is summed up in the log once in a while. It must cost little
and can't fail anything: it is asked after the decision, behind a breaker of its own, and not any more for a while when
it fails, or takes longer than its time budget, too often.

What it shows is whether a policy is sane and how often it differs, not how good it is: what it would have done would
have changed what came after.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config import GuardSettings
from orchestrator.decision import Candidate, Decision, Dispatch
from orchestrator.errors import UntrustedError
from orchestrator.policies import Breaker, Fault, Policy, Situation, find_fault
from orchestrator.router.observer import RouterObserver

log = logging.getLogger(__name__)

SAME = "same"
OTHER = "other"
FAULT = "fault"
_LOG_PERIOD_S = 60.0


class Shadow:
    """Asks a policy what it would do.

    Args:
        policy: to be asked; bound as the one that decides.
        settings: time budget, and when it is not asked any more.
        observer: is told of the comparisons.
        clock: in seconds, for how long the policy takes.
    """

    def __init__(
        self,
        policy: Policy,
        settings: GuardSettings,
        observer: RouterObserver,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self._settings = settings
        self._budget_s = None if settings.policy_time_budget_ms is None else settings.policy_time_budget_ms / 1e3
        self._observer = observer
        self._clock = clock
        self._is_warm = False
        self._breaker = Breaker()
        self._counts: Counter[str] = Counter()
        self._told_s: float | None = None

    def compare(
        self, decision: Decision, candidates: Sequence[Candidate], situation: Situation, *, is_idle: bool
    ) -> dict[str, Any] | None:
        """Return what the policy would have done, as JSON values; None while it is not asked. Never raises.

        Args:
            decision: that was made.
            candidates: it was made among.
            situation: it was made in.
            is_idle: whether no server has anything to do.
        """
        now_s = situation.now_s
        if self._breaker.is_open(now_s):
            return None
        began_s = self._clock()
        fault: Fault | None
        own: Decision | None = None
        try:
            own = self.policy.choose(candidates, situation)
            fault = find_fault(own, candidates, situation, binding=self.policy.binding, is_idle=is_idle)
        except UntrustedError:
            fault = Fault.OUT_OF_RANGE
        except Exception as exc:  # whatever a policy raises
            fault = Fault.RAISED
            log.debug("shadow policy %s raised %s: %s", self.policy.name, type(exc).__name__, exc)
        took_s = self._clock() - began_s
        if fault is None and self._is_warm and self._budget_s is not None and took_s > self._budget_s:
            fault = Fault.SLOW
        self._is_warm = True
        self._note(fault, now_s)
        chosen = own.candidate if isinstance(own, Dispatch) else None
        outcome = FAULT if fault is not None else SAME if _is_same(own, decision) else OTHER
        self._counts[outcome] += 1
        self._observer.on_shadow(outcome)
        self._tell(now_s)
        return {
            "policy": self.policy.name,
            "outcome": outcome,
            "fault": fault,
            "reason": None if own is None else getattr(own, "reason", None),
            "choice": chosen and {"server": chosen.server, "width": chosen.width, "items": chosen.items},
        }

    def _note(self, fault: Fault | None, now_s: float) -> None:
        if fault is Fault.OUT_OF_RANGE:  # it says so by itself, at no cost
            return
        if fault is None:
            self._breaker = self._breaker.worked()
            return
        self._breaker = self._breaker.failed(
            now_s, limit=self._settings.faults, window_s=self._settings.faults_window_s, pause_s=self._settings.pause_s
        )

    def _tell(self, now_s: float) -> None:
        """Sum up once in a while."""
        if self._told_s is None:
            self._told_s = now_s
        if now_s - self._told_s < _LOG_PERIOD_S:
            return
        self._told_s = now_s
        asked = sum(self._counts.values())
        log.info(
            "shadow policy %s would have decided the same in %d of %d decisions, otherwise in %d, and failed in %d",
            self.policy.name,
            self._counts[SAME],
            asked,
            self._counts[OTHER],
            self._counts[FAULT],
        )
        self._counts.clear()


def _is_same(one: Decision | None, other: Decision) -> bool:
    """Return whether two decisions send the same group to the same width of the same server, or both send nothing."""
    if isinstance(one, Dispatch) and isinstance(other, Dispatch):
        left, right = one.candidate, other.candidate
        return (left.server, left.width, left.items) == (right.server, right.width, right.items)
    return type(one) is type(other)
