"""Rules that pick a server among the rows that a width rule has left.

Each takes the rows (ordered by server), which of them count, and returns one. Ties go to the wider width, then to the
first server by name. ``first`` and ``second`` are servers that alone are looked at, where a rule is told so; else -1.

Flags and servers are floats here, because Numba would compile a function anew for each whole number it is called with.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled

_LEFT_DIGITS: Final = 4096.0


@compiled
def drawn(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Every candidate is equally likely, however loaded its server: RAND of the load-balancing literature."""
    kept = 0
    for row in range(count):
        kept += is_kept(row, width, timely, rows, query)
    skipped = int(query[col.SECOND_UNIFORM] * kept)
    for row in range(count):
        if is_kept(row, width, timely, rows, query):
            if skipped == 0:
                return row
            skipped -= 1
    return 0  # never: a uniform number is below 1


@compiled
def drawn_items(row: int, rows: Table, query: Column) -> float:
    """Return a batch of 1, 2, 4, … drawn at random, as far as so many wait: the paper's action space, as we read it.

    The number for it is what the first one of the request has left: digits that the width hardly depends on.
    """
    sizes = int(math.log2(rows[col.ROW_MAX_BATCH][row])) + 1
    uniform = (query[col.FIRST_UNIFORM] * _LEFT_DIGITS) % 1.0
    return max(query[col.HEAD_ITEMS], min(rows[col.ROW_ITEMS][row], 2.0 ** int(uniform * sizes)))


@compiled
def count_servers(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Return how many servers have a row that counts."""
    servers, last = 0, -1.0
    for row in range(count):
        if rows[col.ROW_SERVER][row] != last and is_kept(row, width, timely, rows, query):
            servers += 1
            last = rows[col.ROW_SERVER][row]
    return servers


@compiled
def nth_server(nth: int, width: float, timely: float, rows: Table, count: int, query: Column) -> float:
    """Return the n-th server, from 0, that has a row that counts."""
    servers, last = 0, -1.0
    for row in range(count):
        if rows[col.ROW_SERVER][row] != last and is_kept(row, width, timely, rows, query):
            if servers == nth:
                return rows[col.ROW_SERVER][row]
            servers += 1
            last = rows[col.ROW_SERVER][row]
    return -1.0


@compiled
def in_turn(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Servers take turns in the order of their names: round-robin."""
    servers = count_servers(width, timely, rows, count, query)
    server = nth_server(int(query[col.TURN]) % servers, width, timely, rows, count, query)
    return least(col.ROW_SERVER, width, timely, server, server, rows, count, query)


@compiled
def fewest_items(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server that has the fewest items: join the shortest queue (JSQ), also called least connections."""
    return least(col.ROW_SERVER_ITEMS, width, timely, -1.0, -1.0, rows, count, query)


@compiled
def least_completion(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server from which the head's answer is expected first: least expected response time (LERT)."""
    return least(col.ROW_HEAD_COMPLETION_S, width, timely, -1.0, -1.0, rows, count, query)


@compiled
def least_work(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server with the least seconds of work, whatever the head would add: least work left (LWL)."""
    return least(col.ROW_BACKLOG_S, width, timely, -1.0, -1.0, rows, count, query)


@compiled
def least(
    field: int, width: float, timely: float, first: float, second: float, rows: Table, count: int, query: Column
) -> int:
    """Return the row with the least in a field, of two servers or, where they are -1, of all."""
    best = -1
    for row in range(count):
        if not is_kept(row, width, timely, rows, query):
            continue
        if first >= 0 and rows[col.ROW_SERVER][row] != first and rows[col.ROW_SERVER][row] != second:
            continue
        if (
            best < 0
            or rows[field][row] < rows[field][best]
            or (rows[field][row] == rows[field][best] and rows[col.ROW_WIDTH][row] > rows[col.ROW_WIDTH][best])
        ):
            best = row
    return best
