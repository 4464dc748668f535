"""A control limit: a server that is free starts as large a batch as it can when at least so many wait, not before.

The form that optimal batching of one server mostly has when it minimises a sum of response time and power (SMDP
batching, arXiv 2301.12865 and 2501.02181; our implementation): the less there is to gain from a fuller batch, the lower
the limit. The papers compute it by value iteration from service times and a rate; here it is a knob, for each server
from the fastest on; ``slimsched bounds`` shows optimal ones. They know no deadline; ours holds no head longer than it
may wait.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.knobs import Knob, knob_of_rank
from orchestrator.policies.rules.waiting import BETTER_SERVER_BUSY, first_free, send_or_wait
from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import HOLD

_LIMIT: Final = 0
KNOBS: Final = (Knob("limit", _LIMIT, 8.0, 1.0, 4096.0, is_of_servers=True, is_log=True),)


@compiled
def choose_at_limit(
    rule: Column, width: float, timely: float, rows: Table, count: int, query: Column
) -> tuple[int, float, int, float]:
    """Return the decision for the server that is free first."""
    row = first_free(width, timely, rows, count, query)
    if row < 0:
        return HOLD, 0.0, BETTER_SERVER_BUSY, math.inf
    rank = 0
    for other in range(count):
        if is_kept(other, width, timely, rows, query) and capacity_rps(other, rows) > capacity_rps(row, rows):
            rank += 1
    limit = math.floor(knob_of_rank(rule, _LIMIT, rank))
    return send_or_wait(row, min(limit, rows[col.ROW_MAX_BATCH][row]), math.inf, rows, query)
