"""Policies by name, in two families.

``SERVER_RULE[:WIDTH_RULE]`` takes a width first, then a server. ``random`` alone draws the width too, as the paper's
baseline does, ``random-batch`` how many go together as well; every other server rule alone runs at the widest width, or
by slack where it says when and how many to send as well. Rules of load balancers bind early, on arrival; those that ask
for a server with room bind late.

``slackfit``, ``slackfit-accuracy`` (with a number of buckets after a colon), ``max-accuracy``, ``max-batch``,
``clockwork``, ``infaas``, ``model-switching``, ``alert``, ``thrift``, ``fluid-lp`` and ``proteus-lp`` choose the width
themselves.

Knobs follow behind commas: ``achq:slack,theta=4/8,temperature=0.5``. Every policy has the knob ``slack_margin``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.decision import Candidate, Decision
from orchestrator.errors import ConfigError
from orchestrator.policies import rule
from orchestrator.policies.fleet.row_values import choose_among
from orchestrator.policies.knobs import FIRST_KNOB, MARGIN_PLACE, PARAMETER, SLACK_MARGIN_KNOB, Knob, parse_knobs
from orchestrator.policies.protocol import Binding, Outcome, Situation
from orchestrator.policies.rules import batch_rules, brownout, width_rules
from orchestrator.policies.rules.joint import (
    alert,
    central,
    clockwork,
    fluid,
    model_switching,
    slackfit,
    thrift,
)
from orchestrator.policies.tables.compiled import Column, Table, new_column
from orchestrator.policies.tables.layout import Choice
from orchestrator.policies.tables.memory import Memory


@dataclass(frozen=True, slots=True)
class _Entry:
    """A rule with what goes with it."""

    code: int  # in orchestrator.policies.rule, of a central rule in orchestrator.policies.rules.joint.central
    binding: Binding
    default_width: str | None = "widest"  # the width rule that it has alone; None: a central rule, which has none
    corrects_stale: bool = False  # whether the times of overdue servers are stretched
    remembers: int = rule.NOTHING  # of answered batches
    knobs: tuple[Knob, ...] = ()


_ENTRIES: dict[str, _Entry] = {
    "random": _Entry(rule.DRAWN, Binding.EARLY, "random"),
    "round-robin": _Entry(rule.IN_TURN, Binding.EARLY),
    "weighted-round-robin": _Entry(rule.IN_WEIGHTED_TURN, Binding.EARLY),
    "jsq": _Entry(rule.FEWEST_ITEMS, Binding.EARLY),
    "least-work": _Entry(rule.LEAST_WORK, Binding.EARLY),
    "lert": _Entry(rule.LEAST_COMPLETION, Binding.LATE),
    "lect": _Entry(rule.LEAST_COMPLETION, Binding.LATE, corrects_stale=True),
    "p2c": _Entry(rule.SOONER_OF_TWO, Binding.EARLY),
    "p2c-jsq": _Entry(rule.EMPTIER_OF_TWO, Binding.EARLY),
    "sed": _Entry(rule.SHORTEST_DELAY, Binding.EARLY),
    "weighted-random": _Entry(rule.DRAWN_BY_CAPACITY, Binding.EARLY),
    "random-batch": _Entry(rule.DRAWN_WITH_BATCH, Binding.LATE, "random"),
    "achq": _Entry(rule.BY_THRESHOLD, Binding.LATE, "slack", knobs=batch_rules.ACHQ_KNOBS),
    "clipper-plus": _Entry(rule.BATCH_IN_TIME, Binding.LATE),
    "clipper-aimd": _Entry(
        rule.BATCH_WITHIN_LIMIT, Binding.LATE, remembers=rule.BATCH_LIMITS, knobs=batch_rules.AIMD_KNOBS
    ),
    "nexus": _Entry(rule.BATCH_OF_HALF_DEADLINE, Binding.LATE, "slack"),
    "control-limit": _Entry(rule.BATCH_AT_LIMIT, Binding.LATE, "slack", knobs=batch_rules.LIMIT_KNOBS),
    "slackfit": _Entry(central.SLACKFIT, Binding.LATE, None),
    "slackfit-accuracy": _Entry(central.SLACKFIT_ACCURACY, Binding.LATE, None),
    "max-accuracy": _Entry(central.MAX_ACCURACY, Binding.LATE, None),
    "max-batch": _Entry(central.MAX_BATCH, Binding.LATE, None),
    "clockwork": _Entry(central.CLOCKWORK, Binding.LATE, None, remembers=rule.LAST_RATIOS, knobs=clockwork.KNOBS),
    "infaas": _Entry(central.INFAAS, Binding.EARLY, None),
    "model-switching": _Entry(central.MODEL_SWITCHING, Binding.LATE, None, knobs=model_switching.KNOBS),
    "alert": _Entry(central.ALERT, Binding.LATE, None, remembers=rule.SLOW_DOWN, knobs=alert.KNOBS),
    "thrift": _Entry(central.THRIFT, Binding.LATE, None, knobs=thrift.KNOBS),
    "fluid-lp": _Entry(central.BY_PLAN, Binding.EARLY, None, knobs=fluid.KNOBS),
    "proteus-lp": _Entry(central.BY_HALVED_PLAN, Binding.EARLY, None, knobs=fluid.KNOBS),
}
_BROWNOUT = "brownout"
_WIDTH_RULES: dict[str, int] = {
    "random": width_rules.DRAWN,
    "widest": width_rules.WIDEST,
    "narrowest": width_rules.NARROWEST,
    "slack": width_rules.SLACK,
    "reserve": width_rules.RESERVE,
    _BROWNOUT: width_rules.BROWNOUT,
}
_BELOW_CEILING: dict[str, int] = {"thrift": central.THRIFT_BELOW_CEILING}
"""Those that choose the width themselves, and may be told to stay below the ceiling of brownout."""
_WITH_BUCKETS = ("slackfit", "slackfit-accuracy")
_MOST_BUCKETS = 1024


@dataclass(frozen=True, slots=True)
class RulePolicy:
    """A policy that is a rule in a column of numbers (orchestrator.policies.rule); None: the router's margin."""

    name: str
    binding: Binding
    numbers: Column = field(compare=False, repr=False)
    slack_margin: float | None = None

    def choose(self, candidates: Sequence[Candidate], situation: Situation) -> Decision:
        """Decide, see ``Policy``. Holds when what it wants has no room yet and the policy binds late."""
        return choose_among(self, candidates, situation, slack_margin=self.slack_margin)

    def choose_row(self, memory: Table, rows: Table, count: int, query: Column) -> Choice:
        """Decide on rows, see ``RowPolicy``."""
        return rule.choose_row(self.numbers, memory, rows, count, query)

    @property
    def only_width(self) -> float | None:
        """See ``orchestrator.policies.rule.only_width``."""
        return rule.only_width(self.numbers)

    @property
    def is_observing(self) -> bool:
        """Whether the policy wants to know of answered batches."""
        return bool(self.numbers[rule.REMEMBERS] != rule.NOTHING or rule.is_browning_out(self.numbers))

    def observe(self, memory: Memory, outcome: Outcome) -> None:
        """Remember what counts of an answered batch."""
        if not self.is_observing:
            return
        memory.include({outcome.server}, {outcome.width})
        rule.observe(
            self.numbers,
            memory.table(self.name),
            float(memory.servers.index(outcome.server)),
            float(memory.widths.index(outcome.width)),
            float(outcome.items),
            float(outcome.width),
            float(outcome.expected_s),
            float(outcome.took_s),
            float(outcome.slack_used),
            float(outcome.is_in_time),
            float(outcome.now_s),
        )

    def observe_miss(self, memory: Memory, now_s: float) -> None:
        """Remember that a request was refused because of load, or was not answered in time."""
        if self.is_observing:
            rule.observe_miss(self.numbers, memory.table(self.name), now_s)


