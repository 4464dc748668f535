"""The router's queues: requests that may share a batch wait in one, each by priority, then by deadline.

A request leaves the count of its queue when it is taken, withdrawn by its caller, or given up; only taken ones leave
the heap at once. The others are dropped when they come to the top, and all together when most of a heap is such; so
nothing is searched for, and neither items nor bytes pile up. Equal deadlines keep the order of arrival.

The rules are those of ``orchestrator.policies.queue_rules``, which the simulator's queue follows too.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from orchestrator.policies.family_turns import FamilyTurns
from orchestrator.policies.queue_rules import (
    UNKNOWN,
    QueueEstimate,
    filled_part,
    has_to_leave,
    is_beyond_limits,
    is_mostly_gone,
    leaving_rank,
    order_key,
    sample_step,
    tail_index,
    turn_key,
)
from orchestrator.router.queue.request import NO_ITEMS, BatchKey, PendingRequest, WaitingPlace
from orchestrator.snapshot import Family, QueueState, ServerName, Width


@dataclass(slots=True)
class Backlog:
    """What waits in all queues together."""

    requests: int = 0
    items: int = 0
    size_bytes: int = 0


class RequestQueue:
    """Requests of one key, highest priority first, then earliest deadline first.

    ``backlog`` counts what waits in all queues; ``estimate`` is what is known before a decision has shown more.
    """

    def __init__(self, key: BatchKey, backlog: Backlog | None = None, estimate: QueueEstimate = UNKNOWN) -> None:
        self.key = key
        self.estimate = estimate
        self._own = Backlog()
        self._all = backlog or Backlog()
        self._heap: list[tuple[tuple[float, float], int, PendingRequest]] = []
        self._order = itertools.count()

    @property
    def items(self) -> int:
        """The number of items that wait."""
        return self._own.items

    @property
    def backlog(self) -> Backlog:
        """What waits in this queue."""
        return self._own

    @property
    def entries(self) -> int:
        """The number of entries of the heap, those of requests that have left the queue among them."""
        return len(self._heap)

    def push(self, request: PendingRequest) -> None:
        """Add a request, behind those that are as urgent."""
        key = order_key(request.priority, request.deadline_s)
        heapq.heappush(self._heap, (key, next(self._order), request))
        self._count(request, 1)
        request.queue = self

    def drop(self, request: PendingRequest) -> None:
        """Count a request of this queue no more; called by ``PendingRequest.withdraw``."""
        self._count(request, -1)
        request.queue = None
        if not request.under_way:  # else it may be sent again
            request.batch = NO_ITEMS  # its entry may stay for a while, its tensor must not
        if is_mostly_gone(len(self._heap), self._own.requests):
            self._heap = [entry for entry in self._heap if entry[2].queue is self]
            heapq.heapify(self._heap)

    def head(self) -> PendingRequest | None:
        """Return the first request whose caller still waits; None when there is none."""
        while self._heap:
            request = self._heap[0][2]
            if request.queue is self:
                if not request.is_over:
                    return request
                request.withdraw()
            if self._heap and self._heap[0][2] is request:
                heapq.heappop(self._heap)
        return None

    def take(self, items: int) -> list[PendingRequest]:
        """Remove and return requests from the head on, together at most ``items``; at least the head."""
        batch: list[PendingRequest] = []
        total = 0
        while (head := self.head()) is not None and (not batch or total + head.items <= items):
            heapq.heappop(self._heap)
            self._count(head, -1)
            head.queue = None
            batch.append(head)
            total += head.items
        return batch

    def waiting(self) -> Iterator[PendingRequest]:
        """Yield the requests whose callers still wait, in no order."""
        return (entry[2] for entry in self._heap if entry[2].queue is self and not entry[2].is_over)

    def state(
        self, head: PendingRequest, servers_share: float = 1.0, arrived_items: int = 0, other_queues: int = 0
    ) -> QueueState:
        """Return this queue as a policy sees it; ``head`` is its head, the rest is as in QueueState."""
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
            refuses_late=head.has_own_deadline,
            servers_share=servers_share,
            arrived_items=arrived_items,
            other_queues=other_queues,
            other_items=self._all.items - self._own.items,
        )

    def items_before(self, request: PendingRequest) -> float:
        """Return about how many items go before a request of this queue is done, by a sample spread over the heap."""
        sample = self._heap[:: sample_step(len(self._heap))]
        own = order_key(request.priority, request.deadline_s)
        return self._own.items * sum(entry[0] <= own for entry in sample) / len(sample)

    def _tail_deadline_s(self) -> float:
        """Return when the tail is due, by a sample spread evenly over the heap."""
        deadlines_s = sorted([entry[0][1] for entry in self._heap[:: sample_step(len(self._heap))]])
        return deadlines_s[tail_index(len(deadlines_s))]

    def _count(self, request: PendingRequest, sign: int) -> None:
        """Count a request that has come, or with ``sign`` -1 one that leaves, for this queue and for all."""
        items, size_bytes = sign * request.items, sign * request.size_bytes
        for backlog in (self._own, self._all):
            backlog.requests += sign
            backlog.items += items
            backlog.size_bytes += size_bytes


class RequestQueues:
    """All queues of a router, by batch key.

    Attributes:
        backlog: What waits in all of them.
        arrived_items: How many items of each family have come so far.
        on_queued: What is called with each request that was pushed, and its queue.
        turns: Whose turn it is when several families wait.
    """

    def __init__(self, family_weights: Mapping[str, float] | None = None) -> None:
        self.turns = FamilyTurns(family_weights)
        self.backlog = Backlog()
        self.arrived_items: Counter[Family] = Counter()
        self.on_queued: Callable[[RequestQueue, PendingRequest], None] = lambda queue, request: None
        self._queues: dict[BatchKey, RequestQueue] = {}
        # Queues come and go; few have other widths.
        self._estimates: dict[tuple[Family, tuple[Width, ...]], QueueEstimate] = {}
        self._bound_queues = 0
        # A heap for each family, kept only while the queue is full.
        self._last: dict[Family, list[_LeavingOrder]] | None = None
        self._order = itertools.count()

    @property
    def entries(self) -> int:
        """The number of entries of all heaps, those of requests that have left their queues among them."""
        return sum(queue.entries for queue in self._queues.values())

    @property
    def count(self) -> int:
        """The number of queues that anything waited in when heads were last looked for."""
        return len(self._queues)

    def waiting(self) -> Iterator[PendingRequest]:
        """Yield the requests whose callers still wait, in no order."""
        return (request for queue in self._queues.values() for request in queue.waiting())

    def arrive(self, key: BatchKey, request: PendingRequest) -> None:
        """Add a request that has not waited before to the queue of ``key``."""
        self.arrived_items[key.family] += request.items
        self.push(key, request)

    def push(self, key: BatchKey, request: PendingRequest) -> None:
        """Add a request to the queue of ``key``, be it once more."""
        queue = self._queues.get(key)
        if queue is None:
            known = self._estimates.get((key.family, key.widths), UNKNOWN)
            queue = self._queues[key] = RequestQueue(key, self.backlog, known)
            self._bound_queues += key.bound_to is not None
        queue.push(request)
        if self._last is not None:
            if is_mostly_gone(sum(map(len, self._last.values())), self.backlog.requests):
                self._last = None  # built anew when it is asked for
            else:
                heapq.heappush(self._last.setdefault(key.family, []), self._leaving_order(request))
        self.on_queued(queue, request)

    def heads(self) -> list[tuple[RequestQueue, PendingRequest]]:
        """Return every queue that has a waiting caller with its head, in the order of their turns; drop empty queues.

        The most urgent goes first, but behind families that have had less than theirs; priorities go before both.
        """
        found: list[tuple[RequestQueue, PendingRequest]] = []
        for key, queue in list(self._queues.items()):
            head = queue.head()
            if head is None:
                del self._queues[key]
                self._bound_queues -= key.bound_to is not None
            else:
                found.append((queue, head))
        if found:
            leading = self.turns.leading({queue.key.family for queue, _ in found})
            if len(found) > 1:
                found.sort(
                    key=lambda pair: turn_key(pair[1].priority, pair[0].key.family in leading, pair[1].deadline_s)
                )
        return found

    def make_room(
        self,
        *,
        family: Family | None,
        items: int,
        size_bytes: int,
        before: tuple[float, float],
        limit_items: int,
        limit_bytes: float,
    ) -> list[PendingRequest] | None:
        """Return the waiting requests that must go for another one of a family to fit; None when there are not enough.

        Who goes first is said by ``leaving_rank``, the other one counted, and who may have to by ``has_to_leave``;
        ``before`` is the other one's ``order_key``. The limits are those of what may wait together.
        """
        items += self.backlog.items
        size_bytes += self.backlog.size_bytes
        if not is_beyond_limits(items, size_bytes, limit_items, limit_bytes):
            if self.backlog.items < limit_items // 2:
                self._last = None
            return []
        if self._last is None:
            self._last = {}
            for queue in self._queues.values():
                self._last.setdefault(queue.key.family, []).extend(map(self._leaving_order, queue.waiting()))
            for heap in self._last.values():
                heapq.heapify(heap)
        waiting = self._by_family()
        own = waiting.setdefault(family, Backlog())
        # Of the other one itself, as it is not queued yet.
        own.items += items - self.backlog.items
        own.size_bytes += size_bytes - self.backlog.size_bytes
        victims: list[tuple[Family, _LeavingOrder]] = []
        while is_beyond_limits(items, size_bytes, limit_items, limit_bytes):
            filled = {
                f: filled_part(own.items, own.size_bytes, limit_items, limit_bytes, self.turns.weight(f))
                for f, own in waiting.items()
            }
            giver = self._next_to_leave(family, before, filled)
            if giver is None:
                for other, entry in victims:
                    heapq.heappush(self._last[other], entry)
                return None
            last = heapq.heappop(self._last[giver])
            if any(entry[3] is last[3] for _, entry in victims):
                continue  # what was bound to a server, or is to be sent again, was pushed twice
            victims.append((giver, last))
            waiting[giver].items -= last[3].items
            waiting[giver].size_bytes -= last[3].size_bytes
            items -= last[3].items
            size_bytes -= last[3].size_bytes
        return [entry[3] for _, entry in victims]

    def _next_to_leave(
        self, family: Family | None, before: tuple[float, float], filled: Mapping[Family | None, float]
    ) -> Family | None:
        """Return the family whose last request has to go next for one of ``family``; None when none has to."""
        most = max(filled, key=lambda f: (filled[f], f or ""))
        ranks: dict[tuple[float, float, float], Family] = {}
        for other, heap in (self._last or {}).items():
            while heap and (heap[0][3].queue is None or heap[0][3].is_over):
                heapq.heappop(heap)
            if not heap:
                continue
            key = -heap[0][0], -heap[0][1]
            if has_to_leave(key, before, other == family, other == most):
                ranks[leaving_rank(key, filled.get(other, 0.0))] = other
        return ranks[max(ranks)] if ranks else None

    def _by_family(self) -> dict[Family | None, Backlog]:
        """Return what waits of each family."""
        found: dict[Family | None, Backlog] = {}
        for queue in self._queues.values():
            own, waiting = queue.backlog, found.setdefault(queue.key.family, Backlog())
            waiting.items += own.items
            waiting.size_bytes += own.size_bytes
        return found

    def note_estimate(self, queue: RequestQueue, estimate: QueueEstimate) -> None:
        """Remember what a decision showed of a queue."""
        queue.estimate = self._estimates[queue.key.family, queue.key.widths] = estimate

    def fastest_s(self, queue: WaitingPlace | None, family: Family | None) -> float:
        """Return the least expected time of one item in a queue; of what waits in none, the least of its family's."""
        if isinstance(queue, RequestQueue):
            return queue.estimate.fastest_s
        known = (estimate.fastest_s for (of, _), estimate in self._estimates.items() if family in (None, of))
        return min(known, default=0.0)

    def drain_s(self) -> float | None:
        """Return how long all that waits is expected to take, by the last decision about each queue; None: unknown."""
        times_s = [
            queue.items * queue.estimate.item_drain_s
            for queue in self._queues.values()
            if not math.isnan(queue.estimate.item_drain_s)
        ]
        return sum(times_s) if times_s else None

    def bound_items(self, server: ServerName) -> tuple[tuple[BatchKey, Width, int], ...]:
        """Return the keys of queues bound to a server, each with the width it is bound to and its items."""
        return tuple(
            (key, key.bound_to[1], queue.items)
            for key, queue in self._queues.items()
            if key.bound_to is not None and key.bound_to[0] == server and queue.items
        )

    @property
    def has_bound(self) -> bool:
        """Whether there may be queues that early binding has bound to a server."""
        return self._bound_queues > 0

    def bound_keys(self) -> list[BatchKey]:
        """Return the keys of queues that early binding has bound to a server."""
        return [key for key in self._queues if key.bound_to is not None] if self._bound_queues else []

    def keys(self) -> list[BatchKey]:
        """Return the keys of all queues in which something waits."""
        return list(self._queues)

    def items_by_key(self) -> Iterator[tuple[BatchKey, int]]:
        """Yield the key of each queue with the items that wait there."""
        return ((key, queue.items) for key, queue in self._queues.items())

    def take_all(self, only: BatchKey | None = None) -> list[PendingRequest]:
        """Remove and return every waiting request, or those of one queue, in the order of each queue."""
        keys = list(self._queues) if only is None else [only]
        taken: list[PendingRequest] = []
        for key in keys:
            queue = self._queues.pop(key)
            self._bound_queues -= key.bound_to is not None
            while (head := queue.head()) is not None:
                taken += queue.take(head.items)
        return taken

    def _leaving_order(self, request: PendingRequest) -> _LeavingOrder:
        priority, deadline_s = order_key(request.priority, request.deadline_s)
        return (-priority, -deadline_s, -next(self._order), request)


_LeavingOrder = tuple[float, float, int, PendingRequest]
"""An entry of the heap that has on top who leaves a full queue first; of equals the last to come."""
