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
from orchestrator.policies import Fault, Policy, Situation, find_fault
from orchestrator.router.dispatch.guarded_policy import PolicyGuard
from orchestrator.router.observer import RouterObserver

log = logging.getLogger(__name__)

SAME = "same"
OTHER = "other"
FAULT = "fault"
_LOG_PERIOD_S = 60.0


class Shadow:
    """Asks a policy, which is bound as the one that decides, what it would do; ``clock`` as for GuardedPolicy."""

    def __init__(
        self,
        policy: Policy,
        settings: GuardSettings,
        observer: RouterObserver,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self._observer = observer
        self._guard = PolicyGuard(settings, clock)
        self._counts: Counter[str] = Counter()
        self._logged_s: float | None = None

    def compare(
        self, decision: Decision, candidates: Sequence[Candidate], situation: Situation, *, is_idle: bool
    ) -> dict[str, Any] | None:
        """Return what the policy would have done, as JSON values; None while it is not asked. Never raises.

        Args:
            decision: The decision that was made.
            candidates: What it was made among.
            situation: The situation that it was made in.
            is_idle: Whether no server has anything to do.
        """
        if self._guard.is_open(situation.now_s):
            return None

        def decide() -> tuple[Decision, Fault | None]:
            own = self.policy.choose(candidates, situation)
            return own, find_fault(own, candidates, situation, binding=self.policy.binding, is_idle=is_idle)

        own, fault, detail, _ = self._guard.ask(decide, now_s=situation.now_s)
        if fault is Fault.RAISED:
            log.debug("shadow policy %s raised %s", self.policy.name, detail)
        outcome = FAULT if fault is not None else SAME if _is_same(own, decision) else OTHER
        self._counts[outcome] += 1
        self._observer.on_shadow(outcome)
        self._log_summary(situation.now_s)
        chosen = own.candidate if isinstance(own, Dispatch) else None
        return {
            "policy": self.policy.name,
            "outcome": outcome,
            "fault": fault,
            "reason": None if own is None else getattr(own, "reason", None),
            "choice": chosen and {"server": chosen.server, "width": chosen.width, "items": chosen.items},
        }

    def _log_summary(self, now_s: float) -> None:
        """Sum up once in a while."""
        if self._logged_s is None:
            self._logged_s = now_s
        if now_s - self._logged_s < _LOG_PERIOD_S:
            return
        self._logged_s = now_s
        log.info(
            "shadow policy %s would have decided the same in %d of %d decisions, otherwise in %d, and failed in %d",
            self.policy.name,
            self._counts[SAME],
            self._counts.total(),
            self._counts[OTHER],
            self._counts[FAULT],
        )
        self._counts.clear()


def _is_same(one: Decision | None, other: Decision) -> bool:
    """Return whether two decisions send the same batch to the same width of the same server, or both send nothing."""
    if isinstance(one, Dispatch) and isinstance(other, Dispatch):
        left, right = one.candidate, other.candidate
        return (left.server, left.width, left.items) == (right.server, right.width, right.items)
    return type(one) is type(other)
