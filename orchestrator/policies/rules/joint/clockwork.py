"""Clockwork with widths: latency as predicted by the worst of the last ten, or nothing (our implementation).

Gujarati et al., OSDI'20, as read in its public controller: the estimate of a (model, batch) is the 99th percentile of
the last ten measurements, which is the largest; a request is aimed a few ms before its deadline; one that can't be in
time by that is dropped at once; of what fits the largest batch is run. Clockwork's models are not interchangeable, so
ours adds what they do not need: of the widths that fit, the widest, and of servers the one that is free first.

The estimate here is the largest of the last ten service times relative to what the fit expected, times the fit: ten of
each batch size would need far more batches than a router sees of most. It is applied to the batch itself; what the
server still has to do first is expected as everywhere. When nothing is under way a head that can't be in time is sent
all the same: else a server that was slow ten times would never be measured again.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.batch_rules import BETTER_SERVER_BUSY
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT, Choice
from orchestrator.policies.tables.memory import OF_MODEL, RATIO_COUNT, RATIOS, model_place

_AHEAD_S: Final = 0
KNOBS: Final = (Knob("ahead_s", _AHEAD_S, 0.005, 0.0, 10.0),)

_MOST_ACCURATE: Final = REASONS.index(Reason.MOST_ACCURATE)
_CANT_BE_IN_TIME: Final = REASONS.index(Reason.CANT_BE_IN_TIME)


@compiled
def choose_predictable(rule: Column, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision; OF_MODEL counts measurements, and RATIOS holds the last ten."""
    best, best_items, can_be_in_time, is_idle = -1, 0.0, False, True
    for row in range(count):
        is_idle = is_idle and rows[col.ROW_SERVER_ITEMS][row] == 0 and rows[col.ROW_BACKLOG_S][row] == 0
        items = _most_in_time(rule, memory, row, rows, query)
        if items < query[col.HEAD_ITEMS]:
            continue
        can_be_in_time = True
        if rows[col.ROW_HAS_ROOM][row] != 0 and (best < 0 or _is_better(row, items, best, best_items, rows)):
            best, best_items = row, items
    if best >= 0:
        return best, best_items, _MOST_ACCURATE, math.inf
    if can_be_in_time:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    if not is_idle:
        return REJECT, 0.0, _CANT_BE_IN_TIME, math.inf
    quickest, least_s = 0, math.inf
    for row in range(count):
        alone_s = rows[col.ROW_PER_ITEM_S][row] + rows[col.ROW_FIXED_S][row]
        if alone_s < least_s:
            quickest, least_s = row, alone_s
    return quickest, query[col.HEAD_ITEMS], _CANT_BE_IN_TIME, math.inf


@compiled
def _most_in_time(rule: Column, memory: Table, row: int, rows: Table, query: Column) -> float:
    """Return the most items, as far as they wait and fit, with which the head is in time; below the head for none."""
    ratio = worst_ratio(memory, model_place(memory, row, rows))
    left_s = query[col.HEAD_DEADLINE_S] - query[col.NOW_S] - knob(rule, _AHEAD_S) - rows[col.ROW_WAIT_S][row]
    if left_s < (rows[col.ROW_PER_ITEM_S][row] * query[col.HEAD_ITEMS] + rows[col.ROW_FIXED_S][row]) * ratio:
        return 0.0
    if rows[col.ROW_PER_ITEM_S][row] <= 0:
        return rows[col.ROW_ITEMS][row]
    most = math.floor((left_s / ratio - rows[col.ROW_FIXED_S][row]) / rows[col.ROW_PER_ITEM_S][row])
    return max(query[col.HEAD_ITEMS], min(rows[col.ROW_ITEMS][row], most))


@compiled
def _is_better(row: int, items: float, best: int, best_items: float, rows: Table) -> bool:
    if rows[col.ROW_WIDTH][row] != rows[col.ROW_WIDTH][best]:
        return rows[col.ROW_WIDTH][row] > rows[col.ROW_WIDTH][best]
    if items != best_items:
        return items > best_items
    return rows[col.ROW_WAIT_S][row] < rows[col.ROW_WAIT_S][best]


@compiled
def worst_ratio(memory: Table, place: int) -> float:
    """Return the largest of the last ten measurements of a model over what was expected; 1 before the first."""
    measured = int(min(float(RATIO_COUNT), memory[OF_MODEL][place]))
    if measured == 0:
        return 1.0
    worst = 0.0
    for at in range(measured):
        worst = max(worst, memory[RATIOS + at][place])
    return max(1e-3, worst)


@compiled
def note_ratio(memory: Table, place: int, expected_s: float, took_s: float) -> None:
    """Keep a measurement in place of the oldest of ten."""
    if expected_s > 0:
        memory[RATIOS + int(memory[OF_MODEL][place]) % RATIO_COUNT][place] = took_s / expected_s
        memory[OF_MODEL][place] += 1
