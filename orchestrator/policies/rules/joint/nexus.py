"""Nexus: full batches of a size that fits twice into the deadline, and early drop (our implementation).

Shen et al., SOSP'19, as Proteus re-implements it: the batch b is the largest with τ(b) < SLO/2, because a request that
just misses a batch waits for that one and then for its own. A batch is sent when b wait, or when the head could else
not be in time with it; a head that no server can answer in time is dropped, so that it delays no others. Which width is
run a width rule says; Nexus itself has none.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.rules.waiting import (
    BETTER_SERVER_BUSY,
    first_free,
    largest_batch_within,
    objective_s,
    send_or_wait,
)
from orchestrator.policies.rules.width_rules import is_in_time
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD, REASONS, REJECT, Choice

_CANT_BE_IN_TIME: Final = REASONS.index(Reason.CANT_BE_IN_TIME)


@compiled
def choose_half_deadline(width: float, timely: float, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision for the server that is free first."""
    if can_none_be_in_time(rows, count, query):
        return REJECT, 0.0, _CANT_BE_IN_TIME, math.inf
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    batch = largest_batch_within(objective_s(query) / 2, row, rows)
    return send_or_wait(row, batch, batch, rows, query)


@compiled
def can_none_be_in_time(rows: Table, count: int, query: Column) -> bool:
    """Return whether the head would be late on every server and width, even alone."""
    soonest_s = math.inf
    for row in range(count):
        soonest_s = min(soonest_s, rows[col.ROW_HEAD_COMPLETION_S][row])
    return not is_in_time(soonest_s, query)
