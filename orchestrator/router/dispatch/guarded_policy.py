"""Policies that can't do harm: asked, timed and checked, one replaced by the fallback when it fails, one never obeyed.

What is a fault and when a policy is not asked any more is decided in policies.circuit_breaker; here is what needs a
clock and a log. The fallback is one of the heuristics that come along; should it raise as well, that is a bug of ours
and goes to the caller of this.

A policy in the *shadow* of another is asked about the same decisions and compared. So a new policy meets real traffic
before it may touch it. What it would have done is in the decision log beside what was done, is counted (the same,
another, or a fault), and is summed up in the log once in a while. It must cost little and can't fail anything: it is
asked after the decision, behind a breaker of its own, and not any more for a while when it fails, or takes longer than
its time budget, too often. What it shows is whether a policy is sane and how often it differs, not how good it is: what
it would have done would have changed what came after.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from orchestrator.config import GuardSettings
from orchestrator.decision import Candidate, Decision, Dispatch, Reason
from orchestrator.errors import UntrustedError
from orchestrator.policies.circuit_breaker import Breaker, Fault, find_fault
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.protocol import Binding, Policy, Situation
from orchestrator.router.observer import RouterObserver

log = logging.getLogger(__name__)

_LOG_PERIOD_S = 10.0
_SUMMARY_PERIOD_S = 60.0

Asked = tuple[Decision | None, Fault | None, str, float]
"""A policy's decision, None when it raised; its fault, with words for the log; and how long it took, in seconds."""


class PolicyGuard:
    """Asks one policy behind a circuit breaker, within a time budget on ``clock``, which returns seconds."""

    def __init__(self, settings: GuardSettings, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._budget_s = None if settings.policy_time_budget_ms is None else settings.policy_time_budget_ms / 1e3
        self._clock = clock
        self._is_warm = False  # the first decision may have to compile what decides
        self.breaker = Breaker()

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
            self.breaker = self.breaker.worked()
        else:
            self.breaker = self.breaker.failed(
                now_s, limit=settings.faults, window_s=settings.faults_window_s, pause_s=settings.pause_s
            )
        return decision, fault, detail, took_s


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
        self._logged_s: dict[Fault, float] = {}
        self._suppressed: Counter[Fault] = Counter()  # since then

    @property
    def binding(self) -> Binding:
        """When both bind a request to a server and a width."""
        return self.policy.binding

    def is_paused(self, now_s: float) -> bool:
        """Return whether the policy is not asked for now, because it has failed too often."""
        return self._guard.breaker.is_open(now_s)

    def decide(
        self, candidate_set: CandidateSet, *, is_idle: bool, stale: str | None = None
    ) -> tuple[Decision, str, Fault | None]:
        """Return a decision, the name of the policy that made it, and the fault when it is the fallback's.

        ``is_idle`` is whether no server has anything to do, ``stale`` what is known too little of for the policy to be
        asked.
        """
        policy, now_s = self.policy, candidate_set.situation.now_s
        if stale is not None:
            fault = Fault.STALE
            self._log(fault, stale, now_s)
        elif self._guard.breaker.is_open(now_s):
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
        if now_s - self._logged_s.get(fault, -math.inf) < _LOG_PERIOD_S:
            self._suppressed[fault] += 1
            return
        suppressed = self._suppressed.pop(fault, 0)
        more = f" ({suppressed} more of these since)" if suppressed else ""
        self._logged_s[fault] = now_s
        log.warning(
            "in place of policy %s, %s decides: %s, %s%s",
            self.policy.name,
            self.fallback.name,
            fault,
            detail[:200],
            more,
        )
        if self._guard.breaker.is_open(now_s):
            log.warning("policy %s is not asked for %g s", self.policy.name, self._settings.pause_s)


class Shadow:
    """Asks a policy, which is bound as the one that decides, what it would do; ``clock`` as for GuardedPolicy.

    Attributes:
        outcomes: How often it compared how: ``same``, ``other`` or ``fault``.
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
        self._observer = observer
        self._guard = PolicyGuard(settings, clock)
        self.outcomes: Counter[str] = Counter()
        self._summed_up: Counter[str] = Counter()
        self._logged_s: float | None = None

    def is_paused(self, now_s: float) -> bool:
        """Return whether the policy is not asked for now, because it has failed too often."""
        return self._guard.breaker.is_open(now_s)

    def compare(
        self, decision: Decision, candidates: Sequence[Candidate], situation: Situation, *, is_idle: bool
    ) -> dict[str, Any] | None:
        """Return what the policy would have done in place of ``decision``, as JSON values; never raises.

        None while it is not asked. ``is_idle`` is whether no server has anything to do.
        """
        if self.is_paused(situation.now_s):
            return None

        def decide() -> tuple[Decision, Fault | None]:
            own = self.policy.choose(candidates, situation)
            return own, find_fault(own, candidates, situation, binding=self.policy.binding, is_idle=is_idle)

        own, fault, detail, _ = self._guard.ask(decide, now_s=situation.now_s)
        if fault is Fault.RAISED:
            log.debug("shadow policy %s raised %s", self.policy.name, detail)
        outcome = "fault" if fault is not None else "same" if _is_same(own, decision) else "other"
        self.outcomes[outcome] += 1
        self._observer.on_shadow(outcome)
        self._sum_up(situation.now_s)
        # What is no decision may hold anything, and this is written.
        chosen = own.candidate if isinstance(own, Dispatch) and isinstance(own.candidate, Candidate) else None
        reason = getattr(own, "reason", None)
        return {
            "policy": self.policy.name,
            "outcome": outcome,
            "fault": fault,
            "reason": reason if isinstance(reason, Reason) else None,
            "choice": chosen and {"server": chosen.server, "width": chosen.width, "items": chosen.items},
        }

    def _sum_up(self, now_s: float) -> None:
        if self._logged_s is None:
            self._logged_s = now_s
        if now_s - self._logged_s < _SUMMARY_PERIOD_S:
            return
        self._logged_s = now_s
        counts = self.outcomes - self._summed_up
        self._summed_up = self.outcomes.copy()
        log.info(
            "shadow policy %s would have decided the same in %d of %d decisions, otherwise in %d, and failed in %d",
            self.policy.name,
            counts["same"],
            counts.total(),
            counts["other"],
            counts["fault"],
        )


def _is_same(one: Decision | None, other: Decision) -> bool:
    """Return whether two decisions send the same batch to the same width of the same server, or both send nothing."""
    if isinstance(one, Dispatch) and isinstance(other, Dispatch):
        left, right = one.candidate, other.candidate
        return (left.server, left.width, left.items) == (right.server, right.width, right.items)
    return type(one) is type(other)
