"""A policy that can't do harm: asked, timed and checked, and replaced by the fallback when it fails.

What is a fault and when a policy is not asked any more is decided in policies.circuit_breaker; here is what needs a
clock and a log. The fallback is one of the heuristics that come along; should it raise as well, that is a bug of ours
and goes to the caller of this.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.config import GuardSettings
from orchestrator.decision import Decision
from orchestrator.errors import UntrustedError
from orchestrator.policies import Binding, Breaker, CandidateSet, Fault, Policy
from orchestrator.router.observer import RouterObserver

log = logging.getLogger(__name__)

_LOG_PERIOD_S = 10.0


@dataclass(slots=True)
class _LogLine:
    """One kind of fault in the log: when it was last told, and how many were not told since."""

    told_s: float
    untold: int = 0


class GuardedPolicy:
    """Asks a policy, and the fallback in its place when the policy fails.

    Args:
        policy: to be asked.
        fallback: another, bound the same way.
        settings: time budget, and when the policy is not asked any more.
        observer: is told of decisions and fallbacks.
        clock: in seconds, for how long the policy takes.
    """

    def __init__(
        self,
        policy: Policy,
        fallback: Policy,
        settings: GuardSettings,
        observer: RouterObserver,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.policy = policy
        self.fallback = fallback
        self._settings = settings
        self._budget_s = None if settings.policy_time_budget_ms is None else settings.policy_time_budget_ms / 1e3
        self._observer = observer
        self._clock = clock
        self._is_warm = False  # the first decision may have to compile what decides
        self._breaker = Breaker()
        self._lines: dict[Fault, _LogLine] = {}

    @property
    def binding(self) -> Binding:
        """Of both."""
        return self.policy.binding

    def decide(
        self, candidate_set: CandidateSet, *, is_idle: bool, stale: str | None = None
    ) -> tuple[Decision, str, Fault | None]:
        """Return a decision, the name of the policy that made it, and the fault when it is the fallback's.

        Args:
            candidate_set: what could be done.
            is_idle: whether no server has anything to do.
            stale: what is known too little of for the policy to be asked; None: nothing.
        """
        now_s = candidate_set.situation.now_s
        if stale is not None:
            fault = Fault.STALE
            self._tell(fault, stale, now_s)
        elif self._breaker.is_open(now_s):
            fault, detail = Fault.CIRCUIT_OPEN, ""
        else:
            candidate_set.prepare(self.policy)
            began_s = self._clock()
            try:
                decision, found = candidate_set.decide(self.policy, is_idle=is_idle, binding=self.policy.binding)
            except UntrustedError as exc:
                fault, detail = Fault.OUT_OF_RANGE, str(exc)
                self._observer.on_decision(self._clock() - began_s)
            except Exception as exc:  # whatever a policy raises
                fault, detail = Fault.RAISED, f"{type(exc).__name__}: {exc}"
                self._observer.on_decision(self._clock() - began_s)
            else:
                took_s = self._clock() - began_s
                self._observer.on_decision(took_s)
                if found is None and self._is_warm and self._budget_s is not None and took_s > self._budget_s:
                    found = Fault.SLOW
                self._is_warm = True
                if found is None:
                    self._breaker = self._breaker.worked()
                    return decision, self.policy.name, None
                fault, detail = found, f"{took_s * 1e3:.1f} ms" if found is Fault.SLOW else f"{decision}"
            if fault is not Fault.OUT_OF_RANGE:  # one client's strange requests are nobody else's
                self._breaker = self._breaker.failed(
                    now_s,
                    limit=self._settings.faults,
                    window_s=self._settings.faults_window_s,
                    pause_s=self._settings.pause_s,
                )
            self._tell(fault, detail, now_s)
        self._observer.on_fallback(fault)
        return self.fallback.choose(candidate_set.candidates, candidate_set.situation), self.fallback.name, fault

    def _tell(self, fault: Fault, detail: str, now_s: float) -> None:
        """Log a fault, each kind at most once in a while: a broken policy fails with every request."""
        line = self._lines.get(fault)
        if line is not None and now_s - line.told_s < _LOG_PERIOD_S:
            line.untold += 1
            return
        more = f" ({line.untold} more of these since)" if line is not None and line.untold else ""
        self._lines[fault] = _LogLine(now_s)
        log.warning(
            "in place of policy %s, %s decides: %s, %s%s",
            self.policy.name,
            self.fallback.name,
            fault,
            detail[:200],
            more,
        )
        if self._breaker.is_open(now_s):
            log.warning("policy %s is not asked for %g s", self.policy.name, self._settings.pause_s)
