"""Who is let into the queue, and who has to leave it unserved: the acting half of ``overload``, which has the rules."""

from __future__ import annotations

import asyncio
from typing import Protocol

from orchestrator.config import RouterSettings
from orchestrator.errors import CapacityError, ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.policies.queue_rules import expires_s, order_key
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.deadline_timers import Deadlines
from orchestrator.router.queue.overload import Shed, comes_too_late, retry_after_s
from orchestrator.router.queue.request import PendingRequest
from orchestrator.router.queue.request_queue import RequestQueue, RequestQueues

_MIB = 2**20
_SAME_TIME_S = 1e-6  # timers may fire this much early
_LOOK_AGAIN_S = 0.05


class Servers(Protocol):
    """What is to be known of the servers that requests wait for; the router's fleet."""

    @property
    def has_healthy(self) -> bool:
        """Whether any of them answers."""
        ...

    def describe(self) -> str:
        """Return in a line how each of them is."""
        ...


class Shedder:
    """Keeps the queue bounded, and tells those whose time has come.

    Args:
        settings: of the router.
        queues: where requests wait; their ``on_queued`` becomes this one's.
        fleet: requests wait for.
        observer: is told of what is shed.
    """

    def __init__(
        self, settings: RouterSettings, queues: RequestQueues, fleet: Servers, observer: RouterObserver
    ) -> None:
        self._settings = settings
        self._queues = queues
        self._fleet = fleet
        self._observer = observer
        self._deadlines: Deadlines[PendingRequest] = Deadlines(self._on_due)
        queues.on_queued = self._watch

    def reconfigure(self, settings: RouterSettings) -> None:
        """Go by other settings from now on; what waits keeps the time by which it is told."""
        self._settings = settings

    @property
    def watched(self) -> int:
        """Requests that are watched, and those answered that have not been forgotten yet."""
        return self._deadlines.entries

    def begin(self, request: PendingRequest) -> None:
        """Let a request in, in place of less important ones if need be.

        Raises:
            ConfigError: when the queue can never hold it.
            CapacityError: when there is no room for it.
        """
        limit_mib = self._settings.overload.queue_limit_mib
        size_bytes = request.batch.nbytes
        if size_bytes > limit_mib * _MIB:
            raise ConfigError(f"{size_bytes} bytes exceed overload.queue_limit_mib = {limit_mib:g}; send fewer items")
        displaced = self._queues.make_room(
            items=request.items,
            size_bytes=size_bytes,
            before=order_key(request.priority, request.deadline_s),
            limit_items=self._settings.queue_limit,
            limit_bytes=limit_mib * _MIB,
        )
        if displaced is None:
            backlog = self._queues.backlog
            self._observer.on_shed(Shed.FULL, request.items)
            raise CapacityError(
                f"the queue is full: {backlog.items} items wait (queue_limit = {self._settings.queue_limit}), "
                f"{backlog.size_bytes / _MIB:.1f} MiB (overload.queue_limit_mib = {limit_mib:g}); retry later",
                retry_after_s=retry_after_s(self._queues),
            )
        for other in displaced:
            self.shed(other, Shed.DISPLACED, "the queue is full and something more urgent came")
        self._deadlines.begin()

    def end(self, request: PendingRequest) -> None:
        """Forget a request that is answered, or whose caller gave up."""
        request.withdraw()
        request.forget_caller()
        self._deadlines.end()

    def close(self) -> None:
        """Watch nobody any more."""
        self._deadlines.close()

    def shed(self, request: PendingRequest, reason: Shed, text: str) -> None:
        """Take a request out of the queue and tell its caller when to come again, unless it has been sent as well."""
        error = CapacityError(f"{text}; retry later", retry_after_s=retry_after_s(self._queues))
        if request.give_up(error):
            self._observer.on_shed(reason, request.items)

    def _watch(self, queue: RequestQueue, request: PendingRequest) -> None:
        """See to it that a request in the queue is told in time, or at once when its time can't come."""
        if comes_too_late(queue, request):
            self.shed(request, Shed.LATE, "what waits before it takes longer than its deadline leaves")
            return
        due_s = request.arrived_s + self._settings.request_timeout_s
        if request.has_own_deadline:
            margin = self._settings.slack_margin
            due_s = min(due_s, expires_s(request.deadline_s, queue.estimate.fastest_s, margin))
        if due_s < request.due_s:
            self._deadlines.watch(request, due_s)

    def _on_due(self, request: PendingRequest) -> None:
        now_s, end_s = asyncio.get_running_loop().time(), self._end_s(request)
        if request.has_own_deadline and request.is_queued and not request.under_way:
            self._expire(request)
        elif now_s >= end_s - _SAME_TIME_S:
            request.withdraw()
            request.fail(DeadlineError(self._tell_end(request)))
        elif request.is_queued and request.under_way:  # it waits for a second attempt, and may be answered by the first
            self._deadlines.watch(request, min(now_s + _LOOK_AGAIN_S, end_s))
        else:
            self._deadlines.watch(request, end_s)

    def _end_s(self, request: PendingRequest) -> float:
        """Return when a request is told that there is no answer, wherever it is then."""
        return request.deadline_s if request.has_own_deadline else request.arrived_s + self._settings.request_timeout_s

    def _tell_end(self, request: PendingRequest) -> str:
        if request.has_own_deadline:
            return f"no answer within its deadline of {_given_ms(request):g} ms; it was sent, and what comes is dropped"
        timeout_s = self._settings.request_timeout_s
        return f"no answer within request_timeout_s = {timeout_s}; servers: {self._fleet.describe()}"

    def _expire(self, request: PendingRequest) -> None:
        """Give up a request that waits, because its own deadline can't be kept any more."""
        if self._fleet.has_healthy:
            text = f"it waited in vain and its deadline of {_given_ms(request):g} ms can't be kept"
            self.shed(request, Shed.EXPIRED, text)
        else:
            request.withdraw()
            self._observer.on_shed(Shed.EXPIRED, request.items)
            request.fail(
                ServerUnavailableError(f"no server answers ({self._fleet.describe()}); retry later", executed=False)
            )


def _given_ms(request: PendingRequest) -> float:
    return (request.deadline_s - request.arrived_s) * 1e3
