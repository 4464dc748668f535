"""One learned decision in one compiled call: the base policy, features, mask, scores, choice, and whether to trust it.

``observe`` is what the simulator's batched environment calls too, so training and serving see the same.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.policies.learned.actions import ACTIONS, HOLD_ACTION, do_action, select_rows, write_mask
from orchestrator.policies.learned.arrivals import follow_arrivals, note_leaving
from orchestrator.policies.learned.features import CONTEXT, EXTREMES, FEATURES, ROWS, encode
from orchestrator.policies.learned.holds import note_decision, standing_hold
from orchestrator.policies.learned.network import HIDDEN, HIDDEN_LINES, best_action, score
from orchestrator.policies.protocol import Binding
from orchestrator.policies.registry import RulePolicy, parse_policy
from orchestrator.policies.rule import CORRECTS_STALE, choose_row
from orchestrator.policies.rules.joint.thrift import LEAST_SPREAD
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled, new_column, new_table
from orchestrator.policies.tables.layout import HOLD, REJECT

WORTH: Final = 0.15
"""Accuracy that the joules of an item at the widest width are worth where nobody says what is preferred; 15 % fewer of
them, as the project's own bars have it, for 2 points. The default of ``thrift`` too."""
HASTE: Final = 1 / 3
"""Then the weight of latency, of that of accuracy."""
TOLERANCE: Final = 0.05
"""Beyond the range of training that is still trusted: a fortieth of what a feature can be."""


class View(NamedTuple):
    """What a learned policy sees of a decision, and room for the way there.

    Attributes:
        base: row (or HOLD, REJECT), items and until when, of the base policy.
        picked: room for every candidate.
        chosen: the rows that are considered.
        extremes: room.
        lines: [ROWS, FEATURES], the features of the rows that are considered.
        context: [CONTEXT].
        mask: [ACTIONS], 1 for what is allowed.
    """

    base: Column
    picked: Column
    chosen: Column
    extremes: Column
    lines: Table
    context: Column
    mask: Column


class Scorer(NamedTuple):
    """All that scores by a network, besides what is decided about; see ``decide_by_scores``."""

    preference: Column
    room: View  # Numba would take an attribute of the name "view" for numpy's
    low: Column
    high: Column
    params: Any
    strength: float
    hidden: Any
    scores: Column


def new_view(rows: int) -> View:
    """Return a view with room for so many candidates."""
    return View(
        new_column(3),
        new_column(rows),
        new_column(ROWS),
        new_column(EXTREMES),
        new_table(ROWS, FEATURES),
        new_column(CONTEXT),
        new_column(ACTIONS),
    )


def parse_base(name: str) -> RulePolicy:
    """Return a policy that a learned one may rest on.

    Raises:
        ConfigError: when there is none of that name, it binds early, or it changes what it is shown.
    """
    policy = parse_policy(name)
    if policy.binding is not Binding.LATE or policy.numbers[CORRECTS_STALE] != 0:
        raise ConfigError(f"{name!r} can't be the base of a learned policy; take one that binds late, like lert:slack")
    return policy


@compiled
def observe(
    rule: Column, memory: Table, rows: Table, count: int, query: Column, preference: Column, view: View
) -> tuple[int, int]:
    """Fill a view; return how many candidates are considered and how many actions are allowed.

    Args:
        rule: of the base policy.
        memory: its own.
        rows: the candidates.
        count: of them.
        query: what waits.
        preference: weights of accuracy, latency and energy where the head has none; NaN: those that WORTH gives.
        view: to be filled.
    """
    choose_base(rule, memory, rows, count, query, preference, view)
    return look(memory, rows, count, query, preference, view)


@compiled
def choose_base(
    rule: Column, memory: Table, rows: Table, count: int, query: Column, preference: Column, view: View
) -> None:
    """Fill the first part of a view: what the base policy would do, weighing as this policy does."""
    follow_arrivals(memory, query)
    has_own = not math.isnan(query[col.PREFER_ACCURACY])
    if not has_own:
        _write_preference(rows, count, preference, query)
    row, items, _, until_s = choose_row(rule, memory, rows, count, query)
    view.base[0], view.base[1], view.base[2] = row, items, until_s
    if not has_own:
        query[col.PREFER_ACCURACY] = query[col.PREFER_LATENCY] = query[col.PREFER_ENERGY] = math.nan


