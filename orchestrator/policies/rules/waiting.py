"""What policies that wait for a batch have in common: how large it is, and until when they may wait.

The head waits until a batch is full or until it must go: when, expected times multiplied by the slack margin, it would
just be in time with that batch. Which server is asked is as in SuperServe's frame (policies.rules.joint.central): of
those with room the one that is free first.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice

BETTER_SERVER_BUSY: Final = REASONS.index(Reason.BETTER_SERVER_BUSY)
LEAST_WAIT_S: Final = 1e-4
_ROUNDING: Final = 1e-9
_BATCH_FULL: Final = REASONS.index(Reason.BATCH_FULL)
_HEAD_IS_DUE: Final = REASONS.index(Reason.HEAD_IS_DUE)
_WAITS_FOR_BATCH: Final = REASONS.index(Reason.WAITS_FOR_BATCH)


@compiled
def objective_s(query: Column) -> float:
    """Return how long the head's caller gives it from its arrival; where that is unknown, what the queue tells."""
    if math.isnan(query[col.HEAD_ARRIVED_S]):
        return max(0.0, max(query[col.TAIL_DEADLINE_S], query[col.HEAD_DEADLINE_S]) - query[col.NOW_S])
    return query[col.HEAD_DEADLINE_S] - query[col.HEAD_ARRIVED_S]


@compiled
def largest_batch_within(within_s: float, row: int, rows: Table) -> float:
    """Return the most items that a row runs in so long, alone; at least 1."""
    per_item_s, most = rows[col.ROW_PER_ITEM_S][row], rows[col.ROW_MAX_BATCH][row]
    if per_item_s <= 0:
        return most
    return max(1.0, min(most, math.floor((within_s - rows[col.ROW_FIXED_S][row]) / per_item_s + _ROUNDING)))


@compiled
def first_free(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Return the row with room whose server is free first, then the one that answers first; -1 for none."""
    best = -1
    for row in range(count):
        if rows[col.ROW_HAS_ROOM][row] == 0 or not is_kept(row, width, timely, rows, query):
            continue
        wait_s, best_wait_s = rows[col.ROW_WAIT_S][row], rows[col.ROW_WAIT_S][max(0, best)]
        if (
            best < 0
            or wait_s < best_wait_s
            or (wait_s == best_wait_s and rows[col.ROW_HEAD_COMPLETION_S][row] < rows[col.ROW_HEAD_COMPLETION_S][best])
        ):
            best = row
    return best


@compiled
def send_or_wait(row: int, batch: float, most: float, rows: Table, query: Column) -> Choice:
    """Return the decision to send ``most`` of what waits when that is a batch or the head must go, and else to wait."""
    items = max(query[col.HEAD_ITEMS], min(most, rows[col.ROW_ITEMS][row]))
    if query[col.QUEUE_ITEMS] >= batch:
        return row, items, _BATCH_FULL, math.inf
    takes_s = rows[col.ROW_WAIT_S][row] + rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
    until_s = query[col.HEAD_DEADLINE_S] - takes_s * query[col.SLACK_MARGIN]
    if until_s <= query[col.NOW_S]:
        return row, items, _HEAD_IS_DUE, math.inf
    # While a server is busy its wait passes with the time, so ``until_s`` moves; without a least step it could do so in
    # ever smaller ones.
    return HOLD, 0.0, _WAITS_FOR_BATCH, min(query[col.HEAD_DEADLINE_S], max(until_s, query[col.NOW_S] + LEAST_WAIT_S))
