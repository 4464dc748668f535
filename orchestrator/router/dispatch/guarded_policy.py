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


Asked = tuple[Decision | None, Fault | None, str, float]
"""A policy's decision, None when it raised; its fault, with words for the log; and how long it took, in seconds."""


class PolicyGuard:
    """Asks one policy behind a circuit breaker, within a time budget on ``clock``, which returns seconds."""

    def __init__(self, settings: GuardSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._budget_s = None if settings.policy_time_budget_ms is None else settings.policy_time_budget_ms / 1e3
        self._clock = clock
        self._is_warm = False  # the first decision may have to compile what decides
        self._breaker = Breaker()

    def is_open(self, now_s: float) -> bool:
        """Return whether the policy is not to be asked now."""
        return self._breaker.is_open(now_s)

    def ask(self, decide: Callable[[], tuple[Decision, Fault | None]], *, now_s: float) -> Asked:
        """Return what ``decide`` does, which asks the policy and checks its decision; never raises."""
        began_s, settings = self._clock(), self._settings
        decision: Decision | None = None
        fault: Fault | None
        try:
            decision, fault = decide()
        except UntrustedError as exc:
            return None, Fault.OUT_OF_RANGE, str(exc), self._clock() - began_s  # one client's requests, not a failure
        except Exception as exc:  # whatever a policy raises
            fault, detail, took_s = Fault.RAISED, f"{type(exc).__name__}: {exc}", self._clock() - began_s
        else:
            took_s = self._clock() - began_s
            detail = "" if fault is None else f"{decision}"
            if fault is None and self._is_warm and self._budget_s is not None and took_s > self._budget_s:
                fault, detail = Fault.SLOW, f"{took_s * 1e3:.1f} ms"
            self._is_warm = True
        if fault is None:
            self._breaker = self._breaker.worked()
        else:
            self._breaker = self._breaker.failed(
                now_s, limit=settings.faults, window_s=settings.faults_window_s, pause_s=settings.pause_s
            )
        return decision, fault, detail, took_s


@dataclass(slots=True)
class _LogLine:
    """One kind of fault in the log: when it was last logged, and how many were suppressed since."""

    logged_s: float
    suppressed: int = 0


class GuardedPolicy:
    """Asks a policy, and the fallback, which is bound the same way, in its place when the policy fails.

    How long the policy takes is measured on ``clock``, which returns seconds.
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
        self._observer = observer
        self._guard = PolicyGuard(settings, clock)
        self._lines: dict[Fault, _LogLine] = {}

    @property
    def binding(self) -> Binding:
        """When both bind a request to a server and a width."""
        return self.policy.binding

    def decide(
        self, candidate_set: CandidateSet, *, is_idle: bool, stale: str | None = None
    ) -> tuple[Decision, str, Fault | None]:
        """Return a decision, the name of the policy that made it, and the fault when it is the fallback's.

        Args:
            candidate_set: What could be done.
            is_idle: Whether no server has anything to do.
            stale: What is known too little of for the policy to be asked; None: nothing.
        """
        policy, now_s = self.policy, candidate_set.situation.now_s
        if stale is not None:
            fault = Fault.STALE
            self._log(fault, stale, now_s)
        elif self._guard.is_open(now_s):
            fault = Fault.CIRCUIT_OPEN
        else:
            candidate_set.prepare(policy)
            decision, found, detail, took_s = self._guard.ask(
                lambda: candidate_set.decide(policy, is_idle=is_idle, binding=policy.binding), now_s=now_s
            )
            self._observer.on_decision(took_s)
            if found is None and decision is not None:
                return decision, policy.name, None
            fault = found or Fault.NOT_OFFERED
            self._log(fault, detail, now_s)
        self._observer.on_fallback(fault)
        return self.fallback.choose(candidate_set.candidates, candidate_set.situation), self.fallback.name, fault

    def _log(self, fault: Fault, detail: str, now_s: float) -> None:
        """Log a fault, each kind at most once in a while: a broken policy fails with every request."""
        line = self._lines.get(fault)
        if line is not None and now_s - line.logged_s < _LOG_PERIOD_S:
            line.suppressed += 1
            return
        more = f" ({line.suppressed} more of these since)" if line is not None and line.suppressed else ""
        self._lines[fault] = _LogLine(now_s)
        log.warning(
            "in place of policy %s, %s decides: %s, %s%s",
            self.policy.name,
            self.fallback.name,
            fault,
            detail[:200],
            more,
        )
        if self._guard.is_open(now_s):
            log.warning("policy %s is not asked for %g s", self.policy.name, self._settings.pause_s)
