"""Runs: what an instance takes at a time, one batch or several that the server's dynamic batcher has joined.

Without a dynamic batcher each batch is a run, and runs start in the order in which batches were sent. With one, as in
Triton without a delay, an instance that is free takes all that waits for its width, up to a full batch, and waits for
the device with it; nothing joins it any more, and runs start in the order in which they were taken.

A run stands where its first batch does: TAKEN_ORDER and RUN_SIZE are there, and LEADER leads to it.
"""

from __future__ import annotations

import math

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World


@compiled
def take_runs(world: World, server: int) -> None:
    """Let the instances of a server that are free take what waits."""
    fleet, held, state = world.fleet, world.held, world.state
    joins = world.truth[sim.JOINS][server] != 0
    end = _end(world, server)
    for slot in range(server * fleet.depth, end):
        if held[sim.LEADER][slot] != 0:
            continue
        column = fleet.batches[col.COLUMN][slot]
        model = server * fleet.columns + int(column)
        if joins and _taken(world, server, column) >= fleet.models[col.INSTANCES][model]:
            continue
        state[sim.RUNS] += 1
        held[sim.TAKEN_ORDER][slot] = state[sim.RUNS]
        size = 0.0
        for at in range(slot, end if joins else slot + 1):
            if fleet.batches[col.COLUMN][at] != column or held[sim.LEADER][at] != 0:
                continue
            items = fleet.batches[col.ITEMS][at]
            if size > 0 and size + items > fleet.models[col.MAX_BATCH][model]:
                break
            size += items
            held[sim.LEADER][at] = held[sim.BATCH_ID][slot]
        held[sim.RUN_SIZE][slot] = size


@compiled
def next_run(world: World, server: int) -> int:
    """Return the slot of the first batch of the run that starts next; -1 when none is taken."""
    held, found, least = world.held, -1, math.inf
    for slot in range(server * world.fleet.depth, _end(world, server)):
        order = held[sim.TAKEN_ORDER][slot]
        if order != 0 and order < least and math.isnan(held[sim.STARTED_S][slot]):
            found, least = slot, order
    return found


@compiled
def start_run(world: World, server: int, slot: int, takes_s: float, alone_s: float, is_seen: bool) -> None:
    """Let the batches of a run be under way.

    It takes ``takes_s``, and beside no other it would take ``alone_s``; ``is_seen``: the router knows that they are.
    """
    held, now_s, leader = world.held, world.state[sim.NOW_S], world.held[sim.LEADER][slot]
    size = held[sim.RUN_SIZE][slot]
    for at in range(slot, _end(world, server)):
        if held[sim.LEADER][at] == leader:
            held[sim.STARTED_S][at], held[sim.TAKES_S][at], held[sim.RUN_SIZE][at] = now_s, takes_s, size
            held[sim.ALONE_S][at] = alone_s
            if is_seen:
                world.fleet.batches[col.BEGAN_S][at] = now_s


@compiled
def running_slot(world: World, server: int, leader: float) -> int:
    """Return the slot of a batch of the run that batch ``leader`` leads, and that has not ended; -1 when none is."""
    held = world.held
    for slot in range(server * world.fleet.depth, _end(world, server)):
        if held[sim.LEADER][slot] == leader and _is_open(world, slot):
            return slot
    return -1


@compiled
def _taken(world: World, server: int, column: float) -> float:
    """Return how many runs of a width are taken and have not ended."""
    fleet, taken = world.fleet, 0.0
    for slot in range(server * fleet.depth, _end(world, server)):
        if fleet.batches[col.COLUMN][slot] == column and world.held[sim.TAKEN_ORDER][slot] != 0:
            taken += _is_open(world, slot)
    return taken


@compiled
def _is_open(world: World, slot: int) -> bool:
    return world.held[sim.HAS_RUN][slot] == 0 and math.isnan(world.held[sim.DONE_S][slot])


@compiled
def _end(world: World, server: int) -> int:
    fleet = world.fleet
    return server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])
