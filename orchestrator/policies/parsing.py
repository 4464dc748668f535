"""Policies by name: rules (orchestrator.policies.registry) and learned ones (orchestrator.policies.learned)."""

from __future__ import annotations

from orchestrator.errors import ConfigError
from orchestrator.policies import registry
from orchestrator.policies.knobs import Knob
from orchestrator.policies.learned.policy import PREFERENCE_KNOBS, LearnedPolicy, is_learned, parse_learned
from orchestrator.policies.learned.policy_file import LEARNED_NAMES
from orchestrator.policies.registry import RulePolicy


def parse_policy(name: str) -> RulePolicy | LearnedPolicy:
    """Return the policy of that name, see the two packages; of a learned one without a file, the one that ships.

    Raises:
        ConfigError: naming what is known, or why the file can't be used.
    """
    if is_learned(name):
        return parse_learned(name)
    if name.partition(",")[0].partition(":")[0] not in registry.policy_names():
        learned = f"{', '.join(LEARNED_NAMES)}, which are learned"
        raise ConfigError(f"unknown policy {name!r}; known are {learned}; {registry.describe_rules()}")
    return registry.parse_policy(name)


def knobs_of(name: str) -> tuple[Knob, ...]:
    """Return the knobs of the policy that is called so before the colon."""
    return PREFERENCE_KNOBS if is_learned(name) else registry.knobs_of(name)
