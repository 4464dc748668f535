"""Policies by name: a server rule, and after a colon a width rule.

``random`` alone draws the width too, as the paper's baseline does; every other server rule alone runs at the widest
width. Random, round-robin and join-the-shortest-queue are rules of arrival and bind early; least expected response
time binds late, when a server has room.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.routing import server_rules, width_rules
from orchestrator.routing.policy import Binding, Policy, Situation
from orchestrator.snapshot import Width

_SERVER_RULES: dict[str, tuple[server_rules.ServerRule, Binding, str]] = {
    "random": (server_rules.drawn, Binding.EARLY, "random"),
    "round-robin": (server_rules.in_turn, Binding.EARLY, "widest"),
    "jsq": (server_rules.fewest_items, Binding.EARLY, "widest"),
    "lert": (server_rules.least_completion, Binding.LATE, "widest"),
}
_WIDTH_RULES: dict[str, width_rules.WidthRule] = {
    "random": width_rules.drawn_width,
    "widest": width_rules.widest,
    "narrowest": width_rules.narrowest,
    "slack": width_rules.by_slack,
}


@dataclass(frozen=True, slots=True)
class ComposedPolicy:
    """A width rule, then a server rule."""

    name: str
    binding: Binding
    width_rule: width_rules.WidthRule
    server_rule: server_rules.ServerRule

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """See Policy. Holds when what it wants has no room yet and the policy binds late."""
        if not candidates:
            return Hold(Reason.NO_CANDIDATE)
        chosen, reason = self.server_rule(self.width_rule(candidates, situation), situation)
        if self.binding is Binding.LATE and not chosen.has_room:
            return Hold(Reason.BETTER_SERVER_BUSY)
        return Dispatch(chosen, reason)


def parse_policy(name: str) -> Policy:
    """Return the policy that ``SERVER_RULE[:WIDTH_RULE]`` names; a width in percent is a width rule too.

    Raises:
        ConfigError: naming the known rules.
    """
    server_name, _, width_name = name.partition(":")
    if server_name not in _SERVER_RULES:
        raise ConfigError(f"unknown policy {name!r}; known before the colon: {', '.join(_SERVER_RULES)}")
    server_rule, binding, default_width = _SERVER_RULES[server_name]
    return ComposedPolicy(name, binding, _width_rule(width_name or default_width, policy=name), server_rule)


def _width_rule(name: str, *, policy: str) -> width_rules.WidthRule:
    if name in _WIDTH_RULES:
        return _WIDTH_RULES[name]
    if name.isdecimal() and 1 <= int(name) <= 100:
        return width_rules.fixed(Width(int(name)))
    raise ConfigError(
        f"unknown width rule {name!r} in policy {policy!r}; known: {', '.join(_WIDTH_RULES)}, or a percentage"
    )
