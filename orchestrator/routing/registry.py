"""Policies by name, in two families.

``SERVER_RULE[:WIDTH_RULE]`` takes a width first, then a server. ``random`` alone draws the width too, as the paper's
baseline does; every other server rule alone runs at the widest width. Rules of load balancers bind early, on arrival;
least expected response time and least expected completion bind late, when a server has room.

``slackfit``, ``slackfit-accuracy`` (with a number of buckets after a colon), ``max-accuracy`` and ``max-batch`` take
server, width and group together and bind late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.decision import Candidate, Decision
from orchestrator.errors import ConfigError
from orchestrator.routing import central, rule, slackfit, width_rules
from orchestrator.routing.compiled import Column, Table, new_column
from orchestrator.routing.fleet_tables import FleetTables
from orchestrator.routing.policy import Binding, RowPolicy, Situation
from orchestrator.routing.row_values import choose_among
from orchestrator.snapshot import QueueState


@dataclass(frozen=True, slots=True)
class _ServerEntry:
    """A server rule with what goes with it."""

    code: int
    binding: Binding
    default_width: str = "widest"
    corrects_stale: bool = False


_SERVER_RULES: dict[str, _ServerEntry] = {
    "random": _ServerEntry(rule.DRAWN, Binding.EARLY, default_width="random"),
    "round-robin": _ServerEntry(rule.IN_TURN, Binding.EARLY),
    "jsq": _ServerEntry(rule.FEWEST_ITEMS, Binding.EARLY),
    "lert": _ServerEntry(rule.LEAST_COMPLETION, Binding.LATE),
    "lect": _ServerEntry(rule.LEAST_COMPLETION, Binding.LATE, corrects_stale=True),
    "p2c": _ServerEntry(rule.SOONER_OF_TWO, Binding.EARLY),
    "p2c-jsq": _ServerEntry(rule.EMPTIER_OF_TWO, Binding.EARLY),
    "sed": _ServerEntry(rule.SHORTEST_DELAY, Binding.EARLY),
    "weighted-random": _ServerEntry(rule.DRAWN_BY_CAPACITY, Binding.EARLY),
}
_WIDTH_RULES: dict[str, int] = {
    "random": width_rules.ANY_LOT,
    "widest": width_rules.WIDEST,
    "narrowest": width_rules.NARROWEST,
    "slack": width_rules.SLACK,
}
_CENTRAL_RULES: dict[str, int] = {
    "slackfit": central.SLACKFIT,
    "slackfit-accuracy": central.SLACKFIT_ACCURACY,
    "max-accuracy": central.MAX_ACCURACY,
    "max-batch": central.MAX_BATCH,
}
_WITH_BUCKETS = ("slackfit", "slackfit-accuracy")
_MOST_BUCKETS = 1024


@dataclass(frozen=True, slots=True)
class RulePolicy:
    """A policy that is a rule of numbers, see orchestrator.routing.rule.

    Attributes:
        name: as written in fleet.yaml.
        binding: when it wants to be asked.
        numbers: the rule.
    """

    name: str
    binding: Binding
    numbers: Column = field(compare=False, repr=False)

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """See Policy. Holds when what it wants has no room yet and the policy binds late."""
        return choose_among(self, candidates, situation)

    def choose_row(self, rows: Table, count: int, ask: Column) -> tuple[int, float, int, float]:
        """See RowPolicy."""
        return rule.choose_row(self.numbers, rows, count, ask)


def policy_names() -> tuple[str, ...]:
    """Return what may stand before the colon in a policy's name."""
    return (*_SERVER_RULES, *_CENTRAL_RULES)


def parse_policy(name: str) -> RowPolicy:
    """Return the policy of that name: ``SERVER_RULE[:WIDTH_RULE]``, ``slackfit[:BUCKETS]``, ``max-batch``, ….

    A width in percent is a width rule too.

    Raises:
        ConfigError: naming what is known.
    """
    first, _, second = name.partition(":")
    if first in _CENTRAL_RULES:
        buckets = slackfit.DEFAULT_BUCKETS
        if second and first not in _WITH_BUCKETS:
            raise ConfigError(f"policy {name!r}: {first} chooses the width itself and takes nothing after a colon")
        if second:
            buckets = _bucket_count(second, policy=name)
        return _policy(name, Binding.LATE, rule.CENTRAL, _CENTRAL_RULES[first], buckets)
    if first not in _SERVER_RULES:
        raise ConfigError(f"unknown policy {name!r}; known before the colon: {', '.join(policy_names())}")
    entry = _SERVER_RULES[first]
    width_code, width = _width_rule(second or entry.default_width, policy=name)
    return _policy(name, entry.binding, entry.code, width_code, width, corrects_stale=entry.corrects_stale)


def _policy(
    name: str, binding: Binding, server_rule: int, width_rule: int, parameter: int, *, corrects_stale: bool = False
) -> RulePolicy:
    numbers = new_column(rule.RULE_FIELDS)
    numbers[rule.SERVER_RULE] = server_rule
    numbers[rule.WIDTH_RULE] = width_rule
    numbers[rule.PARAMETER] = parameter
    numbers[rule.BINDS_LATE] = binding is Binding.LATE
    numbers[rule.CORRECTS_STALE] = corrects_stale
    return RulePolicy(name, binding, numbers)


def _bucket_count(text: str, *, policy: str) -> int:
    if text.isdecimal() and 1 <= int(text) <= _MOST_BUCKETS:
        return int(text)
    raise ConfigError(f"bad number of buckets {text!r} in policy {policy!r}; from 1 to {_MOST_BUCKETS}")


def _width_rule(name: str, *, policy: str) -> tuple[int, int]:
    """Return the code of a width rule, and its width when it has one."""
    if name in _WIDTH_RULES:
        return _WIDTH_RULES[name], 0
    if name.isdecimal() and 1 <= int(name) <= 100:
        return width_rules.FIXED, int(name)
    raise ConfigError(
        f"unknown width rule {name!r} in policy {policy!r}; known: {', '.join(_WIDTH_RULES)}, or a percentage"
    )


def prepare() -> None:
    """Compile, or load what was compiled before, all that a decision needs; else the first one waits for it.

    Some seconds when it has never run on this machine, a tenth of one afterwards, nothing without Numba.
    """
    FleetTables().decide(parse_policy("random"), Situation(_NOTHING_WAITS, 0.0, 0, (0.0, 0.0), 1.0))


_NOTHING_WAITS = QueueState(0, 0, 0.0, 0.0, ())
