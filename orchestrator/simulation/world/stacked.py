"""The tables of many worlds, with the world as their first axis.

Worlds may differ in everything, so each table is as large as the largest world needs, and those of smaller ones are
padded. ``world_of`` gives compiled code one of them as the very World that a Simulation runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.tables.compiled import compiled
from orchestrator.policies.tables.layout import Fleet, QueueHead, Scratch
from orchestrator.simulation.world.layout import World

Floats = NDArray[np.float64]


class RouterTables(NamedTuple):
    """What routers know and decide on; see World."""

    servers: Floats
    models: Floats
    batches: Floats
    query: Floats
    allowed: Floats
    avoided: Floats
    rows: Floats
    rule: Floats
    memory: Floats


class ScratchTables(NamedTuple):
    """Room for decisions; see orchestrator.policies.tables.layout.Scratch."""

    order: Floats
    busy: Floats
    place_of: Floats
    hull: Floats


class ServerTables(NamedTuple):
    """What servers really are, do and hold; see World."""

    truth: Floats
    models: Floats
    service_s: Floats
    energy_j: Floats
    held: Floats


class EventTables(NamedTuple):
    """What happens to requests, and what is to come; see World."""

    requests: Floats
    events: Floats
    schedule: Floats
    state: Floats
    heap: Floats
    roots: Floats
    sample: Floats


class WorldTables(NamedTuple):
    """The tables of one world, or with one more axis in front those of many.

    Attributes:
        router, scratch, servers, events: float64 arrays, by what they tell of.
        counts: int64 [4] or [worlds, 4], the numbers of a Fleet.
    """

    router: RouterTables
    scratch: ScratchTables
    servers: ServerTables
    events: EventTables
    counts: NDArray[np.int64]


def tables_of(world: World) -> WorldTables:
    """Return the tables of one world."""
    fleet, head, scratch = world.fleet, world.head, world.scratch

    def arrays(*tables: object) -> list[Floats]:
        return [np.asarray(table) for table in tables]

    known = arrays(fleet.servers, fleet.models, fleet.batches, *head, world.rows, world.rule, world.memory)
    servers = arrays(world.truth, world.models, world.service_s, world.energy_j, world.held)
    events = arrays(*(world.requests, world.events, world.schedule, world.state, world.heap, world.roots, world.sample))
    return WorldTables(
        RouterTables._make(known),
        ScratchTables._make(arrays(*scratch)),
        ServerTables._make(servers),
        EventTables._make(events),
        np.array([fleet.server_count, fleet.columns, fleet.widths, fleet.depth]),
    )


def stack(stacked: WorldTables | None, at: int, own: WorldTables, worlds: int) -> WorldTables:
    """Return the tables of ``worlds`` worlds with those of one written ``at`` its place; what is in the others stays.

    Args:
        stacked: so far; None: nothing yet. Its arrays are reused as far as they are large enough.
        at: index of the world.
        own: its tables.
        worlds: how many there are.
    """
    counts = np.zeros((worlds, len(own.counts)), np.int64) if stacked is None else stacked.counts
    counts[at] = own.counts

    def written(known: Sequence[Floats] | None, arrays: Sequence[Floats]) -> list[Floats]:
        if known is None:
            known = [np.zeros((worlds, *array.shape)) for array in arrays]
        known = [_with_room(many, one.shape) for many, one in zip(known, arrays, strict=True)]
        for many, one in zip(known, arrays, strict=True):
            many[at] = 0
            many[(at, *(slice(length) for length in one.shape))] = one
        return known

    router, scratch, servers, events = (None, None, None, None) if stacked is None else stacked[:4]
    return WorldTables(
        RouterTables._make(written(router, own.router)),
        ScratchTables._make(written(scratch, own.scratch)),
        ServerTables._make(written(servers, own.servers)),
        EventTables._make(written(events, own.events)),
        counts,
    )


def _with_room(stacked: Floats, shape: tuple[int, ...]) -> Floats:
    """Return an array with room for one of a shape in each of its worlds; what is in it stays."""
    known = stacked.shape[1:]
    if all(length <= most for length, most in zip(shape, known, strict=True)):
        return stacked
    larger = np.zeros((len(stacked), *np.maximum(known, shape)))
    larger[tuple(slice(length) for length in stacked.shape)] = stacked
    return larger


@compiled
def world_of(tables: WorldTables, at: int) -> World:
    """Return one of the worlds, by index; what is written into it is written into the tables."""
    router, scratch, servers, events, counts = (
        tables.router,
        tables.scratch,
        tables.servers,
        tables.events,
        tables.counts[at],
    )
    return World(
        Fleet(router.servers[at], router.models[at], router.batches[at], counts[0], counts[1], counts[2], counts[3]),
        QueueHead(router.query[at], router.allowed[at], router.avoided[at]),
        router.rows[at],
        Scratch(scratch.order[at], scratch.busy[at], scratch.place_of[at], scratch.hull[at]),
        router.rule[at],
        router.memory[at],
        events.requests[at],
        servers.truth[at],
        servers.models[at],
        servers.service_s[at],
        servers.energy_j[at],
        servers.held[at],
        events.events[at],
        events.schedule[at],
        events.state[at],
        events.heap[at],
        events.roots[at],
        events.sample[at],
    )
