"""What a policy decides, with its reason."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from orchestrator.snapshot import ServerName, Width


class Reason(StrEnum):
    """Why a decision came out as it did; operators read it and tests assert it."""

    DRAWN = "drawn by lot"
    NEXT_IN_TURN = "next in turn"
    FEWEST_ITEMS = "fewest items"
    LEAST_COMPLETION = "least expected completion"
    BETTER_SERVER_BUSY = "a better server is busy"
    NO_CANDIDATE = "no server serves an allowed width"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run the head of the queue, with what is expected of it.

    Attributes:
        server: to send to.
        width: to run at.
        items: to send together.
        accuracy: of that width, 0..1.
        service_s: expected time of the group alone on the server.
        completion_s: expected time from now to its answer, behind what the server already has.
        head_completion_s: the same, were the head sent alone.
        drain_s: expected time from now until all that waits would be answered, were this width used on all servers.
        server_items: that the server already has.
        has_room: whether it can be sent now.
    """

    server: ServerName
    width: Width
    items: int
    accuracy: float
    service_s: float
    completion_s: float
    head_completion_s: float
    drain_s: float
    server_items: int
    has_room: bool


@dataclass(frozen=True, slots=True)
class Dispatch:
    """Run the head, and what fits with it, so."""

    candidate: Candidate
    reason: Reason


@dataclass(frozen=True, slots=True)
class Hold:
    """Decide again when something has changed: a request came, a group was answered, a server returned."""

    reason: Reason


Decision = Dispatch | Hold
