"""One timer for all requests, and one for all batches: who is to be looked after by when.

A timer each would be as many entries in the event loop's own heap, with a handle and a context to make and to cancel.
Here a request costs one entry, and nothing when it is answered: what was answered meanwhile is dropped when its time
comes, and all together when most of the heap is such.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import math
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

_FEW = 64


class Watched(Protocol):
    """A request or a batch that may come to its time, at ``due_s`` on the event loop's clock, infinite for never."""

    due_s: float

    @property
    def is_over(self) -> bool:
        """Whether it is answered, so that its time does not matter any more."""


T = TypeVar("T", bound=Watched)


class Deadlines(Generic[T]):
    """Calls ``on_due`` with a request, or a batch, whose time has come unanswered; that may watch it again."""

    def __init__(self, on_due: Callable[[T], None]) -> None:
        self._on_due = on_due
        self._heap: list[tuple[float, int, T]] = []
        self._order = itertools.count()
        # With its time beside: uvloop's handle of a timer that is due at once does not know it.
        self._timer: asyncio.TimerHandle | None = None
        self._armed_s = math.inf
        self._live = 0

    @property
    def entries(self) -> int:
        """The number of entries of the heap, those of what is answered among them."""
        return len(self._heap)

    def watch(self, request: T, due_s: float) -> None:
        """Call back at ``due_s`` unless the request is answered by then."""
        request.due_s = due_s
        heapq.heappush(self._heap, (due_s, next(self._order), request))
        if self._timer is None or due_s < self._armed_s:
            self._arm()

    def begin(self) -> None:
        """Note that a request came that will be watched."""
        self._live += 1

    def end(self) -> None:
        """Note that one is answered, one way or another."""
        self._live -= 1
        if len(self._heap) > 3 * self._live + _FEW:
            self._heap = [entry for entry in self._heap if not entry[2].is_over]
            heapq.heapify(self._heap)
            self._arm()

    def close(self) -> None:
        """Call nobody back any more."""
        self._heap.clear()
        self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            self._armed_s = self._heap[0][0]
            self._timer = asyncio.get_running_loop().call_at(self._armed_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now_s = asyncio.get_running_loop().time()
        due: list[T] = []
        while self._heap and (self._heap[0][0] <= now_s or self._heap[0][2].is_over):
            request = heapq.heappop(self._heap)[2]
            if not request.is_over:
                due.append(request)
        for request in due:
            request.due_s = math.inf
            self._on_due(request)
        if self._timer is None:  # nothing was watched again meanwhile
            self._arm()
