"""The router's queue: lanes of requests that may share a group, each by priority, then by deadline.

A request leaves the count of its lane when it is taken, withdrawn by its caller, or given up; only taken ones leave the
heap at once. The others are dropped when they come to the top, and all together when most of a heap is such; so nothing
is searched for, and neither items nor bytes pile up. Equal deadlines keep the order of arrival.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from orchestrator.router.queue.request import NO_ITEMS, LaneKey, PendingRequest
from orchestrator.snapshot import Family, QueueState, ServerName, Width

_SAMPLE = 20
_TAIL_RATIO = 0.9
_FEW = 64  # dead entries that are never worth a rebuild


@dataclass(slots=True)
class Backlog:
    """What waits in all lanes together."""

    requests: int = 0
    items: int = 0
    size_bytes: int = 0

    def add(self, request: PendingRequest, sign: int = 1) -> None:
        """Count a request, or with ``sign`` -1 count it no more."""
        self.requests += sign
        self.items += sign * request.items
        self.size_bytes += sign * request.batch.nbytes


@dataclass(frozen=True, slots=True)
class QueueEstimate:
    """What the last decision about a lane, or one of the same widths, told of it.

    Attributes:
        fastest_s: the least expected time of one item alone on an idle server.
        item_drain_s: the least expected time for each item that waits, were the queue drained at one width.
        most_rps: items a second that all servers answer at their quickest; None while little waits.
    """

    fastest_s: float = 0.0
    item_drain_s: float | None = None
    most_rps: float | None = None


UNKNOWN = QueueEstimate()


class Lane:
    """Requests of one key, highest priority first, then earliest deadline first."""

    def __init__(self, key: LaneKey, backlog: Backlog | None = None, estimate: QueueEstimate = UNKNOWN) -> None:
        self.key = key
        self.estimate = estimate
        self._own = Backlog()
        self._all = backlog or Backlog()
        self._heap: list[tuple[int, float, int, PendingRequest]] = []
        self._order = itertools.count()

    @property
    def items(self) -> int:
        """Items that wait."""
        return self._own.items

    def push(self, request: PendingRequest) -> None:
        """Add a request."""
        heapq.heappush(self._heap, (request.priority, request.deadline_s, next(self._order), request))
        self._own.add(request)
        self._all.add(request)
        request.lane = self

    def drop(self, request: PendingRequest) -> None:
        """Count a request of this lane no more; called by ``PendingRequest.withdraw``."""
        self._uncount(request)
        if not request.under_way:  # else it may be sent again
            request.batch = NO_ITEMS  # its entry may stay for a while, its tensor must not
        if len(self._heap) > 2 * self._own.requests + _FEW:
            self._heap = [entry for entry in self._heap if entry[3].lane is self]
            heapq.heapify(self._heap)

    def head(self) -> PendingRequest | None:
        """Return the first request whose caller still waits; None when there is none."""
        while self._heap:
            request = self._heap[0][3]
            if request.lane is self:
                if not request.is_over:
                    return request
                request.withdraw()
            if self._heap and self._heap[0][3] is request:
                heapq.heappop(self._heap)
        return None

    def take(self, items: int) -> list[PendingRequest]:
        """Remove and return requests from the head on, together at most ``items``; at least the head."""
        batch: list[PendingRequest] = []
        total = 0
        while (head := self.head()) is not None and (not batch or total + head.items <= items):
            heapq.heappop(self._heap)
            self._uncount(head)
            batch.append(head)
            total += head.items
        return batch

    def waiting(self) -> Iterator[PendingRequest]:
        """Yield the requests whose callers still wait, in no order."""
        return (entry[3] for entry in self._heap if entry[3].lane is self and not entry[3].is_over)

    def state(self, head: PendingRequest) -> QueueState:
        """Return this lane as a policy sees it; ``head`` is its head."""
        key = self.key
        return QueueState(
            items=self._own.items,
            head_items=head.items,
            head_deadline_s=head.deadline_s,
            tail_deadline_s=self._tail_deadline_s(),
            allowed_widths=key.widths,
            min_accuracy=key.min_accuracy,
            priority=head.priority,
            max_per_item_j=key.max_per_item_j,
            preference=key.preference,
            head_arrived_s=head.arrived_s,
        )

    def items_before(self, request: PendingRequest) -> float:
        """Return about how many items go before a request of this lane is done, by a sample spread over the heap."""
        step = max(1, len(self._heap) // _SAMPLE)
        sample = self._heap[::step]
        own = (request.priority, request.deadline_s)
        return self._own.items * sum(entry[:2] <= own for entry in sample) / len(sample)

    def _tail_deadline_s(self) -> float:
        """Return when nine of ten are due, by a sample spread evenly over the heap.

        The latest deadline would not do: one request with a minute to spare says nothing of the thousand behind it.
        """
        step = max(1, len(self._heap) // _SAMPLE)
        deadlines_s = sorted(entry[1] for entry in self._heap[::step])
        return deadlines_s[int(_TAIL_RATIO * (len(deadlines_s) - 1))]

    def _uncount(self, request: PendingRequest) -> None:
        self._own.add(request, -1)
        self._all.add(request, -1)
        request.lane = None


def _ignore(lane: Lane, request: PendingRequest) -> None:
    pass


class Lanes:
    """All lanes of a router.

    Attributes:
        backlog: what waits in all of them.
        on_queued: called with each request that was pushed, and its lane.
    """

    def __init__(self) -> None:
        self.backlog = Backlog()
        self.on_queued: Callable[[Lane, PendingRequest], None] = _ignore
        self._lanes: dict[LaneKey, Lane] = {}
        self._estimates: dict[
            tuple[Family, tuple[Width, ...]], QueueEstimate
        ] = {}  # lanes come and go; few have other widths
        self._bound_lanes = 0
        self._worst: list[tuple[int, float, int, PendingRequest]] | None = None  # a heap, kept only while it is full
        self._order = itertools.count()

    @property
    def items(self) -> int:
        """Items that wait, in all lanes."""
        return self.backlog.items

    def push(self, key: LaneKey, request: PendingRequest) -> None:
        """Add a request to the lane of ``key``."""
        lane = self._lanes.get(key)
        if lane is None:
            known = self._estimates.get((key.family, key.widths), UNKNOWN)
            lane = self._lanes[key] = Lane(key, self.backlog, known)
            self._bound_lanes += key.bound_to is not None
        lane.push(request)
        if self._worst is not None:
            if len(self._worst) > 2 * self.backlog.requests + _FEW:
                self._worst = None  # most of it is gone; built anew when it is asked for
            else:
                heapq.heappush(self._worst, self._worst_entry(request))
        self.on_queued(lane, request)

    def heads(self) -> list[tuple[Lane, PendingRequest]]:
        """Return every lane that has a waiting caller with its head, the most urgent first; drop empty lanes."""
        found: list[tuple[Lane, PendingRequest]] = []
        for key, lane in list(self._lanes.items()):
            head = lane.head()
            if head is None:
                del self._lanes[key]
                self._bound_lanes -= key.bound_to is not None
            else:
                found.append((lane, head))
        if len(found) > 1:
            found.sort(key=lambda pair: (pair[1].priority, pair[1].deadline_s))
        return found

    def make_room(
        self, *, items: int, size_bytes: int, before: tuple[int, float], limit_items: int, limit_bytes: float
    ) -> list[PendingRequest] | None:
        """Return the waiting requests that must go for another one to fit; None when there are not enough.

        Args:
            items: of the other one.
            size_bytes: of the other one.
            before: its priority and deadline; only what comes after it may have to go, the last first.
            limit_items: what may wait together.
            limit_bytes: likewise.
        """
        over_items = self.backlog.items + items - limit_items
        over_bytes = self.backlog.size_bytes + size_bytes - limit_bytes
        if over_items <= 0 and over_bytes <= 0:
            if self.backlog.items < limit_items // 2:
                self._worst = None
            return []
        if self._worst is None:
            self._worst = [self._worst_entry(r) for lane in self._lanes.values() for r in lane.waiting()]
            heapq.heapify(self._worst)
        victims: list[tuple[int, float, int, PendingRequest]] = []
        while over_items > 0 or over_bytes > 0:
            while self._worst and (self._worst[0][3].lane is None or self._worst[0][3].is_over):
                heapq.heappop(self._worst)
            if not self._worst or (-self._worst[0][0], -self._worst[0][1]) <= before:
                for entry in victims:
                    heapq.heappush(self._worst, entry)
                return None
            victims.append(heapq.heappop(self._worst))
            over_items -= victims[-1][3].items
            over_bytes -= victims[-1][3].batch.nbytes
        return [entry[3] for entry in victims]

    def note_estimate(self, lane: Lane, estimate: QueueEstimate) -> None:
        """Remember what a decision told of a lane."""
        lane.estimate = self._estimates[lane.key.family, lane.key.widths] = estimate

    def drain_s(self) -> float | None:
        """Return how long all that waits is expected to take, by the last decision about each lane; None: unknown."""
        times_s = [
            lane.items * lane.estimate.item_drain_s
            for lane in self._lanes.values()
            if lane.estimate.item_drain_s is not None
        ]
        return sum(times_s) if times_s else None

    def bound_items(self, server: ServerName) -> tuple[tuple[LaneKey, Width, int], ...]:
        """Return the lanes bound to a server, each with the width it is bound to and its items."""
        return tuple(
            (key, key.bound_to[1], lane.items)
            for key, lane in self._lanes.items()
            if key.bound_to is not None and key.bound_to[0] == server and lane.items
        )

    @property
    def has_bound(self) -> bool:
        """Whether there may be lanes that early binding has bound to a server."""
        return self._bound_lanes > 0

    def bound_keys(self) -> list[LaneKey]:
        """Return the keys of lanes that early binding has bound to a server."""
        return [key for key in self._lanes if key.bound_to is not None] if self._bound_lanes else []

    def take_all(self, only: LaneKey | None = None) -> list[PendingRequest]:
        """Remove and return every waiting request, or those of one lane, in the order of each lane."""
        keys = list(self._lanes) if only is None else [only]
        taken: list[PendingRequest] = []
        for key in keys:
            lane = self._lanes.pop(key)
            self._bound_lanes -= key.bound_to is not None
            while (head := lane.head()) is not None:
                taken += lane.take(head.items)
        return taken

    def _worst_entry(self, request: PendingRequest) -> tuple[int, float, int, PendingRequest]:
        # Of equals the last to come goes first.
        return (-request.priority, -request.deadline_s, -next(self._order), request)
