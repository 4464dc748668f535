"""Power of two choices: draw two servers, take the better.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (IEEE TPDS 12(10), 2001). The herd of many
routers that all see the same state can't rush to one server, because each looks at another pair; so it stays good
where the state is stale (Mitzenmacher, "How Useful Is Old Information?", TPDS 11(1), 2000). On unlike servers two
equally likely draws are not throughput-optimal (arXiv 2004.00538): a pair of slow servers is drawn
as often as any. The comparison by expected completion softens that, and does not cure it.
"""

from __future__ import annotations

from orchestrator.policies.rules.server_rules import count_servers, least, nth_server
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled


@compiled
def sooner_of_two(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Take two distinct servers, each pair equally likely, and the one of them that answers the head first."""
    return _better_of_two(col.ROW_HEAD_COMPLETION_S, width, timely, rows, count, query)


@compiled
def emptier_of_two(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Take two distinct servers, each pair equally likely, and the one with fewer items: as first published."""
    return _better_of_two(col.ROW_SERVER_ITEMS, width, timely, rows, count, query)


@compiled
def _better_of_two(field: int, width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """Return the row with the least in a field on two servers; one number draws a pair of n·(n − 1)."""
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
