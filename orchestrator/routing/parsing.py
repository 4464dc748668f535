"""Policies by name: rules (orchestrator.routing.registry) and learned ones (orchestrator.routing.learned)."""

from __future__ import annotations

from orchestrator.routing import registry
from orchestrator.routing.knobs import Knob
from orchestrator.routing.learned.policy import PREFERENCE_KNOBS, LearnedPolicy, is_learned, parse_learned
from orchestrator.routing.registry import RulePolicy


def parse_policy(name: str) -> RulePolicy | LearnedPolicy:
    """Return the policy of that name, see the two packages; of a learned one without a file, the one that ships.

    Raises:
        ConfigError: naming what is known, or why the file can't be used.
    """
    return parse_learned(name) if is_learned(name) else registry.parse_policy(name)


def knobs_of(name: str) -> tuple[Knob, ...]:
    """Return the knobs of the policy that is called so before the colon."""
    return PREFERENCE_KNOBS if is_learned(name) else registry.knobs_of(name)
