"""Policies by name, in two families.

``SERVER_RULE[:WIDTH_RULE]`` takes a width first, then a server. ``random`` alone draws the width too, as the paper's
baseline does; every other server rule alone runs at the widest width. Rules of load balancers bind early, on arrival;
least expected response time and least expected completion bind late, when a server has room.

``slackfit``, ``slackfit-accuracy`` (with a number of buckets after a colon), ``max-accuracy`` and ``max-batch`` take
server, width and group together and bind late.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate, Decision, Dispatch, Hold, Reason
from orchestrator.errors import ConfigError
from orchestrator.routing import capacity, greedy, server_rules, slackfit, stale, two_choices, width_rules
from orchestrator.routing.central import CentralPolicy, CentralRule
from orchestrator.routing.policy import Binding, Policy, Situation
from orchestrator.snapshot import Width

View = Callable[[Sequence[Candidate]], Sequence[Candidate]]
"""Candidates as a policy believes them."""


def _as_they_are(candidates: Sequence[Candidate]) -> Sequence[Candidate]:
    return candidates


@dataclass(frozen=True, slots=True)
class _ServerEntry:
    """A server rule with what goes with it."""

    rule: server_rules.ServerRule
    binding: Binding
    default_width: str = "widest"
    view: View = _as_they_are


_SERVER_RULES: dict[str, _ServerEntry] = {
    "random": _ServerEntry(server_rules.drawn, Binding.EARLY, default_width="random"),
    "round-robin": _ServerEntry(server_rules.in_turn, Binding.EARLY),
    "jsq": _ServerEntry(server_rules.fewest_items, Binding.EARLY),
    "lert": _ServerEntry(server_rules.least_completion, Binding.LATE),
    "lect": _ServerEntry(server_rules.least_completion, Binding.LATE, view=stale.corrected),
    "p2c": _ServerEntry(two_choices.sooner_of_two, Binding.EARLY),
    "p2c-jsq": _ServerEntry(two_choices.emptier_of_two, Binding.EARLY),
    "sed": _ServerEntry(capacity.shortest_delay, Binding.EARLY),
    "weighted-random": _ServerEntry(capacity.drawn_by_capacity, Binding.EARLY),
}
_WIDTH_RULES: dict[str, width_rules.WidthRule] = {
    "random": width_rules.drawn_width,
    "widest": width_rules.widest,
    "narrowest": width_rules.narrowest,
    "slack": width_rules.by_slack,
}
_CENTRAL_RULES: dict[str, CentralRule] = {
    "max-accuracy": greedy.most_accurate,
    "max-batch": greedy.largest_batch,
}
_SLACKFIT_PREFERENCES = {
    "slackfit": slackfit.by_throughput,
    "slackfit-accuracy": slackfit.by_accuracy,
}
_MOST_BUCKETS = 1024


@dataclass(frozen=True, slots=True)
class ComposedPolicy:
    """A width rule, then a server rule."""

    name: str
    binding: Binding
    width_rule: width_rules.WidthRule
    server_rule: server_rules.ServerRule
    view: View = _as_they_are

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """See Policy. Holds when what it wants has no room yet and the policy binds late."""
        if not candidates:
            return Hold(Reason.NO_CANDIDATE)
        chosen, reason = self.server_rule(self.width_rule(self.view(candidates), situation), situation)
        if self.binding is Binding.LATE and not chosen.has_room:
            return Hold(Reason.BETTER_SERVER_BUSY)
        return Dispatch(chosen, reason)


def policy_names() -> tuple[str, ...]:
    """Return what may stand before the colon in a policy's name."""
    return (*_SERVER_RULES, *_SLACKFIT_PREFERENCES, *_CENTRAL_RULES)


def parse_policy(name: str) -> Policy:
    """Return the policy of that name: ``SERVER_RULE[:WIDTH_RULE]``, ``slackfit[:BUCKETS]``, ``max-batch``, ….

    A width in percent is a width rule too.

    Raises:
        ConfigError: naming what is known.
    """
    first, _, second = name.partition(":")
    if first in _CENTRAL_RULES:
        if second:
            raise ConfigError(f"policy {name!r}: {first} chooses the width itself and takes nothing after a colon")
        return CentralPolicy(name, _CENTRAL_RULES[first])
    if first in _SLACKFIT_PREFERENCES:
        buckets = _bucket_count(second, policy=name) if second else slackfit.DEFAULT_BUCKETS
        return CentralPolicy(name, slackfit.SlackFit(buckets, _SLACKFIT_PREFERENCES[first]))
    if first not in _SERVER_RULES:
        raise ConfigError(f"unknown policy {name!r}; known before the colon: {', '.join(policy_names())}")
    entry = _SERVER_RULES[first]
    width_rule = _width_rule(second or entry.default_width, policy=name)
    return ComposedPolicy(name, entry.binding, width_rule, entry.rule, entry.view)


def _bucket_count(text: str, *, policy: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _MOST_BUCKETS:
        return int(text)
    raise ConfigError(f"bad number of buckets {text!r} in policy {policy!r}; from 1 to {_MOST_BUCKETS}")


def _width_rule(name: str, *, policy: str) -> width_rules.WidthRule:
    if name in _WIDTH_RULES:
        return _WIDTH_RULES[name]
    if name.isdecimal() and 1 <= int(name) <= 100:
        return width_rules.fixed(Width(int(name)))
    raise ConfigError(
        f"unknown width rule {name!r} in policy {policy!r}; known: {', '.join(_WIDTH_RULES)}, or a percentage"
    )
