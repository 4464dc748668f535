"""Smooth weighted round robin: turns in proportion to capacity, spread out evenly.

The rule of nginx's upstream module (described publicly in its change of 2012, "Upstream: smooth weighted round-robin
balancing"): at each turn every server's credit grows by its weight, the largest credit is taken and pays the sum of
all weights. With weights 5, 1, 1 the turns are a a b a c a a, and not a a a a a b c. The weights here are the
capacities at the width in question; a server that was never observed counts as the fastest one seen.
"""

from __future__ import annotations

import math

from orchestrator.policies.memory import OF_SERVER, server_place
from orchestrator.policies.rules.width_rules import is_kept
from orchestrator.policies.tables.candidates import capacity_rps
from orchestrator.policies.tables.compiled import Column, Table, compiled


@compiled
def in_weighted_turn(width: float, timely: float, memory: Table, rows: Table, count: int, query: Column) -> int:
    """Return the row whose turn it is, and take the turn; OF_SERVER holds the credits."""
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
