"""Which policies a router's settings name, each behind its guard, and the one that decides in its shadow.

A learned policy has its file and is known by its preference too, so it also decides about requests that bring a
preference; about those every other policy leaves the decision to ``PreferredPolicy``. That stands in for ppo-slim too,
because the fallback would not look at what they prefer.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from orchestrator.config import RouterSettings
from orchestrator.decision import Decision, Hold
from orchestrator.errors import ConfigError, PermanentError
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.learned.policy import LearnedPolicy, is_fitted, is_learned, parse_fitted, parse_learned
from orchestrator.policies.learned.policy_file import SLIM
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.preference import PreferredPolicy
from orchestrator.policies.protocol import Binding, ObservingPolicy, Policy, rebind
from orchestrator.router.dispatch.decision_log import DecisionLog, Record
from orchestrator.router.dispatch.guarded_policy import GuardedPolicy, Shadow
from orchestrator.router.observer import RouterObserver
from orchestrator.snapshot import Family

log = logging.getLogger(__name__)


class Decided(NamedTuple):
    """A decision, the policy that made it, when that binds, and its record for the log; None when not sampled."""

    decision: Decision
    policy: str
    binding: Binding
    record: Record | None


@dataclass(frozen=True, slots=True)
class Deciders:
    """Who decides.

    Attributes:
        policies: The policies for requests without a preference (False) and for those with one (True).
        observing: Those of them, fallbacks included, that want to know what becomes of batches; each once, however
            often it stands in for others, because what it remembers is one for all.
        shadow: The policy that is asked beside them, and of which nothing comes; None: there is none.
    """

    policies: dict[bool, GuardedPolicy]
    observing: tuple[ObservingPolicy, ...]
    shadow: Shadow | None = None

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
        policy = self.policies[situation.queue.preference is not None]
        try:
            decision, name, fault = policy.decide(candidate_set, is_idle=is_idle, stale=stale)
        except Exception as exc:  # of the fallback too
            what = f"policy {policy.policy.name} and its fallback failed"
            log.exception("%s", what)
            raise PermanentError(f"{what}: {type(exc).__name__}: {exc}") from exc
        shadowed = record = None
        if self.shadow is not None:
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
        return Decided(decision, name, policy.binding, record)


def make_deciders(settings: RouterSettings, observer: RouterObserver) -> Deciders:
    """Return who decides by such settings.

    Raises:
        ConfigError: when there is no such policy, its file can't be used, or it can't be bound as asked.
    """
    policy, fallback = policy_of(settings.policy, settings), parse_policy(settings.guard.fallback)
    binding = policy.binding if settings.binding == "policy" else Binding(settings.binding)
    if binding is Binding.EARLY and is_learned(settings.policy):
        raise ConfigError(
            f"policy {settings.policy!r} was trained to bind late; remove router.binding = 'early', or name a rule as "
            "router.policy, such as thrift"
        )
    is_slim = isinstance(policy, LearnedPolicy) and policy.file.kind == SLIM
    preferred = PreferredPolicy()
    shadow = None
    if settings.shadow_policy is not None:
        shadow = Shadow(rebind(policy_of(settings.shadow_policy, settings), binding), settings.guard, observer)
    policies = {
        prefers: GuardedPolicy(rebind(own, binding), rebind(other, binding), settings.guard, observer)
        for prefers, own, other in (
            (False, policy, fallback),
            (True, policy, preferred) if is_slim else (True, preferred, fallback),
        )
    }
    asked = [policy for guarded in policies.values() for policy in (guarded.policy, guarded.fallback)]
    observing = {p.name: p for p in asked if isinstance(p, ObservingPolicy) and p.is_observing}
    return Deciders(policies, tuple(observing.values()), shadow)


def policy_of(name: str, settings: RouterSettings) -> Policy:
    """Return the policy that a name stands for in a router of such settings; raises ConfigError where there is none."""
    if is_fitted(name):
        return parse_fitted(name, settings.policy_file)
    return parse_learned(name, settings.policy_file) if is_learned(name) else parse_policy(name)
