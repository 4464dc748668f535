"""What is given up when more comes than can be answered, and when it is worth coming again.

Widths give way first: a policy that looks at slack narrows them, down to what ``min_accuracy`` and pins allow, and only
what even the quickest allowed candidate can't answer in time is given up. Only a caller's own deadline is a reason to
be given up; the router's default one orders and sizes, but nobody asked for it, so the answer is wanted late too.

A request that waits is *shed*, told at once, when

- *late*: the head of a queue can't be answered in time by the quickest candidate, its waiting and the slack margin
  counted, and no server that could take it is idle. An idle one is tried whatever is expected of it: that costs nobody
  anything, and an estimate that has become too high would otherwise never be seen to be wrong.
- *late*, too, under *overload*: when the queue can't drain in time at any width, earliest-deadline-first alone would
  serve each head at the last moment, alone, and so lose the throughput of batches just when it is needed. Then a head
  needs time for the largest batch whose service fits twice into its own deadline (one that runs, one that waits): the
  early drop and the rule 2·l(b) ≤ SLO of Nexus (Shen et al., SOSP'19). When it could not drain even without the slack
  margin, heads need the margin twice: behind them there is always somebody who has more time, so caution costs no
  answers, and it is what keeps a server that stalls from making a whole batch late.
- *late*, as soon as it comes: when more goes before it than all servers together could answer within its deadline, in
  full batches at their quickest widths, without any margin and as if they had nothing to do. So under a burst most
  callers are told at once, when they still have time to ask elsewhere, and no more waits than could be answered; the
  rules above then choose among these.
- *expired*: wherever it waits, when less of its deadline is left than the quickest candidate takes alone, by the slack
  margin. So a refusal comes before the deadline, never after it.
- *displaced*: the queue is full and something more important came: a higher priority or, within one, an earlier
  deadline. The least important, latest goes first.

and a request that comes is refused when the queue is *full* of what is more important.

All are told when to come again: after the time in which what waits is expected to be answered.

A request that was sent is not shed. When its own deadline passes all the same, because a server took longer than it
ever did, its caller is told so then (DeadlineError, see ``shedding``) and waits no longer; what comes afterwards only
teaches the profile.

The rules are functions of numbers in ``orchestrator.policies.queue_rules``, and the simulator follows them too; here
they are applied to a router's requests and candidates.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from enum import StrEnum

from orchestrator.decision import Candidate
from orchestrator.policies import CandidateSet
from orchestrator.policies.queue_rules import QueueEstimate, head_batch, head_margin, longest_service_s
from orchestrator.policies.queue_rules import comes_too_late as _comes_too_late
from orchestrator.router.queue.request import PendingRequest
from orchestrator.router.queue.request_queue import RequestQueue, RequestQueues
from orchestrator.snapshot import QueueState, ServerName

_SOONEST_S, _LATEST_S = 0.05, 30.0
_UNKNOWN_S = 1.0


class Shed(StrEnum):
    """Why a request is given up; in one word each, for metrics."""

    LATE = "late"
    EXPIRED = "expired"
    DISPLACED = "displaced"
    FULL = "full"
    REJECTED = "rejected"
    """By the policy."""


def estimate(candidate_set: CandidateSet) -> QueueEstimate:
    """Return what candidates, at least one, tell of their queue.

    One that stalls for a moment soon answers again, and is no reason to refuse what comes; so suspect servers count
    but for how long the queue takes.
    """
    items = candidate_set.situation.queue.items
    return QueueEstimate(candidate_set.fastest_s, candidate_set.drain_s / items, candidate_set.most_rps)


def take_late(
    queue: RequestQueue,
    candidates: Sequence[Candidate],
    state: QueueState,
    *,
    drain_s: float,
    idle: Collection[ServerName],
    now_s: float,
    slack_margin: float,
) -> list[PendingRequest]:
    """Remove and return the heads of a queue that are to be shed as late.

    Args:
        queue: not empty.
        candidates: for its head, those on suspect servers among them; see ``estimate``.
        state: of the queue.
        drain_s: expected time until all of it is answered, at the quickest width.
        idle: servers that have nothing to do.
        now_s: on the router's clock.
        slack_margin: what expected times are multiplied by.
    """
    if any(c.server in idle for c in candidates):
        return []
    is_overloaded, margin = head_margin(drain_s, state.tail_deadline_s - now_s, slack_margin)

    def needs_s(request: PendingRequest) -> float:
        longest_s = longest_service_s(request.deadline_s - request.arrived_s, slack_margin)
        least_s = math.inf
        for c in candidates:
            items: float = request.items
            if is_overloaded:
                items = head_batch(items, min(c.max_batch_size, state.items), longest_s, c.per_item_s, c.fixed_s)
            least_s = min(least_s, c.wait_s + c.per_item_s * items + c.fixed_s)
        return least_s * margin

    late: list[PendingRequest] = []
    while (head := queue.head()) is not None:
        if not head.has_own_deadline or head.under_way or now_s + needs_s(head) <= head.deadline_s:
            break
        late += queue.take(head.items)  # the head alone
    return late


def comes_too_late(queue: RequestQueue, request: PendingRequest) -> bool:
    """Return whether a request that has just been put into a queue can't have its turn in time."""
    if not request.has_own_deadline or request.attempts or queue.key.bound_to is not None:
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
