"""What is given up when more comes than can be answered, and when it is worth coming again.

Widths give way first: a policy that looks at slack narrows them, down to what ``min_accuracy`` and pins allow, and only
what even the quickest allowed candidate can't answer in time is given up; where a policy always takes one width, only
that counts. Only a caller's own deadline is a reason to be given up; the router's default one orders and sizes, but
nobody asked for it, so the answer is wanted late too.

A request that waits is *shed*, refused at once, when

- *late*: the head of a queue can't be answered in time by the quickest candidate, its waiting and its margin
  counted, and no server that could take it is idle. An idle one is tried whatever is expected of it: that costs nobody
  anything, and an estimate that has become too high would otherwise never be seen to be wrong.
- *late*, too, under *overload*: when the queue can't drain in time at any width, earliest-deadline-first alone would
  serve each head at the last moment, alone, and so lose the throughput of batches just when it is needed. Then a head
  needs time for the largest batch whose service fits twice into its own deadline (one that runs, one that waits): the
  early drop and the rule 2·l(b) ≤ SLO of Nexus (Shen et al., SOSP'19). Of a burst, whose tail is due as soon as its
  head, nobody has more time than the head, and giving it up would help nobody; so the batch must fit twice into what
  the tail has left as well, and takes no longer than the tail has more than the head. When it could not drain even
  without a margin, heads need ``slack_margin`` on top of theirs: behind them there is always somebody who has more
  time, so caution costs no answers, and it is what keeps a server that stalls from making a whole batch late.
- *late*, as soon as it comes: when more goes before it than all servers together could answer within its deadline, in
  full batches at their quickest widths, without any margin and as if they had nothing to do. So under a burst most
  callers are refused at once, when they still have time to ask elsewhere, and no more waits than could be answered; the
  rules above then choose among these.
- *expired*: wherever it waits, when less of its deadline is left than the quickest candidate takes alone, by its
  margin; as soon as it comes, where no server is idle. So a refusal comes before the deadline, never after it.
- *displaced*: the queue is full and something more important came: a higher priority or, within one, an earlier
  deadline. The least important, latest goes first.

and a request that comes is refused when the queue is *full* of what is more important.

All learn when to come again: after the time in which what waits is expected to be answered.

A request that was sent is not shed. When its own deadline passes all the same, because a server took longer than it
ever did, its caller gets a DeadlineError then and waits no longer; what comes afterwards is only observed by the
profile.

The rules are functions of numbers in ``orchestrator.policies.queue_rules``, and the simulator follows them too; here
they are applied to a router's requests and candidates.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from enum import StrEnum

from orchestrator.config import RouterSettings
from orchestrator.errors import CapacityError, ConfigError, DeadlineError, ServerUnavailableError
from orchestrator.policies.fleet.candidate_set import CandidateSet
from orchestrator.policies.queue_rules import (
    QueueEstimate,
    expires_s,
    is_overloaded,
    longest_service_s,
    order_key,
    was_possible,
)
from orchestrator.policies.queue_rules import comes_too_late as _comes_too_late
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.deadline_timers import Deadlines
from orchestrator.router.queue.request import BatchKey, PendingRequest
from orchestrator.router.queue.request_queue import RequestQueue, RequestQueues
from orchestrator.snapshot import Family, ServerName

_SOONEST_S, _LATEST_S = 0.05, 30.0
_UNKNOWN_S = 1.0
_MIB = 2**20
_SAME_TIME_S = 1e-6  # timers may fire this much early
_LOOK_AGAIN_S = 0.05
_LARGE_TRANSIT = 0.1
"""Part of a deadline that passes outside the router from which on a refusal names it."""


class Shed(StrEnum):
    """Why a request is given up; in one word each, for metrics."""

    LATE = "late"
    EXPIRED = "expired"
    DISPLACED = "displaced"
    FULL = "full"
    REJECTED = "rejected"
    """By the policy."""


def estimate(candidate_set: CandidateSet) -> QueueEstimate:
    """Return what candidates, at least one, say of their queue.

    One that stalls for a moment soon answers again, and is no reason to refuse what comes; so suspect servers count
    but for how long the queue takes.
    """
    items = candidate_set.situation.queue.items
    return QueueEstimate(candidate_set.least.fastest_s, candidate_set.drain_s / items, candidate_set.least.most_rps)


def take_late(
    queue: RequestQueue,
    first: PendingRequest,
    candidate_set: CandidateSet,
    is_idle: Callable[[ServerName], bool],
    is_tried: Callable[[ServerName], bool],
) -> Sequence[tuple[PendingRequest, str]]:
    """Remove and return the heads of a queue, ``first`` and those behind it, that are to be shed as late.

    With each comes why, in words. ``is_idle`` returns whether a server has nothing to do, as far as is known, and
    ``is_tried`` whether it is about to show that it answers again. Suspect ones count too, see ``estimate``.
    """
    if not first.has_own_deadline or first.under_way:
        return ()
    situation = candidate_set.situation
    state, now_s, least = situation.queue, situation.now_s, candidate_set.least
    tail_slack_s = state.tail_deadline_s - now_s
    drain_margin = max(least.drain_margin, situation.slack_margin)
    is_pressed = is_overloaded(candidate_set.drain_s, tail_slack_s, drain_margin)
    is_beyond_help = is_overloaded(candidate_set.drain_s, tail_slack_s, 1.0)
    if not is_pressed and least.soonest_s <= situation.head_slack_s:
        return ()  # as is seen without a look at all candidates
    if _is_worth_a_try(candidate_set, is_idle, is_tried):
        return ()

    def needs_s(request: PendingRequest) -> float:
        longest_s = -1.0
        if is_pressed:
            allowed_s, slack_s = request.deadline_s - request.arrived_s, request.deadline_s - now_s
            longest_s = longest_service_s(allowed_s, slack_s, tail_slack_s, drain_margin)
        return candidate_set.least_answer_s(request.items, longest_s, is_beyond_help)

    late: list[tuple[PendingRequest, str]] = []
    while (head := queue.head()) is not None:
        if not head.has_own_deadline or head.under_way or now_s + (takes_s := needs_s(head)) <= head.deadline_s:
            break
        left_s, alone_s = head.deadline_s - now_s, candidate_set.least_answer_s(head.items, -1.0, False)
        if alone_s > left_s:
            why = describe_lack(head, left_s, alone_s)
        else:
            why = describe_crowd(head, left_s, takes_s, queue.items)
        late += [(request, why) for request in queue.take(head.items)]  # the head alone
    return late


def _is_worth_a_try(
    candidate_set: CandidateSet, is_idle: Callable[[ServerName], bool], is_tried: Callable[[ServerName], bool]
) -> bool:
    """Return whether the head is better tried than refused: on an idle server it may be in time, or all are idle.

    Beside others that are busy an idle server may be one that can't be in time whatever is done.
    """
    soonest_s, slack_s = candidate_set.soonest_s(), candidate_set.situation.head_slack_s
    idle = [name for name in soonest_s if is_idle(name)]
    is_one_timely = any([soonest_s[name] <= slack_s for name in idle])
    return len(idle) == len(soonest_s) or is_one_timely or any(is_tried(name) for name in soonest_s)


def comes_too_late(queue: RequestQueue, request: PendingRequest) -> bool:
    """Return whether a request that has just been put into a queue can't have its turn in time."""
    if not request.has_own_deadline or request.attempts:
        return False
    most_rps, allowed_s = queue.estimate.most_rps, request.deadline_s - request.arrived_s
    # No more goes before it than waits, which is known at once.
    return _comes_too_late(queue.items, most_rps, allowed_s) and _comes_too_late(
        queue.items_before(request), most_rps, allowed_s
    )


