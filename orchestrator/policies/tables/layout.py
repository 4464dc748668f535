"""The tables on which decisions are made, put together, and what a decision is in them.

What stands in which column is in ``orchestrator.policies.tables.columns``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from orchestrator.decision import Reason
from orchestrator.policies.tables.compiled import Column, Table

HOLD: Final = -1
"""In place of a row: nothing is sent now."""
REJECT: Final = -2
"""In place of a row: the head is given up."""

REASONS: Final = tuple(Reason)
"""A reason's code is its index here."""


class Fleet(NamedTuple):
    """What is known of a fleet.

    Attributes:
        servers, models, groups: the tables, see ``columns``.
        server_count: how many servers there are.
        columns: models of a server.
        widths: how many of them are of the family in question, the first ones.
        depth: groups that a server may hold.
    """

    servers: Table
    models: Table
    batches: Table
    server_count: int
    columns: int
    widths: int
    depth: int


class QueueHead(NamedTuple):
    """What waits for a decision.

    Attributes:
        query: see ``columns``.
        allowed: 1 for each width that the head accepts, else 0.
        avoided: 1 for each server to use only when there is no other, else 0.
    """

    query: Column
    allowed: Column
    avoided: Column


class Scratch(NamedTuple):
    """Room for intermediate results; what it holds between decisions makes the next one cheaper, and no other.

    Attributes:
        order: [width, server], the servers by seconds an item.
        busy: a place for each group that a server may hold, see orchestrator.policies.tables.occupancy.
        place_of: for each server and width.
        hull: for each server.
    """

    order: Table
    busy: Table
    place_of: Column
    hull: Column
