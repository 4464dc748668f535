"""How much a fleet of unlike servers sends by a time, and so how wide it may run and who is needed.

The drain time of a row (policies.tables.candidates) asks what would be if every server ran one width in full
batches. In a fleet of unlike machines that promises too much: a server whose single item would be late helps nobody who
is in time, nor does a batch that takes longer than there is. So here, for a time ``by`` from now,

    sendable = k·b/(a·b + g) · (by − wait),    b the most items with a·b + g ≤ by, else 0

of k instances, and a fleet sends the sum of it over its servers, each at the row in question.

When the queue no longer fits into its time, what counts is that it becomes short again. Answering the head as soon as
possible would leave to the quickest server what all of them together could do, and a queue that outgrows it would stay
late for ever. So where there are several, all servers take full batches, whatever that means for the head, but one that
would still be busy with its batch when the others have sent all that waits: the threshold at which a slow server is
used, which is optimal for two servers (Lin and Kumar, IEEE TAC 1984).
"""

from __future__ import annotations

import math

from orchestrator.policies.rules.batch_rules import largest_batch_within
from orchestrator.policies.rules.width_rules import next_width
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled


@compiled
def sendable_items(by_s: float, row: int, rows: Table) -> float:
    """Return how many items a row would have answered so long from now; infinite where they take no time."""
    left_s = by_s - rows[col.ROW_WAIT_S][row]
    batch = largest_batch_within(by_s, row, rows)
    takes_s = rows[col.ROW_PER_ITEM_S][row] * batch + rows[col.ROW_FIXED_S][row]
    if left_s <= 0 or takes_s > by_s:
        return 0.0
    return rows[col.ROW_INSTANCES][row] * batch / takes_s * left_s if takes_s > 0 else math.inf


@compiled
def widest_draining(by_s: float, rows: Table, count: int, query: Column) -> float:
    """Return the widest width at which the fleet would have answered all that waits so long from now; 0 for none."""
    widest, width = 0.0, next_width(0.0, rows, count)
    while width < math.inf:
        sendable = 0.0
        for row in range(count):
            if rows[col.ROW_WIDTH][row] == width:
                sendable += sendable_items(by_s, row, rows)
        if sendable >= query[col.QUEUE_ITEMS]:
            widest = width
        width = next_width(width, rows, count)
    return widest


@compiled
def row_to_drain(rows: Table, count: int, query: Column) -> tuple[int, float]:
    """Return the row with room, and items, that helps most when the queue no longer fits into its time.

    They are -1 and 0 where none has room, there is but one server, or the others would have sent all before it had done
    its batch.
    """
    if rows[col.ROW_SERVER][0] == rows[col.ROW_SERVER][count - 1]:
        return -1, 0.0
    chosen = _soonest_batch(rows, count, query)
    if chosen < 0:
        return -1, 0.0
    items = _full_batch(chosen, rows, query)
    ends_s = rows[col.ROW_WAIT_S][chosen] + rows[col.ROW_PER_ITEM_S][chosen] * items + rows[col.ROW_FIXED_S][chosen]
    total, most, server = 0.0, 0.0, -1.0
    for row in range(count):
        if rows[col.ROW_SERVER][row] != server:
            total, most, server = total + most, 0.0, rows[col.ROW_SERVER][row]
        if server != rows[col.ROW_SERVER][chosen]:
            most = max(most, sendable_items(ends_s, row, rows))
    if total + most >= query[col.QUEUE_ITEMS]:
        return -1, 0.0
    return chosen, items


@compiled
def _soonest_batch(rows: Table, count: int, query: Column) -> int:
    """Return, of the rows with room that do the most items a second on their servers, the one that ends first."""
    chosen, ends_s = -1, math.inf
    best, best_rps, best_s, server = -1, 0.0, math.inf, -1.0
    for row in range(count):
        if rows[col.ROW_SERVER][row] != server:
            if best_s < ends_s:
                chosen, ends_s = best, best_s
            best, best_rps, best_s, server = -1, 0.0, math.inf, rows[col.ROW_SERVER][row]
        if rows[col.ROW_HAS_ROOM][row] == 0:
            continue
        items = _full_batch(row, rows, query)
        takes_s = rows[col.ROW_PER_ITEM_S][row] * items + rows[col.ROW_FIXED_S][row]
        rate_rps = rows[col.ROW_INSTANCES][row] * items / takes_s if takes_s > 0 else math.inf
        if rate_rps > best_rps:
            best, best_rps = row, rate_rps
            best_s = rows[col.ROW_WAIT_S][row] + takes_s
    return best if best_s < ends_s else chosen


@compiled
def _full_batch(row: int, rows: Table, query: Column) -> float:
    return max(query[col.HEAD_ITEMS], min(query[col.QUEUE_ITEMS], rows[col.ROW_MAX_BATCH][row]))