def retry_after_s(queues: RequestQueues) -> float:
    """Return when what waits is expected to be answered; a second when nothing is known of that."""
    drain_s = queues.drain_s()
    return _UNKNOWN_S if drain_s is None else min(max(drain_s, _SOONEST_S), _LATEST_S)


class Shedder:
    """Keeps the queue bounded, and refuses those whose time has come: who is let in, and who has to leave unserved.

    ``describe`` returns in a line how each server is, and whether any of them answers; ``outage`` why nobody is
    expected to answer requests of a key by some time, None when somebody is.

    Attributes:
        settings: The settings of the router now; what waits keeps the time by which it is refused.
        on_missed: Called with the family of each request that is refused because of load, or not answered in time,
            though an idle server could have.
        on_shed: Called with each request that is given up, and why.
        is_any_idle: Returns whether some server has nothing to do, so that a decision is worth waiting for.
    """

    def __init__(
        self,
        settings: RouterSettings,
        queues: RequestQueues,
        observer: RouterObserver,
        describe: Callable[[], tuple[str, bool]],
        outage: Callable[[BatchKey, float], str | None],
    ) -> None:
        self.settings = settings
        self._queues = queues
        self._describe = describe
        self._outage = outage
        self._observer = observer
        self.on_missed: Callable[[Family | None], None] = lambda family: None
        self.on_shed: Callable[[PendingRequest, Shed], None] = lambda request, reason: None
        self.is_any_idle: Callable[[], bool] = lambda: True
        self._deadlines: Deadlines[PendingRequest] = Deadlines(self._on_due)
        queues.on_queued = self._watch

    @property
    def watched(self) -> int:
        """The number of requests that are watched, and of those answered that have not been forgotten yet."""
        return self._deadlines.entries

    def begin(self, request: PendingRequest) -> None:
        """Let a request in, in place of less important ones if need be.

        Raises:
            ConfigError: when the queue can never hold it.
            CapacityError: when there is no room for it.
        """
        limit_mib = self.settings.overload.queue_limit_mib
        size_bytes = request.size_bytes
        if size_bytes > limit_mib * _MIB:
            raise ConfigError(f"{size_bytes} bytes exceed overload.queue_limit_mib = {limit_mib:g}; send fewer items")
        displaced = self._queues.make_room(
            family=request.family,
            items=request.items,
            size_bytes=size_bytes,
            before=order_key(request.priority, request.deadline_s),
            limit_items=self.settings.queue_limit,
            limit_bytes=limit_mib * _MIB,
        )
        if displaced is None:
            backlog = self._queues.backlog
            self._tell(request, Shed.FULL)
            self._note_miss(request, is_refused=True)
            raise CapacityError(
                f"the queue is full: {backlog.items} items wait (queue_limit = {self.settings.queue_limit}), "
                f"{backlog.size_bytes / _MIB:.1f} MiB (overload.queue_limit_mib = {limit_mib:g}); retry later",
                retry_after_s=retry_after_s(self._queues),
            )
        for other in displaced:
            self.shed(other, Shed.DISPLACED, "the queue is full and something more urgent came")
        self._deadlines.begin()

    def end(self, request: PendingRequest) -> None:
        """Forget a request that is answered, or whose caller gave up."""
        request.withdraw()
        # Whoever still has the request in a heap must not keep the outcome: an error holds the frames it went through,
        # and they the client's whole message.
        request.sink = None
        self._deadlines.end()

    def close(self) -> None:
        """Watch nobody any more."""
        self._deadlines.close()

    def shed(self, request: PendingRequest, reason: Shed, text: str) -> None:
        """Take a request out of the queue and say to its caller what to do, unless it has been sent as well."""
        if reason in (Shed.LATE, Shed.EXPIRED) and not self._was_possible(request):
            error = CapacityError(f"{text}; allow more time, an idle server takes as long")
        else:
            error = CapacityError(f"{text}; retry later", retry_after_s=retry_after_s(self._queues))
        self._note_miss(request, is_refused=True)
        if request.give_up(error):
            self._tell(request, reason)

    def _note_miss(self, request: PendingRequest, *, is_refused: bool = False) -> None:
        if not self._was_possible(request):
            return
        if is_refused and request.family is not None:
            allowed_s = request.deadline_s - request.arrived_s
            self._queues.turns.charge(request.family, 0.0, allowed_s, now_s=asyncio.get_running_loop().time())
        self.on_missed(request.family)

    def _was_possible(self, request: PendingRequest) -> bool:
        fastest_s = self._queues.fastest_s(request.queue, request.family)
        return not request.has_own_deadline or was_possible(request.deadline_s - request.arrived_s, fastest_s)

    def refuse_in_outage(self, key: BatchKey, head: PendingRequest) -> bool:
        """Refuse the head of a queue at once that nobody is expected to answer in time; return whether it was."""
        if not head.has_own_deadline or head.under_way or (outage := self._outage(key, head.deadline_s)) is None:
            return False
        self._refuse(head, Shed.LATE, f"nobody is expected to answer in time: {outage}; retry later")
        return True

    def _refuse(self, request: PendingRequest, reason: Shed, text: str) -> None:
        """Give up a request, which is not under way, because of how the servers are."""
        request.give_up(ServerUnavailableError(text, executed=False))
        self._tell(request, reason)

    def _tell(self, request: PendingRequest, reason: Shed) -> None:
        self._observer.on_shed(reason, request.items)
        self.on_shed(request, reason)

    def _watch(self, queue: RequestQueue, request: PendingRequest) -> None:
        """See to it that a request in the queue is refused in time, or at once when its time can't come.

        One that was bound has come before, and is watched.
        """
        if queue.key.bound_to is not None:
            return
        if comes_too_late(queue, request):
            self.shed(request, Shed.LATE, describe_place(queue, request))
            return
        due_s = request.arrived_s + self.settings.request_timeout_s
        if request.has_own_deadline:
            fastest_s = queue.estimate.fastest_s
            due_s = min(due_s, expires_s(request.deadline_s, fastest_s))
            left_s = request.deadline_s - asyncio.get_running_loop().time()
            if left_s <= fastest_s and not request.attempts and not self.is_any_idle():
                self.shed(request, Shed.EXPIRED, describe_lack(request, left_s, fastest_s))
                return
        if due_s < request.due_s:
            self._deadlines.watch(request, due_s)

    def _on_due(self, request: PendingRequest) -> None:
        now_s = asyncio.get_running_loop().time()
        # When its caller is refused, wherever it is then.
        end_s = request.deadline_s if request.has_own_deadline else request.arrived_s + self.settings.request_timeout_s
        if request.has_own_deadline and request.is_queued and not request.under_way:
            self._expire(request)
        elif now_s >= end_s - _SAME_TIME_S:
            self._note_miss(request)
            request.withdraw()
            request.fail(DeadlineError(self._describe_end(request), sent_to=request.sent_to))
        elif request.is_queued and request.under_way:  # it waits for a second attempt, and may be answered by the first
            self._deadlines.watch(request, min(now_s + _LOOK_AGAIN_S, end_s))
        else:
            self._deadlines.watch(request, end_s)

    def _describe_end(self, request: PendingRequest) -> str:
        if request.has_own_deadline:
            given = describe_deadline(request)
            return f"no answer within its deadline of {given}; it was sent, and what comes is dropped"
        timeout_s = self.settings.request_timeout_s
        return f"no answer within request_timeout_s = {timeout_s}; servers: {self._describe()[0]}"

    def _expire(self, request: PendingRequest) -> None:
        """Give up a request that waits, because its own deadline can't be kept any more."""
        servers, has_healthy = self._describe()
        assert request.queue is not None
        outage = self._outage(request.queue.key, -math.inf)
        if not has_healthy:
            self._refuse(request, Shed.EXPIRED, f"no server answers ({servers}); retry later")
        elif outage is not None:
            self._refuse(request, Shed.EXPIRED, f"it waited in vain: {outage}; retry later")
        else:
            text = f"it waited in vain and its deadline of {describe_deadline(request)} can't be kept"
            self.shed(request, Shed.EXPIRED, text)


