"""The two greedy policies that SuperServe is compared with: all for accuracy, or all for the batch.

Khare et al., NSDI'25, arXiv 2312.16733; as known to us: MaxAcc takes the most accurate subnet that is in time with a
batch of one, then the largest batch; MaxBatch the largest batch that the smallest subnet runs in time, then the most
accurate subnet that runs it in time. A candidate's batch is the largest that is in time, so each is one comparison.
Our smallest batch is the head, which can't be split. Ties go to the server that answers first, then to the first by
name.
"""

from __future__ import annotations

from orchestrator.policies.rules.width_rules import is_in_time
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled


@compiled
def most_accurate(rows: Table, count: int, query: Column) -> int:
    """The widest that is in time and has room, then the largest batch."""
    return _most(col.ROW_WIDTH, col.ROW_ITEMS, rows, count, query)


@compiled
def largest_batch(rows: Table, count: int, query: Column) -> int:
    """The largest batch that is in time and has room, then the widest that runs as many."""
    return _most(col.ROW_ITEMS, col.ROW_WIDTH, rows, count, query)


@compiled
def _most(field: int, then: int, rows: Table, count: int, query: Column) -> int:
    """Return the row that is in time, has room and has the most in a field, then in another; -1 for none."""
    best = -1
    for row in range(count):
        if rows[col.ROW_HAS_ROOM][row] == 0 or not is_in_time(rows[col.ROW_COMPLETION_S][row], query):
            continue
        if best < 0 or _is_better(field, then, row, best, rows):
            best = row
    return best


@compiled
def _is_better(field: int, then: int, row: int, best: int, rows: Table) -> bool:
    if rows[field][row] != rows[field][best]:
        return rows[field][row] > rows[field][best]
    if rows[then][row] != rows[then][best]:
        return rows[then][row] > rows[then][best]
    return rows[col.ROW_COMPLETION_S][row] < rows[col.ROW_COMPLETION_S][best]