@compiled
def look(memory: Table, rows: Table, count: int, query: Column, preference: Column, view: View) -> tuple[int, int]:
    """Fill the rest of a view; return how many candidates are considered and how many actions are allowed."""
    has_own = not math.isnan(query[col.PREFER_ACCURACY])
    if not has_own:
        _write_preference(rows, count, preference, query)
    considered = select_rows(rows, count, int(view.base[0]), view.picked, view.chosen)
    encode(memory, rows, count, view.chosen, considered, query, view.base, view.extremes, view.lines, view.context)
    if not has_own:
        query[col.PREFER_ACCURACY] = query[col.PREFER_LATENCY] = query[col.PREFER_ENERGY] = math.nan
    return considered, write_mask(memory, rows, view.chosen, considered, query, view.base, view.mask)


@compiled
def _write_preference(rows: Table, count: int, preference: Column, query: Column) -> None:
    if not math.isnan(preference[0]):
        query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = (
            preference[0],
            preference[1],
            preference[2],
        )
        return
    least, most = math.inf, -math.inf
    for row in range(count):
        least, most = min(least, rows[col.ROW_ACCURACY][row]), max(most, rows[col.ROW_ACCURACY][row])
    weights = priced(WORTH, most - least)
    query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = weights


@compiled
def priced(worth: float, spread: float) -> tuple[float, float, float]:
    """Return the weights of accuracy, latency and energy at a price in accuracy.

    Args:
        worth: accuracy that the joules of an item at the widest width are worth.
        spread: most minus least accuracy of the fleet.
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
def out_of_distribution_feature(lines: Table, line: int, context: Column, low: Column, high: Column) -> int:
    """Return the first feature of a line, or of the context behind them, that training has not seen; -1 for none."""
    if line < ROWS:
        for feature in range(FEATURES):
            value = lines[line][feature]
            if not low[feature] - TOLERANCE <= value <= high[feature] + TOLERANCE:
                return feature
    for place in range(CONTEXT):
        value, at = context[place], FEATURES + place
        if not low[at] - TOLERANCE <= value <= high[at] + TOLERANCE:
            return at
    return -1


@compiled
def decide_by_scores(
    rule: Column,
    memory: Table,
    rows: Table,
    count: int,
    query: Column,
    preference: Column,
    base: Column,
    picked: Column,
    chosen: Column,
    extremes: Column,
    lines: Table,
    context: Column,
    mask: Column,
    low: Column,
    high: Column,
    params: Any,
    strength: float,
    hidden: Any,
    scores: Column,
) -> tuple[int, float, float, int]:
    """Return the row (or HOLD, REJECT), items, until when to hold, and the feature that is out of range, or -1.

    Arguments are one by one, because a compiled function receives them faster so than in tuples.
    """
    view = View(base, picked, chosen, extremes, lines, context, mask)
    choose_base(rule, memory, rows, count, query, preference, view)
    row, items, until_s = standing_hold(memory, rows, count, query, base)
    if row == HOLD:
        return row, items, until_s, -1
    considered, allowed = look(memory, rows, count, query, preference, view)
    if allowed <= 1:  # no choice
        row, items, until_s = do_action(first_allowed(mask), rows, chosen, considered, query, base)
        note_decision(row, until_s, memory, rows, count, query, base)
        note_leaving(row, items, memory)
        return row, items, until_s, -1
    score(lines, considered, context, params, strength, hidden, scores)
    action = best_action(scores, mask)
    out_of_distribution = out_of_distribution_feature(lines, action, context, low, high)
    row, items, until_s = do_action(action, rows, chosen, considered, query, base)
    note_decision(row if out_of_distribution < 0 else REJECT, until_s, memory, rows, count, query, base)
    note_leaving(row if out_of_distribution < 0 else REJECT, items, memory)
    return row, items, until_s, out_of_distribution


def new_scores() -> tuple[Any, Column]:
    """Return room for hidden layers and scores."""
    return np.zeros((HIDDEN_LINES, HIDDEN), np.float32), new_column(ACTIONS)
