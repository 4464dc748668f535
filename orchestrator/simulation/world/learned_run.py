"""A world run by a learned policy: the event loop and the network in one compiled call.

Where the policy would not trust itself live, its base decides, as a guard whose fallback is the base would have it; how
often that is so is counted.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.errors import UntrustedError
from orchestrator.policies.learned import LearnedPolicy
from orchestrator.policies.learned.decide import BASE_ROW, Scorer, decide_by_scores
from orchestrator.policies.tables.compiled import Column, compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.loop import advance, apply

DECIDED: Final = 0
DISTRUSTED: Final = 1


def run_learned(world: World, policy: LearnedPolicy, until_s: float, counts: Column) -> None:
    """Run up to a time; add to ``counts`` the decisions, and those of them in which the base stood in."""
    scorer = policy.scorer(world.fleet.server_count * world.fleet.widths)
    if scorer is not None:
        _run_scored(world, scorer, until_s, counts)
        return
    while advance(world, until_s):
        rows, query, count = world.rows, world.head.query, int(world.state[sim.ROW_COUNT])
        counts[DECIDED] += 1
        try:
            row, items, _, hold_until_s = policy.choose_row(world.memory, rows, count, query)
        except UntrustedError:
            counts[DISTRUSTED] += 1
            row, items, _, hold_until_s = policy.base.choose_row(world.memory, rows, count, query)
        apply(world, row, items, hold_until_s)


@compiled
def _run_scored(world: World, scorer: Scorer, until_s: float, counts: Column) -> None:
    while advance(world, until_s):
        numbers, params, room, hidden = scorer
        memory, rows, count, query = world.memory, world.rows, int(world.state[sim.ROW_COUNT]), world.head.query
        decided = decide_by_scores(numbers, params, room, hidden, memory, rows, count, query)
        row, items, hold_until_s, unseen = decided
        counts[DECIDED] += 1
        if unseen >= 0:
            counts[DISTRUSTED] += 1
            base = scorer.room[BASE_ROW:]
            row, items, hold_until_s = int(base[0]), base[1], base[2]
        apply(world, row, items, hold_until_s if row < 0 else math.inf)
