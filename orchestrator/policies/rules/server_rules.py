"""Rules that pick a server among the rows that a width rule has left.

Each takes the rows (ordered by server), which of them count, and returns one. Ties go to the wider width, then to the
first server by name. ``first`` and ``second`` are servers that alone are looked at, where a rule asks for it; else -1.

Some know how fast each server is. The capacity of a server at a width is max over b of b/τ(b), with τ(b) = a·b + c
fitted to what is observed: it is reached by full batches on all its instances. A server that was never seen is guessed
to be infinitely fast, so it is tried before all others.

Flags and servers are floats here, because Numba would compile a function anew for each whole number it is called with.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.memory import OF_SERVER, server_place

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
def least_completion(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server from which the head's answer is expected first: least expected response time (LERT)."""
    return least(col.ROW_HEAD_COMPLETION_S, width, timely, -1.0, -1.0, rows, count, query)


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


@compiled
def better_of_two(field: int, width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Return the row with the least in a field on two servers; one number draws a pair of n·(n − 1).

    Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001). The herd of many
    routers that all see the same state can't rush to one server, because each looks at another pair; so it stays good
    where the state is stale (Mitzenmacher, "How Useful Is Old Information?", TPDS 11(1), 2000). On unlike servers two
    equally likely draws are not throughput-optimal (arXiv 2004.00538): a pair of slow servers is drawn as often as any.
    The comparison by expected completion softens that, and does not cure it.
    """
    servers = count_servers(width, timely, rows, count, query)
    if servers <= 2:
        return least(field, width, timely, -1.0, -1.0, rows, count, query)
    pair = int(query[col.SECOND_UNIFORM] * servers * (servers - 1))
    first, second = pair // (servers - 1), pair % (servers - 1)
    if second >= first:  # skips the first
        second += 1
    one = nth_server(first, width, timely, rows, count, query)
    other = nth_server(second, width, timely, rows, count, query)
    return least(field, width, timely, one, other, rows, count, query)


@compiled
def drawn_by_capacity(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Each server's chance is its share of the capacity: weighted random (WRAND).

    The split that loads unlike servers equally, as weighted load balancers do with weights set by hand.
    """
    total_rps, unseen = 0.0, 0
    for row in range(count):
        if is_kept(row, width, timely, rows, query):
            if capacity_rps(row, rows) == math.inf:
                unseen += 1
            else:
                total_rps += capacity_rps(row, rows)
    drawn = query[col.SECOND_UNIFORM] * (unseen if unseen > 0 else total_rps)
    end, last = 0.0, 0
    for row in range(count):
        if not is_kept(row, width, timely, rows, query):
            continue
        weight = capacity_rps(row, rows)
        if unseen > 0:
            weight = 1.0 if weight == math.inf else 0.0
        if weight > 0:
            end += weight
            last = row
            if drawn < end:
                break
    return last  # the uniform number is below 1, but its product may be rounded up to the end


@compiled
def shortest_delay(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server with the least (n + m)/μ: n items it has, m the head's, μ its capacity.

    Shortest expected delay (SED), also called generalised join-the-shortest-queue (arXiv 1509.05533); there m is 1.
    Unlike least expected completion it does not ask what the items are: how wide, in which batches, how long they run.
    """
    best, best_s = -1, math.inf
    for row in range(count):
        if not is_kept(row, width, timely, rows, query):
            continue
        delay_s = (rows[col.ROW_SERVER_ITEMS][row] + query[col.HEAD_ITEMS]) / capacity_rps(row, rows)
        if best < 0 or delay_s < best_s or (delay_s == best_s and rows[col.ROW_WIDTH][row] > rows[col.ROW_WIDTH][best]):
            best, best_s = row, delay_s
    return best


@compiled
def in_weighted_turn(width: float, timely: float, memory: Table, rows: Table, count: int, query: Column) -> int:
    """Servers take turns in proportion to capacity, spread out evenly; OF_SERVER holds their credits.

    The rule of nginx's upstream module (described publicly in its change of 2012, "Upstream: smooth weighted
    round-robin balancing"): at each turn every server's credit grows by its weight, the largest credit is taken and
    pays the sum of all weights. With weights 5, 1, 1 the turns are a a b a c a a, and not a a a a a b c. The weights
    are the capacities at the width in question; a server that was never observed counts as the fastest one seen.
    """
    most_rps, total, best = 0.0, 0.0, -1
    for row in range(count):
        if is_kept(row, width, timely, rows, query) and capacity_rps(row, rows) < math.inf:
            most_rps = max(most_rps, capacity_rps(row, rows))
    for row in range(count):
        if not is_kept(row, width, timely, rows, query):
            continue
        weight = capacity_rps(row, rows)
        if weight == math.inf:
            weight = most_rps if most_rps > 0 else 1.0
        total += weight
        place = server_place(memory, row, rows)
        memory[OF_SERVER][place] += weight
        if best < 0 or memory[OF_SERVER][place] > memory[OF_SERVER][server_place(memory, best, rows)]:
            best = row
    memory[OF_SERVER][server_place(memory, best, rows)] -= total
    return best
