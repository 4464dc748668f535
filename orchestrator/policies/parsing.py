"""Policies by name: rules (``registry``), learned ones (``learned``) and those of other packages (``plugins``)."""

from __future__ import annotations

from collections.abc import Sequence

from orchestrator.errors import ConfigError
from orchestrator.policies import registry
from orchestrator.policies.knobs import Knob
from orchestrator.policies.learned.policy import (
    PREFERENCE_KNOBS,
    LearnedPolicy,
    is_fitted,
    is_learned,
    parse_fitted,
    parse_learned,
)
from orchestrator.policies.learned.policy_file import LEARNED_NAMES
from orchestrator.policies.plugins import PLUGINS, parse_plugin, plugin_knobs
from orchestrator.policies.protocol import Policy
from orchestrator.policies.registry import RulePolicy


def parse_policy(name: str) -> Policy:
    """Return the policy of that name, see the three; of a learned one without a file, the one that ships.

    Raises:
        ConfigError: naming what is known, or why the file or the package can't be used.
    """
    head = name.partition(",")[0]
    if is_learned(name):
        return parse_learned(name)
    if is_fitted(name):
        return parse_fitted(name)
    if head.partition(":")[0] in registry.policy_names():
        return registry.parse_policy(name)
    if head in PLUGINS.names():
        return parse_plugin(name)
    learned = f"{', '.join(LEARNED_NAMES)}, which are learned; fitted, which is what a file holds"
    known = f"{learned}; {registry.describe_rules()}{PLUGINS.describe()}"
    raise ConfigError(f"unknown policy {name!r}; known are {known}")


def is_of_package(name: str) -> bool:
    """Return whether another package brings a policy, and none of ours has its name."""
    head = name.partition(",")[0]
    own = is_learned(name) or head.partition(":")[0] in registry.policy_names()
    return not own and head in PLUGINS.names()


def parse_own_policy(name: str) -> RulePolicy | LearnedPolicy:
    """Return a policy of this package, which decides on tables; see ``parse_policy``.

    Raises:
        ConfigError: as ``parse_policy``, and for a policy of another package.
    """
    policy = parse_policy(name)
    if not isinstance(policy, RulePolicy | LearnedPolicy):
        raise ConfigError(
            f"policy {name!r} is of another package and can't be used here; compare it with 'slimsched simulate', or "
            "name it in fleet.yaml"
        )
    return policy


def knobs_of(head: str) -> Sequence[Knob]:
    """Return the knobs of the policy that is called so before the first comma."""
    name = head.partition(":")[0]
    if is_learned(name):
        return PREFERENCE_KNOBS
    return registry.knobs_of(head) if name in registry.policy_names() else plugin_knobs(name)
