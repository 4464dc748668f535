"""Which policies a router's settings name, each behind its guard, and the one that decides in its shadow.

A learned policy has its file and is known by its preference too, so it also decides about requests that bring a
preference; about those every other policy leaves the decision to ``PreferredPolicy``. That stands in for ppo-slim too,
because the fallback would not look at what they prefer.
"""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError
from orchestrator.policies import Binding, ObservingPolicy, Policy, PreferredPolicy, parse_policy, rebind
from orchestrator.policies.learned import SLIM, LearnedPolicy, is_learned, parse_learned
from orchestrator.router.dispatch.guarded_policy import GuardedPolicy
from orchestrator.router.dispatch.shadow import Shadow
from orchestrator.router.observer import RouterObserver


@dataclass(frozen=True, slots=True)
class Deciders:
    """Who decides.

    Attributes:
        policies: about requests without a preference (False) and about those with one (True).
        observing: those of them, fallbacks included, that want to know what becomes of groups; each once, however often
            it stands in for others, because what it remembers is one for all.
        shadow: beside them, and nothing comes of it; None: nobody does.
    """

    policies: dict[bool, GuardedPolicy]
    observing: tuple[ObservingPolicy, ...]
    shadow: Shadow | None = None


def make_deciders(settings: RouterSettings, observer: RouterObserver) -> Deciders:
    """Return who decides by such settings.

    Raises:
        ConfigError: when there is no such policy, its file can't be used, or it can't be bound as told.
    """
    policy, fallback = _policy(settings.policy, settings), parse_policy(settings.guard.fallback)
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
        shadow = Shadow(rebind(_policy(settings.shadow_policy, settings), binding), settings.guard, observer)
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


def _policy(name: str, settings: RouterSettings) -> Policy:
    return parse_learned(name, settings.policy_file) if is_learned(name) else parse_policy(name)