def describe_lack(request: PendingRequest, left_s: float, takes_s: float) -> str:
    """Return why a request is given up that needs so much time and has less."""
    return (
        f"its deadline of {describe_deadline(request)} can't be kept at any width it allows: "
        f"{_ms(max(0.0, left_s))} ms are left, and an answer may take {_ms(takes_s)} ms"
    )


def describe_place(queue: RequestQueue, request: PendingRequest) -> str:
    """Return why a request is given up, as it comes, that can't have its turn in time."""
    estimate, left_s = queue.estimate, request.deadline_s - request.arrived_s
    is_next = queue.head() is request
    done = request.items if is_next else queue.items_before(request)  # with its own
    takes_s = max(estimate.fastest_s, done / estimate.most_rps if estimate.most_rps else math.inf)
    if is_next:
        return describe_lack(request, left_s, takes_s)
    return (
        f"its deadline of {describe_deadline(request)} can't be kept: {_ms(left_s)} ms are left, and with some "
        f"{done - request.items:.0f} items that go before it an answer takes {_ms(takes_s)} ms at least"
    )


def _ms(time_s: float) -> str:
    """Return a time in milliseconds, of which small ones are told apart."""
    return f"{time_s * 1e3:.0f}" if time_s >= 0.01 else f"{time_s * 1e3:.2g}"


def describe_crowd(request: PendingRequest, left_s: float, takes_s: float, waiting: int) -> str:
    """Return why a request is given up that could be answered in time, were it not for those that wait behind it."""
    return (
        f"{waiting} items wait, more than can be answered in time, so the most urgent ones give way: its deadline of "
        f"{describe_deadline(request)} leaves {max(0.0, left_s) * 1e3:.0f} ms, and a batch that is large enough for "
        f"what waits may take {takes_s * 1e3:.0f} ms"
    )


def describe_deadline(request: PendingRequest) -> str:
    """Return a request's deadline, and what of it passed outside the router where that is a part worth naming."""
    given_s, transit_s = request.given_s, request.transit_s
    if transit_s < _LARGE_TRANSIT * given_s:
        return f"{given_s * 1e3:g} ms"
    passed = f"of which {_ms(transit_s)} pass in front of the router because this host is busy"
    return f"{given_s * 1e3:g} ms ({passed})"
