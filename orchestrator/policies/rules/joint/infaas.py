"""INFaaS-like: the cheapest variant that meets accuracy and latency, on the worker with the least traffic.

Romero et al., ATC'21, as read in its public query frontend; our implementation. Fast path: of the running variants
with at least the accuracy asked for and a latency within the objective, the cheapest, on the worker with the fewest
queries a second. Without one: the least load plus inference time. Where no accuracy is asked for the cheapest variant
is the narrowest width, which is what SuperServe observes of INFaaS too.

The latency of a variant is that of the head alone and counts no queue, as there; the cost of a width is its joules an
item, or its time an item while some are unknown. Queries a second are a count that halves every HALF_LIFE_S.
Replicating and upgrading variants, INFaaS's other half, is the controllers' business here.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.decision import Reason
from orchestrator.policies.rules.batch_rules import objective_s
from orchestrator.policies.rules.server_rules import least
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import margin_of
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import REASONS, Choice
from orchestrator.policies.tables.memory import OF_SERVER, OF_SERVER_TOO, server_place

HALF_LIFE_S: Final = 1.0

_CHEAPEST: Final = REASONS.index(Reason.CHEAPEST)
_LEAST_COMPLETION: Final = REASONS.index(Reason.LEAST_COMPLETION)


@compiled
def choose_cheapest(memory: Table, rows: Table, count: int, query: Column) -> Choice:
    """Return the decision; OF_SERVER holds the counts, and OF_SERVER_TOO since when they have not been halved."""
    width = _cheapest_width(rows, count, query)
    if width < 0:
        best, soonest_s = 0, math.inf
        for row in range(count):
            if rows[col.ROW_HEAD_COMPLETION_S][row] < soonest_s:
                best, soonest_s = row, rows[col.ROW_HEAD_COMPLETION_S][row]
        best = least(col.ROW_HEAD_COMPLETION_S, rows[col.ROW_WIDTH][best], 0.0, -1.0, -1.0, rows, count, query)
        reason = _LEAST_COMPLETION
    else:
        best, fewest = -1, math.inf
        for row in range(count):
            if rows[col.ROW_WIDTH][row] == width and _meets_objective(row, rows, query):
                queries = _faded(memory, server_place(memory, row, rows), query[col.NOW_S])
                if queries < fewest:
                    best, fewest = row, queries
        reason = _CHEAPEST
    place = server_place(memory, best, rows)
    memory[OF_SERVER][place] = _faded(memory, place, query[col.NOW_S]) + query[col.HEAD_ITEMS]
    memory[OF_SERVER_TOO][place] = query[col.NOW_S]
    return best, rows[col.ROW_ITEMS][best], reason, math.inf


@compiled
def _meets_objective(row: int, rows: Table, query: Column) -> bool:
    alone_s = rows[col.ROW_PER_ITEM_S][row] * query[col.HEAD_ITEMS] + rows[col.ROW_FIXED_S][row]
    return alone_s * margin_of(row, rows, query) <= objective_s(query)


@compiled
def _cheapest_width(rows: Table, count: int, query: Column) -> float:
    """Return the width that some server runs within the objective at the least cost, the narrower of two; -1: none."""
    is_known = True
    for row in range(count):
        is_known = is_known and not math.isnan(rows[col.ROW_PER_ITEM_J][row] + rows[col.ROW_FIXED_J][row])
    best, least_cost = -1.0, math.inf
    for row in range(count):
        if not _meets_objective(row, rows, query):
            continue
        item, batch = col.ROW_PER_ITEM_S, col.ROW_FIXED_S
        if is_known:
            item, batch = col.ROW_PER_ITEM_J, col.ROW_FIXED_J
        cost = rows[item][row] + rows[batch][row] / query[col.HEAD_ITEMS]
        if best < 0 or cost < least_cost or (cost == least_cost and rows[col.ROW_WIDTH][row] < best):
            best, least_cost = rows[col.ROW_WIDTH][row], cost
    return best


@compiled
def _faded(memory: Table, place: int, now_s: float) -> float:
    passed_s = max(0.0, now_s - memory[OF_SERVER_TOO][place])
    return memory[OF_SERVER][place] * math.pow(0.5, passed_s / HALF_LIFE_S)
