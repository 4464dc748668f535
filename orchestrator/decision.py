"""What a policy decides, with its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

from orchestrator.snapshot import ServerName, Width


class Reason(StrEnum):
    """Why a decision came out as it did; operators read it and tests assert it."""

    DRAWN = "drawn by lot"
    NEXT_IN_TURN = "next in turn"
    FEWEST_ITEMS = "fewest items"
    LEAST_COMPLETION = "least expected completion"
    LEAST_DELAY = "shortest expected delay"
    BETTER_OF_TWO = "the better of two drawn by lot"
    DRAWN_BY_CAPACITY = "drawn by lot, by capacity"
    SLACK_BUCKET = "fills the slack of the head"
    MOST_ACCURATE = "the most accurate in time"
    LARGEST_BATCH = "the largest batch in time"
    NONE_IN_TIME = "nothing is in time, so what drains first"
    BEST_BY_PREFERENCE = "the best by what the request prefers"
    HIGHEST_SCORE = "the highest score of a learned policy"
    BETTER_SERVER_BUSY = "a better server is busy"
    LEAST_WORK = "the least work left"
    WEIGHTED_TURN = "next in turn, by capacity"
    BEYOND_THRESHOLD = "enough waits for a server so slow"
    BATCH_IN_TIME = "the largest batch that should be in time"
    BATCH_FULL = "as many wait as make a batch"
    HEAD_IS_DUE = "the head can't wait any longer"
    WAITS_FOR_BATCH = "waits for a fuller batch"
    CANT_BE_IN_TIME = "no server can be in time"
    CHEAPEST = "the cheapest within the objective"
    LOAD_LEVEL = "the widest that the load allows"
    LEAST_ENERGY = "the least energy in time"
    PLANNED_SHARE = "drawn by lot, by the plan's shares"
    BELOW_CEILING = "least expected completion, below the ceiling that misses have lowered"
    NO_CANDIDATE = "no server serves an allowed width"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A way to run the head of the queue, with what is expected of it.

    Attributes:
        items: The items that would be sent together.
        accuracy: The width's accuracy, 0..1.
        service_s: The expected time of the batch alone on the server.
        completion_s: The expected time from now to its answer, behind what the server already has.
        head_completion_s: The same, were the head sent alone.
        drain_s: The expected time until all that waits would be answered, were this width used on all servers.
        server_items: The items that the server already has.
        has_room: Whether the server can be sent a batch of this width now.
        wait_s: The expected time until an instance is free for it.
        per_item_s: The expected time that an item adds to a batch.
        fixed_s: The expected time of a batch besides its items.
        instances: The instances of this width on the server.
        overdue_ratio: How many times longer than expected, the margin included, the server already takes over what
            it runs; 1 while it is in time.
        per_item_j: The expected energy that an item adds to a batch; None while that is unknown.
        fixed_j: The expected energy of a batch besides its items; None as per_item_j.
        backlog_s: The expected work that the whole server has, what is bound to it included.
        margin: How many times its expected time an answer may take, by what was observed (orchestrator.profile.margin);
            None: as many as the situation says.
        utilisation_ratio: How busy the server's device is, 0..1; None, as the two that follow, while unknown.
        memory_ratio: The part of its memory that is used.
        power_ratio: The power that it draws, over the most that it has drawn.
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
    wait_s: float
    per_item_s: float
    fixed_s: float
    max_batch_size: int
    instances: int
    overdue_ratio: float
    per_item_j: float | None = None
    fixed_j: float | None = None
    backlog_s: float = 0.0
    margin: float | None = None
    utilisation_ratio: float | None = None
    memory_ratio: float | None = None
    power_ratio: float | None = None

    @property
    def energy_j(self) -> float | None:
        """Expected joules of the whole batch; None while unknown, never 0 for that."""
        if self.per_item_j is None or self.fixed_j is None:
            return None
        return self.per_item_j * self.items + self.fixed_j

    @property
    def capacity_rps(self) -> float:
        """Items a second when every instance runs full batches; infinite while it is guessed to be instant."""
        service_s = self.per_item_s * self.max_batch_size + self.fixed_s
        return self.instances * self.max_batch_size / service_s if service_s > 0 else math.inf

    def completion_s_of(self, items: int) -> float:
        """Return when another batch, from the head on, would be answered, in seconds from now."""
        return self.wait_s + self.per_item_s * items + self.fixed_s

    def with_items(self, items: int) -> Candidate:
        """Return the same candidate with another batch, from the head on."""
        service_s = self.per_item_s * items + self.fixed_s
        return replace(self, items=items, service_s=service_s, completion_s=self.completion_s_of(items))


@dataclass(frozen=True, slots=True)
class Dispatch:
    """The decision to run the head, and what fits with it, on a candidate."""

    candidate: Candidate
    reason: Reason


@dataclass(frozen=True, slots=True)
class Hold:
    """The decision to wait until something has changed: a request came, a batch was answered, a server returned.

    Attributes:
        until_s: When to decide again at the latest, on the clock of ``Situation.now_s``; None: when something changes.
    """

    reason: Reason
    until_s: float | None = None


@dataclass(frozen=True, slots=True)
class Reject:
    """The decision to give the head up: its caller is asked at once to come again later."""

    reason: Reason


Decision = Dispatch | Hold | Reject
