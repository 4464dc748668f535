"""The tables of a simulated world, put together; and those of many, with the world as their first axis.

What stands in which column is in ``orchestrator.simulation.world.columns``. Worlds may differ in everything, so each
table of many is as large as the largest world needs, and those of smaller ones are padded. ``world_of`` gives compiled
code one of them as the very World that a Simulation runs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.policies.tables.layout import Fleet, QueueHead, Scratch


class World(NamedTuple):
    """A simulated fleet with its router, whole.

    Attributes:
        fleet: what the router knows of the servers.
        head: what it decides about; written before each decision.
        rows: the candidates of that decision.
        scratch: room for it.
        rule: of the policy; see orchestrator.policies.rule.
        memory: what the policy remembers of each family, one below the other; see orchestrator.policies.tables.memory.
        requests, truth, models, held, events, schedule, state, hosts, factors, common, inbox, queues: see ``columns``.
        service_s, energy_j: [server · columns + width, items - 1], what a batch takes at its mean.
        heap: [family, entry], requests that wait for a decision, of each family a binary heap by priority, then
            deadline.
        roots: the first request that is bound to each server and width, -1 when there is none.
        sample: room for the deadlines that the tail is estimated from.
    """

    fleet: Fleet
    head: QueueHead
    rows: Table
    scratch: Scratch
    rule: Column
    memory: Table
    requests: Table
    truth: Table
    models: Table
    service_s: Table
    energy_j: Table
    held: Table
    events: Table
    schedule: Table
    state: Column
    heap: Table
    roots: Column
    sample: Column
    hosts: Table
    factors: Table
    common: Table
    inbox: Table
    queues: Table


class StackedWorlds(NamedTuple):
    """Worlds in one.

    Attributes:
        tables: a world whose arrays have one more axis in front; the numbers of its fleet say nothing.
        counts: int64 [worlds, 4], the numbers of each world's Fleet.
    """

    tables: World
    counts: NDArray[np.int64]


def stack(stacked: StackedWorlds | None, at: int, own: World, worlds: int) -> StackedWorlds:
    """Return ``worlds`` worlds with those so far and one written ``at`` its index; arrays are reused where they fit."""
    known, counts = (own, np.zeros((worlds, 4), np.int64)) if stacked is None else stacked
    counts[at] = own.fleet[3:]
    return StackedWorlds(_written(known, own, at, worlds), counts)


def _written(many: Any, one: Any, at: int, worlds: int) -> Any:
    """Return the arrays of ``many``, part by part, with those of ``one`` in them."""
    if isinstance(one, tuple):
        return type(one)(*(_written(known, part, at, worlds) for known, part in zip(many, one, strict=True)))
    if isinstance(one, int):
        return one
    if many is one:  # there is nothing yet
        many = np.zeros((worlds, *one.shape))
    elif not all(length <= most for length, most in zip(one.shape, many.shape[1:], strict=True)):
        larger = np.zeros((worlds, *np.maximum(many.shape[1:], one.shape)))
        larger[tuple(map(slice, many.shape))] = many
        many = larger
    many[at] = 0
    many[(at, *map(slice, one.shape))] = one
    return many


def world_at(stacked: StackedWorlds, at: int) -> World:
    """Return one of the worlds, by index; what is written into it is written into the tables."""
    tables, counts = stacked.tables, stacked.counts[at]
    fleet, head, scratch = tables.fleet, tables.head, tables.scratch
    return World(
        Fleet(fleet.servers[at], fleet.models[at], fleet.batches[at], counts[0], counts[1], counts[2], counts[3]),
        QueueHead(head.query[at], head.allowed[at], head.avoided[at]),
        tables.rows[at],
        Scratch(scratch.order[at], scratch.busy[at], scratch.row_of[at], scratch.hull[at]),
        tables.rule[at],
        tables.memory[at],
        tables.requests[at],
        tables.truth[at],
        tables.models[at],
        tables.service_s[at],
        tables.energy_j[at],
        tables.held[at],
        tables.events[at],
        tables.schedule[at],
        tables.state[at],
        tables.heap[at],
        tables.roots[at],
        tables.sample[at],
        tables.hosts[at],
        tables.factors[at],
        tables.common[at],
        tables.inbox[at],
        tables.queues[at],
    )


world_of = compiled(world_at)
"""``world_at`` for compiled code, which can't hand arrays to Python that it has made of others."""
