"""Policies by name: rules (orchestrator.policies.registry) and learned ones (orchestrator.policies.learned)."""

from __future__ import annotations

from orchestrator.policies import registry
from orchestrator.policies.knobs import Knob
from orchestrator.policies.learned.policy import PREFERENCE_KNOBS, LearnedPolicy, is_learned, parse_learned
from orchestrator.policies.registry import RulePolicy


def parse_policy(name: str) -> RulePolicy | LearnedPolicy:
    """Return the policy of that name, see the two packages; of a learned one without a file, the one that ships.

    Raises:
        ConfigError: naming what is known, or why the file can't be used.
    """
    return parse_learned(name) if is_learned(name) else registry.parse_policy(name)


def knobs_of(name: str) -> tuple[Knob, ...]:
    """Return the knobs of the policy that is called so before the colon."""
    return PREFERENCE_KNOBS if is_learned(name) else registry.knobs_of(name)
