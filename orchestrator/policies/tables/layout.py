"""The tables on which decisions are made, put together, and what a decision is in them.

What stands in which column is in ``orchestrator.policies.tables.columns``.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from orchestrator.decision import Reason
from orchestrator.policies.tables.compiled import Column, Table

HOLD: Final = -1
"""The choice to send nothing now, in place of a row."""
REJECT: Final = -2
"""The choice to give the head up, in place of a row."""

Choice = tuple[int, float, int, float]
"""What is decided: the row to dispatch (or HOLD, REJECT), the items, the code of the reason, and until when to hold on
the router's clock; infinite: until something changes."""

REASONS: Final = tuple(Reason)
"""All reasons; the code of each is its index."""


class Fleet(NamedTuple):
    """What is known of a fleet.

    Attributes:
        servers, models, batches: the tables, see ``columns``.
        columns: models of a server.
        widths: how many of them are of the family in question, the first ones.
        depth: batches that a server may hold.
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
        busy: a place for each batch that a server may hold, see orchestrator.policies.tables.occupancy.
        row_of: [server · widths + width], the row of each server and width, -1 where there is none.
        hull: for each server.
    """

    order: Table
    busy: Table
    row_of: Column
    hull: Column
