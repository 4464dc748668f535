"""Rules that know how fast each server is, and little or nothing of what it does just now.

The capacity of a server at a width is max over b of b/τ(b), with τ(b) = a·b + c fitted to what is observed: it is
reached by full batches on all its instances. A server that was never seen is guessed to be infinitely fast, so it is
tried before all others.
"""

from __future__ import annotations

import math

from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import capacity_rps
from orchestrator.policies.tables.compiled import Column, Table, compiled


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
    return last  # the lot is below 1, but its product may be rounded up to the end


@compiled
def shortest_delay(width: float, timely: float, rows: Table, count: int, query: Column) -> int:
    """The server with the least (n + m)/μ: n items it has, m the head's, μ its capacity.

    Shortest expected delay (SED), also called generalised join-the-shortest-queue (arXiv 1509.05533); there m is 1.
    Unlike least expected completion it does not ask what the items are: how wide, in which groups, how long they run.
    """
    best, best_s = -1, math.inf
    for row in range(count):
        if not is_kept(row, width, timely, rows, query):
            continue
        delay_s = (rows[col.ROW_SERVER_ITEMS][row] + query[col.HEAD_ITEMS]) / capacity_rps(row, rows)
        if best < 0 or delay_s < best_s or (delay_s == best_s and rows[col.ROW_WIDTH][row] > rows[col.ROW_WIDTH][best]):
            best, best_s = row, delay_s
    return best
