"""The tables of a simulated world, put together.

What stands in which column is in ``orchestrator.simulation.world.columns``.
"""

from __future__ import annotations

from typing import NamedTuple

from orchestrator.policies.tables.compiled import Column, Table
from orchestrator.policies.tables.layout import Fleet, QueueHead, Scratch


class World(NamedTuple):
    """A simulated fleet with its router, whole.

    Attributes:
        fleet: what the router knows of the servers.
        head: what it decides about; written before each decision.
        rows: the candidates of that decision.
        scratch: room for it.
        rule: of the policy; see orchestrator.policies.rule.
        memory: what the policy remembers; see orchestrator.policies.memory.
        requests, truth, models, held, events, schedule, state: see ``columns``.
        service_s, energy_j: [server · columns + width, items - 1], what a batch takes at its mean.
        heap: requests that wait for a decision, a binary heap by priority, then deadline.
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
    heap: Column
    roots: Column
    sample: Column
