"""The rule for a request that prefers something; orchestrator.policies.preferred says what it weighs, and why."""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.rules.width_rules import is_timely
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled, compiled_apart
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice

_NO_CANDIDATE: Final = REASONS.index(Reason.NO_CANDIDATE)
_BY_PREFERENCE: Final = REASONS.index(Reason.BEST_BY_PREFERENCE)
_NONE_IN_TIME: Final = REASONS.index(Reason.NONE_IN_TIME)
_BETTER_SERVER_BUSY: Final = REASONS.index(Reason.BETTER_SERVER_BUSY)


@compiled_apart
def choose_preferred(rows: Table, count: int, query: Column, takes_busy: bool) -> Choice:
    """Return the row that the head prefers, or HOLD where that is busy; ``takes_busy``: where it binds early.

    Where the query has no preference accuracy alone counts.
    """
    if count == 0:
        return HOLD, 0.0, _NO_CANDIDATE, math.inf
    row, reason = _best_timely(rows, count, query), _BY_PREFERENCE
    if row < 0:
        row, reason = _soonest_drained(rows, count), _NONE_IN_TIME
    if rows[col.ROW_HAS_ROOM][row] == 0 and not takes_busy:
        return HOLD, 0.0, _BETTER_SERVER_BUSY, math.inf
    return row, rows[col.ROW_ITEMS][row], reason, math.inf


@compiled
def _best_timely(rows: Table, count: int, query: Column) -> int:
    """Return the row of the highest score of those that leave the head and those behind it in time, -1 for none.

    Of equals the wider width goes first, then the first server.
    """
    accuracies, joules = (math.inf, -math.inf), (math.inf, -math.inf)
    for row in range(count):
        if is_timely(row, query[col.SLACK_MARGIN], rows, query):
            accuracies = _with(accuracies, rows[col.ROW_ACCURACY][row])
            joules = _with(joules, _per_item_j(row, rows))
    best, best_score = -1, -math.inf
    for row in range(count):
        if not is_timely(row, query[col.SLACK_MARGIN], rows, query):
            continue
        score = _score(row, accuracies, joules, rows, query)
        is_wider = best >= 0 and rows[col.ROW_WIDTH][row] > rows[col.ROW_WIDTH][best]
        if best < 0 or score > best_score or (score == best_score and is_wider):
            best, best_score = row, score
    return best


@compiled
def _score(row: int, accuracies: tuple[float, float], joules: tuple[float, float], rows: Table, query: Column) -> float:
    accuracy, latency, energy = query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY]
    if math.isnan(accuracy):
        accuracy, latency, energy = 1.0, 0.0, 0.0
    slack_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S]
    score = accuracy * _position(rows[col.ROW_ACCURACY][row], accuracies)
    if slack_s > 0:  # else whatever is in time takes no time at all
        score -= latency * rows[col.ROW_COMPLETION_S][row] * margin_of(row, rows, query) / slack_s
    if joules[0] < math.inf:  # else nobody's are known
        own_j = _per_item_j(row, rows)
        score -= energy * (1.0 if math.isnan(own_j) else _position(own_j, joules))
    return score


@compiled
def _soonest_drained(rows: Table, count: int) -> int:
    """Return the row that answers the head first, of the width that drains first, the narrower of two."""
    drains_first = 0
    for row in range(1, count):
        one = rows[col.ROW_DRAIN_S][row], rows[col.ROW_WIDTH][row]
        if one < (rows[col.ROW_DRAIN_S][drains_first], rows[col.ROW_WIDTH][drains_first]):
            drains_first = row
    best = drains_first
    for row in range(count):
        if rows[col.ROW_WIDTH][row] != rows[col.ROW_WIDTH][drains_first]:
            continue
        own_s, best_s = rows[col.ROW_HEAD_COMPLETION_S][row], rows[col.ROW_HEAD_COMPLETION_S][best]
        if own_s < best_s or (own_s == best_s and row < best):
            best = row
    return best


@compiled
def _per_item_j(row: int, rows: Table) -> float:
    return rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row] / rows[col.ROW_ITEMS][row]


@compiled
def _with(span: tuple[float, float], value: float) -> tuple[float, float]:
    """Return the least and the most with one value more; NaN, which is unknown, is none."""
    return (min(span[0], value), max(span[1], value)) if not math.isnan(value) else span


@compiled
def _position(value: float, span: tuple[float, float]) -> float:
    """Return where a value lies between the least and the most, 0..1; 0 when they are equal."""
    return (value - span[0]) / (span[1] - span[0]) if span[1] > span[0] else 0.0
