"""What families that share the servers of a simulated fleet owe each other, as in a live router.

The rules are those of orchestrator.policies.family_turns, the very functions, on the table of the queues. A family has
a range of the fleet's columns, a heap and a memory of its own. With one family none of this does anything; its classes,
if it has several, take turns by priority and deadline alone, and share one memory.
"""

from __future__ import annotations

import math

from orchestrator.policies import family_turns
from orchestrator.policies.family_turns import FairShare
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.policies.tables.memory import MEMORY_FIELDS
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

mark_leading = compiled(family_turns.mark_leading)
_charge = compiled(family_turns.charge)
_fair_share = compiled(family_turns.fair_share)


@compiled
def memory_place(world: World) -> int:
    """Return the first of MEMORY_FIELDS rows of what is remembered of the family that a decision is about."""
    return family_of(world, int(world.state[sim.ASKED])) * MEMORY_FIELDS


@compiled
def family_of(world: World, own: int) -> int:
    """Return the family of a class."""
    return own if world.state[sim.FAMILIES] > 1 else 0


@compiled
def fair_share(world: World, family: int) -> FairShare:
    """Return how a family stands with the others."""
    families = int(world.state[sim.FAMILIES])
    if families == 1:
        return FairShare(1.0, False, math.inf)
    return _fair_share(world.queues, families, family, float(world.fleet.server_count), world.state[sim.NOW_S])


@compiled
def begin_decision(world: World, own: int) -> float:
    """Have candidates made for a class: of its family's widths, and without room to wait at servers where it may not.

    Returns how many batches of a width may wait at a server else, for ``end_decision``.
    """
    fleet, state = world.fleet, world.state
    state[sim.ASKED] = own
    if state[sim.FAMILIES] == 1:
        return 0.0
    family = own
    first, end = world.queues[sim.FIRST_COLUMN][family], world.queues[sim.END_COLUMN][family]
    for column in range(fleet.widths):
        world.head.allowed[column] = 1.0 if first <= column < end else 0.0
    if fair_share(world, family).longest_run_s == math.inf:
        return 0.0
    waiting = fleet.servers[col.WAITING_LIMIT][0]  # the same at all servers
    _limit_waiting(world, -waiting)
    return waiting


@compiled
def end_decision(world: World, waiting: float) -> None:
    """Let batches wait at servers again."""
    if waiting > 0:
        _limit_waiting(world, waiting)


@compiled
def _limit_waiting(world: World, more: float) -> None:
    for server in range(world.fleet.server_count):
        world.fleet.servers[col.WAITING_LIMIT][server] += more
        world.fleet.servers[col.BATCH_LIMIT][server] += more


@compiled
def most_items(world: World, family: int, model: int, items: float) -> float:
    """Return how many of so many items a batch may have, by what it may take of others' time; at least one."""
    longest_s, models = fair_share(world, family).longest_run_s, world.fleet.models
    per_item_s = models[col.PER_ITEM_S][model]
    if longest_s == math.inf or per_item_s <= 0:
        return items
    return max(1.0, min(items, math.floor((longest_s - models[col.FIXED_S][model]) / per_item_s)))


@compiled
def note_refused(world: World, family: int, allowed_s: float) -> None:
    """Count a request of a family that was refused, and had so long from when it came to its deadline."""
    if world.state[sim.FAMILIES] > 1:
        _charge(world.queues, family, 0.0, allowed_s, world.state[sim.NOW_S])


@compiled
def charge(world: World, family: int, model: int, first: int, items: float) -> None:
    """Count a batch of a family that is sent now; ``first`` is its first request."""
    if world.state[sim.FAMILIES] > 1:
        models, requests = world.fleet.models, world.requests
        run_s = models[col.PER_ITEM_S][model] * items + models[col.FIXED_S][model]
        allowed_s = requests[sim.DUE_S][first] - requests[sim.ARRIVED_S][first]
        _charge(world.queues, family, run_s, allowed_s, world.state[sim.NOW_S])
