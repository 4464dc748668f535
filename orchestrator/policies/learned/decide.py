"""One learned decision in one compiled call: the base policy, features, mask, scores, choice, and whether to trust it.

The simulator's batched environment takes the same steps, so training and serving see the same.
"""

from __future__ import annotations

import math
from typing import Final, NamedTuple

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import (
    ACTIONS,
    HOLD_ACTION,
    do_action,
    line_of_action,
    select_rows,
    write_mask,
)
from orchestrator.policies.learned.encoding import EXTREMES, View, encode
from orchestrator.policies.learned.memory import (
    follow_arrivals,
    follow_times,
    note_decision,
    standing_hold,
)
from orchestrator.policies.learned.network import Floats32, best_action, new_hidden, pack, score
from orchestrator.policies.learned.policy_file import PAPER, PolicyFile
from orchestrator.policies.protocol import Binding
from orchestrator.policies.registry import RulePolicy, parse_policy
from orchestrator.policies.rule import CORRECTS_STALE, RULE_FIELDS, choose_row
from orchestrator.policies.rules.joint.thrift import LEAST_SPREAD
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled, new_column
from orchestrator.policies.tables.layout import HOLD, REJECT

WORTH: Final = 0.15
"""Accuracy that the joules of an item at the widest width are worth where nobody says what is preferred; 15 % fewer of
them, as the project's own bars have it, for 2 points. The default of ``thrift`` too."""
HASTE: Final = 1 / 3
"""Then the weight of latency, of that of accuracy."""
TOLERANCE: Final = 0.05
"""Beyond the range of training that is still trusted: a fortieth of what a feature can be."""

_SEEN: Final = feat.FEATURES + feat.CONTEXT
_PREFERENCE: Final = RULE_FIELDS  # in the numbers of a learned policy, behind those of its base
_STRENGTH: Final = _PREFERENCE + 3
_LOW: Final = _STRENGTH + 1
_HIGH: Final = _LOW + _SEEN
_NUMBERS: Final = _HIGH + _SEEN

_CHOSEN: Final = col.DECISION_FIELDS  # in ``Scorer.room``, behind the decision of the base policy
_EXTREMES: Final = _CHOSEN + feat.ROWS
_LINES: Final = _EXTREMES + EXTREMES
_CONTEXT: Final = _LINES + feat.ROWS * feat.FEATURES
_MASK: Final = _CONTEXT + feat.CONTEXT
_SCORES: Final = _MASK + ACTIONS
_PICKED: Final = _SCORES + ACTIONS  # to the end: one for each candidate


class Scorer(NamedTuple):
    """A policy that scores by a network, in few arrays, because a compiled function receives each in 0.1 µs.

    Attributes:
        numbers: the rule of its base, the preference where the head has none (NaN: what WORTH gives), the strength of
            the base's choice, and the range of each feature in training.
        params: the weights, float32 [PARAMETERS].
        room: space for all that is computed on the way in float64, see ``view_of``.
        hidden: space for the hidden layers, float32 [HIDDEN_LINES, HIDDEN].
    """

    numbers: Column
    params: Floats32
    room: Column
    hidden: Floats32


def new_scorer(base: RulePolicy, file: PolicyFile) -> Scorer:
    """Return the scorer of a policy file, still without room for candidates; of ppo-paper it holds no weights."""
    numbers = new_column(_NUMBERS)
    numbers[:RULE_FIELDS] = base.numbers
    numbers[_PREFERENCE:_STRENGTH] = file.preference or (math.nan,) * 3
    numbers[_STRENGTH] = file.strength
    numbers[_LOW:_HIGH], numbers[_HIGH:] = file.low, file.high
    params = np.zeros(1, np.float32) if file.kind == PAPER else pack(file.weights)
    return Scorer(numbers, params, new_room(0), new_hidden())


def new_room(rows: int) -> Column:
    """Return ``Scorer.room`` for so many candidates."""
    return new_column(_PICKED + max(1, rows))


def view_of(room: Column) -> View:
    """Return the parts of a room in which a decision is seen."""
    return View(
        base=room[:_CHOSEN],
        picked=room[_PICKED:],
        chosen=room[_CHOSEN:_EXTREMES],
        extremes=room[_EXTREMES:_LINES],
        lines=room[_LINES:_CONTEXT].reshape((feat.ROWS, feat.FEATURES)),
        context=room[_CONTEXT:_MASK],
        mask=room[_MASK:_SCORES],
    )


_view_of = compiled(view_of)


def parse_base(name: str) -> RulePolicy:
    """Return a policy that a learned one may rest on.

    Raises:
        ConfigError: when there is none of that name, it binds early, or it changes what it is shown.
    """
    policy = parse_policy(name)
    if policy.binding is not Binding.LATE or policy.numbers[CORRECTS_STALE] != 0:
        raise ConfigError(f"{name!r} can't be the base of a learned policy; take one that binds late, like lert:slack")
    return policy


def preference_of(numbers: Column) -> Column:
    """Return what the numbers of a scorer prefer where a request says nothing."""
    return numbers[_PREFERENCE:_STRENGTH]