def policy_names() -> tuple[str, ...]:
    """Return what may stand before the colon in a policy's name."""
    return tuple(_ENTRIES)


def has_width_rule(name: str) -> bool:
    """Return whether a width rule may follow the colon of the policy that is called so before it."""
    return name in _ENTRIES and _ENTRIES[name].default_width is not None


def describe_rules() -> str:
    """Return the names of all rules in groups, in one line."""
    with_width = [name for name in _ENTRIES if has_width_rule(name)]
    central = [name for name in _ENTRIES if not has_width_rule(name)]
    return (
        f"the rules {', '.join(with_width)}, with a colon and {', '.join(_WIDTH_RULES)} or a percentage behind for the "
        f"width; and {', '.join(central)}, which choose it themselves"
    )


def knobs_of(head: str) -> tuple[Knob, ...]:
    """Return the knobs of the policy that is called so before the first comma, without the slack margin of all."""
    name, _, second = head.partition(":")
    if second != _BROWNOUT:
        return _ENTRIES[name].knobs
    return (*_ENTRIES[name].knobs, *(brownout.CEILING_KNOBS if name in _BELOW_CEILING else brownout.KNOBS))


def parse_policy(name: str) -> RulePolicy:
    """Return the policy of that name: ``SERVER_RULE[:WIDTH_RULE]``, ``slackfit[:BUCKETS]``, ``max-batch``, ….

    A width in percent is a width rule too; knobs follow behind commas.

    Raises:
        ConfigError: naming what is known.
    """
    head, _, knobs = name.partition(",")
    first, _, second = head.partition(":")
    entry = _ENTRIES.get(first)
    if entry is None:
        raise ConfigError(f"unknown policy {name!r}; known are {describe_rules()}")
    numbers = new_column(rule.RULE_FIELDS)
    if entry.default_width is not None:
        numbers[rule.SERVER_RULE] = entry.code
        width_code, numbers[PARAMETER] = _width_rule(second or entry.default_width, policy=name)
        numbers[rule.WIDTH_RULE] = width_code
    elif second == _BROWNOUT and first in _BELOW_CEILING:
        numbers[rule.SERVER_RULE], numbers[rule.WIDTH_RULE] = rule.CENTRAL, _BELOW_CEILING[first]
    else:
        if second and first not in _WITH_BUCKETS:
            more = f"but {_BROWNOUT} " if first in _BELOW_CEILING else ""
            raise ConfigError(
                f"policy {name!r}: {first} chooses the width itself and takes nothing {more}after a colon"
            )
        numbers[rule.SERVER_RULE], numbers[rule.WIDTH_RULE] = rule.CENTRAL, entry.code
        numbers[PARAMETER] = _bucket_count(second, policy=name) if second else slackfit.DEFAULT_BUCKETS
    numbers[rule.BINDS_LATE] = entry.binding is Binding.LATE
    numbers[rule.CORRECTS_STALE] = entry.corrects_stale
    numbers[rule.REMEMBERS] = entry.remembers
    places = dict(parse_knobs(knobs, (*knobs_of(head), SLACK_MARGIN_KNOB), policy=name))
    slack_margin = places.pop(MARGIN_PLACE)
    for at, value in places.items():
        numbers[FIRST_KNOB + at] = value
    return RulePolicy(name, entry.binding, numbers, None if math.isnan(slack_margin) else slack_margin)


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
