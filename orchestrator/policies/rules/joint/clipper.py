"""Clipper: one width, and batches that adapt (Crankshaw et al., NSDI'17; our implementation).

``clipper-plus`` is what SuperServe calls Clipper+ (arXiv 2312.16733, as known to us): a fixed width and, from its
profile, the largest batch with which the head is in time. ``clipper-aimd`` learns the batch from answers alone: a limit
for each server and width that begins at 1, grows by ``step`` when a batch as large as it was in time, and is multiplied
by ``backoff`` when one was late. The paper's rule as remembered; the public code of later versions does otherwise.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.knobs import Knob, knob
from orchestrator.policies.rules.waiting import BETTER_SERVER_BUSY, first_free
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, Choice
from orchestrator.policies.tables.memory import OF_MODEL, model_place

_STEP: Final = 0
_BACKOFF: Final = 1
AIMD_KNOBS: Final = (
    Knob("step", _STEP, 1.0, 0.01, 64.0, is_log=True),
    Knob("backoff", _BACKOFF, 0.9, 0.1, 0.999),
)

_BATCH_IN_TIME: Final = REASONS.index(Reason.BATCH_IN_TIME)


@compiled
def choose_in_time(width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision: what the row's batch is, on the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    return row, rows[col.ROW_ITEMS][row], _BATCH_IN_TIME, math.inf


@compiled
def choose_within_limit(width: float, timely: float, memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision: as many as the limit lets through, on the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    limit = math.floor(max(1.0, memory[OF_MODEL][model_place(memory, row, rows)]))
    return row, max(query[col.HEAD_ITEMS], min(limit, rows[col.ROW_ITEMS][row])), _BATCH_IN_TIME, math.inf


@compiled
def adapt_limit(rule: Column, memory: Table, place: int, items: float, is_in_time: float) -> None:
    """Take an answered batch into account; OF_MODEL holds the limits, 0 for 1."""
    limit = max(1.0, memory[OF_MODEL][place])
    if is_in_time == 0:
        limit = max(1.0, limit * knob(rule, _BACKOFF))
    elif items >= math.floor(limit):
        limit = min(4096.0, limit + knob(rule, _STEP))
    memory[OF_MODEL][place] = limit
