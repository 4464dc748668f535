"""Which policies a router's settings name, each behind its guard, and the one that decides in its shadow.

About requests that bring a preference every policy leaves the decision to ``PreferredPolicy``: what is fitted is fitted
to what the operator weighs, and would pay no heed to what a caller does.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from orchestrator.config import RouterSettings
from orchestrator.config.section import PolicyChecks
from orchestrator.decision import Decision, Hold
from orchestrator.errors import ConfigError, PermanentError
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.learned.policy import (
    FITTED,
    LearnedPolicy,
    is_fitted,
    is_learned,
    parse_fitted,
    parse_learned,
)
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preferred import PreferredPolicy
from orchestrator.policies.protocol import Binding, ObservingPolicy, Policy, rebind
from orchestrator.policies.registry import RulePolicy
from orchestrator.router.dispatch.decision_log import DecisionLog, Record
from orchestrator.router.dispatch.guarded_policy import GuardedPolicy, Shadow
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import Family

log = logging.getLogger(__name__)


class Decided(NamedTuple):
    """A decision.

    Attributes:
        policy: The policy that made it, and ``binding`` when that binds.
        record: What the log says of it; None when it is not sampled.
        now_s: As of when it was made, on the event loop's clock.
    """

    decision: Decision
    policy: str
    binding: Binding
    record: Record | None
    now_s: float


class Trial(NamedTuple):
    """A candidate that decides in a part of the time.

    Attributes:
        policies: As of ``Deciders``.
        decides: Returns whether it does at a moment of the event loop's clock.
    """

    policies: dict[bool, GuardedPolicy]
    decides: Callable[[float], bool]


@dataclass(frozen=True, slots=True)
class Deciders:
    """Who decides.

    Attributes:
        policies: The policies for requests without a preference (False) and for those with one (True).
        observing: Those of them, fallbacks included, that want to know what becomes of batches; each once, however
            often it stands in for others, because what it remembers is one for all.
        shadow: The policy that is asked beside them, and of which nothing comes; None: there is none.
        trial: The candidate that decides in their place in a part of the time; None: there is none.
        standing: What is in force since when and why, as JSON values, for the log.
    """

    policies: dict[bool, GuardedPolicy]
    observing: tuple[ObservingPolicy, ...]
    shadow: Shadow | None = None
    trial: Trial | None = None
    standing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def sees_devices(self) -> bool:
        """Whether one of them, or who is in the shadow or on trial, is a learned policy."""
        asked = [guarded.policy for guarded in self.policies.values()]
        if self.trial is not None:
            asked += [guarded.policy for guarded in self.trial.policies.values()]
        if self.shadow is not None:
            asked.append(self.shadow.policy)
        return any(isinstance(getattr(policy, "policy", policy), LearnedPolicy) for policy in asked)  # also rebound

    def only_width(self, *, has_preference: bool) -> float | None:
        """Return the width of which who decides in general always takes the nearest; None when it may be any."""
        policy = self.policies[has_preference].policy
        return policy.only_width if isinstance(policy, RulePolicy) else None

    def decide(
        self,
        candidate_set: CandidateSet,
        family: Family,
        *,
        is_idle: bool,
        stale: str | None,
        decisions: DecisionLog | None,
    ) -> Decided:
        """Return what is to be done with the head of a queue, which asks for ``family``.

        ``is_idle`` is whether no server has anything to do, ``stale`` what is known too little of for just any policy
        to be asked.

        Raises:
            PermanentError: when the policy and its fallback have failed.
        """
        situation = candidate_set.situation
        policies = self.policies
        if self.trial is not None and self.trial.decides(situation.now_s):
            policies = self.trial.policies
        policy = policies[situation.queue.preference is not None]
        try:
            decision, name, fault = policy.decide(candidate_set, is_idle=is_idle, stale=stale)
        except Exception as exc:  # of the fallback too
            what = f"policy {policy.policy.name} and its fallback failed"
            log.exception("%s", what)
            raise PermanentError(f"{what}: {type(exc).__name__}: {exc}") from exc
        shadowed = record = None
        if self.shadow is not None and situation.queue.preference is None:
            shadowed = self.shadow.compare(decision, candidate_set.candidates, situation, is_idle=is_idle)
        if decisions is not None and not isinstance(decision, Hold) and decisions.is_sampled():
            record = decisions.describe(
                candidate_set.candidates,
                situation,
                decision,
                family=family,
                policy=name,
                fault=fault,
                shadow=shadowed,
            )
            record |= self.standing
        return Decided(decision, name, policy.binding, record, situation.now_s)


def policy_checks() -> PolicyChecks:
    """Return what is known here of policies, for who reads a fleet file before a router does."""
    return PolicyChecks(
        # What ``fitted`` is stands in router.policy_file, which is opened with the rest of its section.
        of_name=lambda name: None if name == FITTED else parse_policy(name),
        of_router=lambda router: make_deciders(router, RouterObserver()),
    )


def make_deciders(settings: RouterSettings, observer: RouterObserver, in_force: Policy | None = None) -> Deciders:
    """Return who decides by such settings; ``in_force`` is what stands in place of the policy that they name.

    Raises:
        ConfigError: when there is no such policy, its file can't be used, or it can't be bound as asked.
    """
    policy = in_force or policy_of(settings.policy, settings)
    policies = _guarded(policy, settings, observer)
    shadow = None
    if settings.shadow_policy is not None:
        shadow = in_shadow(policy_of(settings.shadow_policy, settings), policies, settings, observer)
    return Deciders(policies, _observing(policies), shadow)


def in_shadow(
    policy: Policy, policies: Mapping[bool, GuardedPolicy], settings: RouterSettings, observer: RouterObserver
) -> Shadow:
    """Return a policy in the shadow of others, bound as they are."""
    return Shadow(rebind(policy, policies[False].binding), settings.guard, observer)


def on_trial(
    deciders: Deciders,
    candidate: Policy,
    decides: Callable[[float], bool],
    settings: RouterSettings,
    observer: RouterObserver,
) -> Deciders:
    """Return the same, with a candidate that decides in a part of the time; raises as ``make_deciders``."""
    policies = _guarded(candidate, settings, observer)
    observing = _observing(policies, deciders.policies)
    return replace(deciders, trial=Trial(policies, decides), observing=observing)


def _guarded(policy: Policy, settings: RouterSettings, observer: RouterObserver) -> dict[bool, GuardedPolicy]:
    fallback = parse_policy(settings.guard.fallback)
    binding = policy.binding if settings.binding == "policy" else Binding(settings.binding)
    if binding is Binding.EARLY and isinstance(policy, LearnedPolicy):
        raise ConfigError(
            f"policy {policy.name!r} was trained to bind late; remove router.binding = 'early', or name a rule as "
            "router.policy, such as thrift"
        )
    return {
        prefers: GuardedPolicy(rebind(own, binding), rebind(fallback, binding), settings.guard, observer)
        for prefers, own in ((False, policy), (True, PreferredPolicy()))
    }


def _observing(*policies: Mapping[bool, GuardedPolicy]) -> tuple[ObservingPolicy, ...]:
    guards = [guarded for each in policies for guarded in each.values()]
    asked = [policy for guarded in guards for policy in (guarded.policy, guarded.fallback)]
    return tuple({p.name: p for p in asked if isinstance(p, ObservingPolicy) and p.is_observing}.values())


def policy_of(name: str, settings: RouterSettings) -> Policy:
    """Return the policy that a name stands for in a router of such settings; raises ConfigError where there is none."""
    if is_fitted(name):
        return parse_fitted(name, settings.policy_file)
    return parse_learned(name, settings.policy_file) if is_learned(name) else parse_policy(name)