@compiled
def choose_base(
    rule: Column, memory: Table, rows: Table, count: int, query: Column, preference: Column, view: View
) -> None:
    """Fill the first part of a view: what the base policy would do.

    Where the head has no preference the base weighs by ``preference``, of accuracy, latency and energy; where that is
    NaN by its own knobs.
    """
    follow_arrivals(memory, query)
    is_given = math.isnan(query[col.PREFER_ACCURACY]) and not math.isnan(preference[0])
    if is_given:
        query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY] = preference[0], preference[1]
        query[col.PREFER_ENERGY] = preference[2]
    row, items, _, until_s = choose_row(rule, memory, rows, count, query)
    view.base[col.DECIDED_ROW], view.base[col.DECIDED_ITEMS] = row, items
    view.base[col.DECIDED_UNTIL_S] = until_s
    if is_given:
        query[col.PREFER_ACCURACY] = query[col.PREFER_LATENCY] = query[col.PREFER_ENERGY] = math.nan


@compiled
def look(memory: Table, rows: Table, count: int, query: Column, preference: Column, view: View) -> tuple[int, int]:
    """Fill the rest of a view; return how many candidates are considered and how many actions are allowed."""
    has_own = not math.isnan(query[col.PREFER_ACCURACY])
    if not has_own:
        _write_preference(rows, count, preference, query)
    considered = select_rows(rows, count, int(view.base[col.DECIDED_ROW]), query, view.picked, view.chosen)
    follow_times(memory, rows, count, query)
    encode(memory, rows, count, query, considered, view)
    if not has_own:
        query[col.PREFER_ACCURACY] = query[col.PREFER_LATENCY] = query[col.PREFER_ENERGY] = math.nan
    return considered, write_mask(memory, rows, view.chosen, considered, query, view.base, view.mask)


@compiled
def _write_preference(rows: Table, count: int, preference: Column, query: Column) -> None:
    weights = (preference[0], preference[1], preference[2])
    if math.isnan(preference[0]):
        least, most = math.inf, -math.inf
        for row in range(count):
            least, most = min(least, rows[col.ROW_ACCURACY][row]), max(most, rows[col.ROW_ACCURACY][row])
        weights = priced(WORTH, most - least)
    query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = weights


@compiled
def priced(worth: float, spread: float) -> tuple[float, float, float]:
    """Return the weights of accuracy, latency and energy at a price in accuracy.

    ``worth`` is what the joules of an item at the widest width are worth, ``spread`` the fleet's most minus least
    accuracy.
    """
    energy = worth / max(LEAST_SPREAD, spread)
    total = 1 + HASTE + energy
    return 1 / total, HASTE / total, energy / total


@compiled
def first_allowed(mask: Column) -> int:
    """Return the first action that is allowed; to hold when none is."""
    for action in range(ACTIONS):
        if mask[action] != 0:
            return action
    return HOLD_ACTION


@compiled
def bound_features(numbers: Column, considered: int, view: View) -> None:
    """Bound the features that tell no state to be wary of by those of training.

    A family of sixty points of spread, or of qualities about a half: which width is better is in
    ``feat.ACCURACY_POSITION``, and what that is worth in the weights of the preference, which are not bounded: so a
    policy that was fitted at one price of joules leaves a family of another to the fallback. And what a device shows,
    and what waits in other queues: where training knew nothing of it, it is to say nothing.
    """
    for feature in feat.BOUNDED_FEATURES:
        for line in range(considered):
            view.lines[line][feature] = _within_range(numbers, feature, view.lines[line][feature])
    for place in feat.BOUNDED_CONTEXT:
        view.context[place] = _within_range(numbers, feat.FEATURES + place, view.context[place])


@compiled
def _within_range(numbers: Column, feature: int, value: float) -> float:
    return max(numbers[_LOW + feature], min(numbers[_HIGH + feature], value))


@compiled
def out_of_distribution_feature(numbers: Column, line: int, view: View) -> int:
    """Return the first feature of a line, or of the context behind them, that training has not seen; -1 for none.

    A negative line is of an action that sends nothing.
    """
    if line >= 0:
        for feature in range(feat.FEATURES):
            value = view.lines[line][feature]
            if not numbers[_LOW + feature] - TOLERANCE <= value <= numbers[_HIGH + feature] + TOLERANCE:
                return feature
    for place in range(feat.CONTEXT):
        value, at = view.context[place], feat.FEATURES + place
        if not numbers[_LOW + at] - TOLERANCE <= value <= numbers[_HIGH + at] + TOLERANCE:
            return at
    return -1


@compiled
def decide_by_scores(
    numbers: Column,
    params: Floats32,
    room: Column,
    hidden: Floats32,
    memory: Table,
    rows: Table,
    count: int,
    query: Column,
) -> tuple[int, float, float, int]:
    """Return the row (or HOLD, REJECT), items, until when to hold, and the feature that is out of range, or -1.

    The first four parameters are the fields of a ``Scorer``; ``memory`` is that of the base.
    """
    view, preference = _view_of(room), numbers[_PREFERENCE:_STRENGTH]
    choose_base(numbers, memory, rows, count, query, preference, view)
    row, items, until_s = standing_hold(memory, rows, count, query, view.base)
    if row == HOLD:
        return row, items, until_s, -1
    considered, allowed = look(memory, rows, count, query, preference, view)
    action, unseen = first_allowed(view.mask), -1
    if allowed > 1:  # else there is no choice
        bound_features(numbers, considered, view)
        scores = room[_SCORES:_PICKED]
        score(view.lines, considered, view.context, params, numbers[_STRENGTH], hidden, scores)
        action = best_action(scores, view.mask, considered)
        unseen = out_of_distribution_feature(numbers, line_of_action(action), view)
    row, items, until_s = do_action(action, rows, view.chosen, considered, query, view.base)
    if unseen < 0:
        note_decision(row, until_s, memory, rows, count, query, view.base)
    else:  # what is not trusted is not done
        note_decision(REJECT, until_s, memory, rows, count, query, view.base)
    return row, items, until_s, unseen
