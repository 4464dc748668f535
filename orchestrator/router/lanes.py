"""The router's queue: lanes of requests that may share a group, each ordered by deadline.

A request whose caller gave up is ``withdrawn``: its items leave the count at once, itself stays in its heap until it
comes to the top. Equal deadlines keep the order of arrival.
"""

from __future__ import annotations

import heapq
import itertools

from orchestrator.router.request import LaneKey, PendingRequest
from orchestrator.snapshot import QueueState, ServerName, Width

_SAMPLE = 20
_TAIL_RATIO = 0.9


class Lane:
    """Requests of one key, earliest deadline first."""

    def __init__(self, key: LaneKey) -> None:
        self.key = key
        self.items = 0
        self._heap: list[tuple[float, int, PendingRequest]] = []
        self._order = itertools.count()

    def push(self, request: PendingRequest) -> None:
        """Add a request."""
        heapq.heappush(self._heap, (request.deadline_s, next(self._order), request))
        self.items += request.items
        request.withdraw = lambda: self._withdraw(request)

    def head(self) -> PendingRequest | None:
        """Return the request with the earliest deadline whose caller still waits; None when there is none."""
        while self._heap and self._heap[0][2].future.done():
            self._pop()
        return self._heap[0][2] if self._heap else None

    def take(self, items: int) -> list[PendingRequest]:
        """Remove and return requests from the head on, together at most ``items``; at least the head."""
        group: list[PendingRequest] = []
        total = 0
        while (head := self.head()) is not None and (not group or total + head.items <= items):
            self._pop()
            group.append(head)
            total += head.items
        return group

    def state(self, head: PendingRequest) -> QueueState:
        """Return this lane as a policy sees it; ``head`` is its head."""
        return QueueState(
            items=self.items,
            head_items=head.items,
            head_deadline_s=head.deadline_s,
            tail_deadline_s=self._tail_deadline_s(),
            allowed_widths=self.key.widths,
            min_accuracy=self.key.min_accuracy,
        )

    def _tail_deadline_s(self) -> float:
        """Return when nine of ten are due, by a sample spread evenly over the heap.

        The latest deadline would not do: one request with a minute to spare says nothing of the thousand behind it.
        """
        step = max(1, len(self._heap) // _SAMPLE)
        deadlines_s = sorted(entry[0] for entry in self._heap[::step])
        return deadlines_s[int(_TAIL_RATIO * (len(deadlines_s) - 1))]

    def _withdraw(self, request: PendingRequest) -> None:
        self.items -= request.items
        request.withdraw = None

    def _pop(self) -> None:
        request = heapq.heappop(self._heap)[2]
        if request.withdraw is not None:
            request.withdraw()


class Lanes:
    """All lanes of a router."""

    def __init__(self) -> None:
        self._lanes: dict[LaneKey, Lane] = {}

    @property
    def items(self) -> int:
        """Items that wait, in all lanes."""
        return sum(lane.items for lane in self._lanes.values())

    def push(self, key: LaneKey, request: PendingRequest) -> None:
        """Add a request to the lane of ``key``."""
        if key not in self._lanes:
            self._lanes[key] = Lane(key)
        self._lanes[key].push(request)

    def heads(self) -> list[tuple[Lane, PendingRequest]]:
        """Return every lane that has a waiting caller with its head, earliest deadline first; drop empty lanes."""
        found: list[tuple[Lane, PendingRequest]] = []
        for key, lane in list(self._lanes.items()):
            head = lane.head()
            if head is None:
                del self._lanes[key]
            else:
                found.append((lane, head))
        return sorted(found, key=lambda pair: pair[1].deadline_s)

    def bound_items(self, server: ServerName) -> tuple[tuple[LaneKey, Width, int], ...]:
        """Return the lanes bound to a server, each with the width it is bound to and its items."""
        return tuple(
            (key, key.bound_to[1], lane.items)
            for key, lane in self._lanes.items()
            if key.bound_to is not None and key.bound_to[0] == server and lane.items
        )

    def bound_keys(self) -> list[LaneKey]:
        """Return the keys of lanes that early binding has bound to a server."""
        return [key for key in self._lanes if key.bound_to is not None]

    def take_all(self, only: LaneKey | None = None) -> list[PendingRequest]:
        """Remove and return every waiting request, or those of one lane, earliest deadline first in each lane."""
        keys = list(self._lanes) if only is None else [only]
        taken: list[PendingRequest] = []
        for key in keys:
            lane = self._lanes.pop(key)
            while (head := lane.head()) is not None:
                taken += lane.take(head.items)
        return taken
