"""One learned decision in one compiled call: the base policy, features, mask, scores, choice, and whether to trust it.

``observe`` is what the simulator's batched environment calls too, so training and serving see the same.
"""

from __future__ import annotations

import math
from typing import Any, Final, NamedTuple

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.routing.compiled import Column, Table, compiled, new_column, new_table
from orchestrator.routing.fields import PREFER_ACCURACY, PREFER_ENERGY, PREFER_LATENCY
from orchestrator.routing.learned.actions import ACTIONS, HOLD_ACTION, do_action, select_rows, write_mask
from orchestrator.routing.learned.features import CONTEXT, EXTREMES, FEATURES, ROWS, encode
from orchestrator.routing.learned.network import HIDDEN, HIDDEN_LINES, best_action, score
from orchestrator.routing.policy import Binding
from orchestrator.routing.registry import RulePolicy, parse_policy
from orchestrator.routing.rule import CORRECTS_STALE, choose_row

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
    rule: Column, memory: Table, rows: Table, count: int, ask: Column, preference: Column, view: View
) -> tuple[int, int]:
    """Fill a view; return how many candidates are considered and how many actions are allowed.

    Args:
        rule: of the base policy.
        memory: its own.
        rows: the candidates.
        count: of them.
        ask: what waits.
        preference: weights of accuracy, latency and energy where the head has none.
        view: to be filled.
    """
    has_own = not math.isnan(ask[PREFER_ACCURACY])
    if not has_own:  # the base weighs as this policy does
        ask[PREFER_ACCURACY], ask[PREFER_LATENCY], ask[PREFER_ENERGY] = preference[0], preference[1], preference[2]
    row, items, _, until_s = choose_row(rule, memory, rows, count, ask)
    if not has_own:
        ask[PREFER_ACCURACY] = ask[PREFER_LATENCY] = ask[PREFER_ENERGY] = math.nan
    view.base[0], view.base[1], view.base[2] = row, items, until_s
    considered = select_rows(rows, count, row, view.picked, view.chosen)
    encode(rows, view.chosen, considered, ask, view.base, preference, view.extremes, view.lines, view.context)
    return considered, write_mask(rows, view.chosen, considered, ask, view.base, view.mask)


@compiled
def first_allowed(mask: Column) -> int:
    """Return the first action that is allowed; to hold when none is."""
    for action in range(ACTIONS):
        if mask[action] != 0:
            return action
    return HOLD_ACTION


@compiled
def strange_feature(lines: Table, line: int, context: Column, low: Column, high: Column) -> int:
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
    ask: Column,
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
    considered, allowed = observe(rule, memory, rows, count, ask, preference, view)
    if allowed <= 1:  # no choice
        row, items, until_s = do_action(first_allowed(mask), rows, chosen, considered, ask, base)
        return row, items, until_s, -1
    score(lines, considered, context, params, strength, hidden, scores)
    action = best_action(scores, mask)
    strange = strange_feature(lines, action, context, low, high)
    row, items, until_s = do_action(action, rows, chosen, considered, ask, base)
    return row, items, until_s, strange


def new_scores() -> tuple[Any, Column]:
    """Return room for hidden layers and scores."""
    return np.zeros((HIDDEN_LINES, HIDDEN), np.float32), new_column(ACTIONS)
