"""Batches under way: watched until they are answered, and given up for their callers' sake when they take too long.

A call to Triton is never cancelled (see orchestrator.triton.client), so an attempt ends only when its answer or its
failure comes, or when ``group_timeout_s`` has passed and nothing more is hoped for. Before that two things may happen,
each by a timer: after a quantile of what is expected its requests are *hedged*, where that is on, and far beyond what
is expected they are *overdue*. Both put the request into the queue again while its first attempt goes on. The first
answer is given to the caller; any later one is dropped, and only shows that the server is alive.

A server that has an overdue batch and has answered nothing since it was sent is *suspect*: nothing more goes there, as
long as there is another, until it answers something. So a server that hangs costs nobody more than the overdue time.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.errors import SlimError
from orchestrator.router.dispatch.batch import Batch
from orchestrator.router.dispatch.retry import (
    AttemptState,
    Cause,
    RetryBudget,
    Verdict,
    is_repeatable,
    judge_retry,
    overdue_after_s,
)
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.deadline_timers import Deadlines
from orchestrator.router.queue.request import Array, BatchKey, PendingRequest
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.servers.connection import StalledServerError
from orchestrator.router.servers.ejection import latency_quantile
from orchestrator.router.servers.fleet import Fleet

log = logging.getLogger(__name__)

_HEDGE_MARGIN = 1.1  # over the quantile, so that what is only just over it is let through


@dataclass(slots=True)
class Attempt:
    """One batch under way.

    Attributes:
        batch: The batch that was sent.
        answer: The server's answer.
        is_given_up: Whether its requests no longer wait for it.
        due_s: When it is looked at next; infinite while nobody watches it.
        stages: What happens to it while it is not answered, the next one last, and when.
    """

    batch: Batch
    answer: asyncio.Future[Array]
    is_given_up: bool = False
    due_s: float = math.inf
    stages: list[tuple[float, Callable[[Attempt], None]]] = field(default_factory=list, repr=False)

    @property
    def is_over(self) -> bool:
        """Whether the server has answered, or will not any more."""
        return self.answer.done()


class Attempts:
    """Begins and ends attempts, and sends requests again where the rules of orchestrator.router.dispatch.retry allow.

    ``wake`` is called when something was queued or has ended.

    Attributes:
        given_up: Answers that nobody waits for any more.
        is_closing: Whether nothing is sent again.
    """

    def __init__(self, fleet: Fleet, queues: RequestQueues, observer: RouterObserver, wake: Callable[[], None]) -> None:
        self.given_up: set[asyncio.Future[Array]] = set()
        self.is_closing = False
        self._fleet = fleet
        self._queues = queues
        self._observer = observer
        self._wake = wake
        self._budget = RetryBudget(float(fleet.settings.retries.minimum), 0.0)
        self._deadlines: Deadlines[Attempt] = Deadlines(self._on_due)

    def begin(self, batch: Batch, answer: asyncio.Future[Array]) -> Attempt:
        """Count a batch as under way, and watch it until its answer is there."""
        batch.server.calls += 1
        for request in batch.requests:
            request.attempts += 1
            request.under_way += 1
        attempt = Attempt(batch, answer)
        attempt.stages = self._stages(batch)
        self._deadlines.begin()
        self._deadlines.watch(attempt, attempt.stages[-1][0])
        return attempt

    def end(self, attempt: Attempt) -> bool:
        """Count a batch as ended; return whether anybody still waited for it."""
        server = attempt.batch.server
        server.calls -= 1
        server.health.is_suspect = False
        self._deadlines.end()
        if attempt.is_given_up:
            server.check_soon.set()  # it may have come back
            return False
        self._release(attempt.batch)
        return True

    def note_answered(self, requests: int) -> None:
        """Note that so many requests were answered, which lets others be sent again."""
        self._budget = self._budget.answered(requests, self._fleet.settings.retries)

    def fail(self, batch: Batch, error: SlimError) -> None:
        """Send the requests of a batch that failed again, or fail them, and note what it says of the server."""
        self._fleet.note_failure(batch.server, batch.model, batch.sent.sent_s, error)
        key = batch.key.elsewhere(batch.server.name)
        for request in batch.requests:
            if request.is_over:
                continue
            verdict = self._judge(request, key, Cause.FAILED, repeatable=is_repeatable(error))
            if verdict is Verdict.SEND_AGAIN:
                self._observer.on_retry(batch.server.name)
                self._queues.push(key, request)
            elif verdict is not Verdict.ELSEWHERE_ALREADY:
                log.debug("a request is not sent again, %s: %s", verdict, error)
                request.fail(error)

    def close(self) -> None:
        """Watch nothing any more."""
        self._deadlines.close()

    def _stages(self, batch: Batch) -> list[tuple[float, Callable[[Attempt], None]]]:
        """Return what happens to a batch that is not answered, and when; the first of it last."""
        settings = self._fleet.settings
        stages: list[tuple[float, Callable[[Attempt], None]]] = [(settings.group_timeout_s, self._on_stalled)]
        expected_s = self._fleet.work_s(batch.server)
        overdue_s = overdue_after_s(expected_s, settings.retries)
        if overdue_s is not None and overdue_s < settings.group_timeout_s:
            stages.append((overdue_s, self._on_overdue))
        if settings.hedge is not None and expected_s > 0:
            states = (server.health.ejection for server in self._fleet.servers.values())
            factor = latency_quantile(states, settings.hedge.quantile)
            hedge_s = max(settings.hedge.floor_ms / 1e3, _HEDGE_MARGIN * expected_s * (factor or 1.0))
            if hedge_s < stages[-1][0]:
                stages.append((hedge_s, self._on_hedge))
        sent_s = batch.sent.sent_s
        return [(sent_s + after_s, act) for after_s, act in stages]

    def _on_due(self, attempt: Attempt) -> None:
        _, act = attempt.stages.pop()
        if attempt.stages:
            self._deadlines.watch(attempt, attempt.stages[-1][0])
        act(attempt)

    def _on_hedge(self, attempt: Attempt) -> None:
        self._copy(attempt.batch, Cause.HEDGE)

    def _on_overdue(self, attempt: Attempt) -> None:
        batch, server = attempt.batch, attempt.batch.server
        if server.last_answer_s is None or server.last_answer_s <= batch.sent.sent_s:
            server.health.is_suspect = True
        self._copy(batch, Cause.OVERDUE)

    def _on_stalled(self, attempt: Attempt) -> None:
        batch = attempt.batch
        attempt.is_given_up = True
        self.given_up.add(attempt.answer)
        attempt.answer.add_done_callback(self.given_up.discard)
        self._release(batch)
        batch.server.in_flight.remove(batch.sent)
        limit = f"group_timeout_s = {self._fleet.settings.group_timeout_s}"
        self.fail(batch, StalledServerError(f"{batch.server.name} left a batch unanswered, {limit}"))
        self._wake()

    def _release(self, batch: Batch) -> None:
        for request in batch.requests:
            request.under_way -= 1

    def _copy(self, batch: Batch, cause: Cause) -> None:
        """Queue the requests of a batch that is under way for another server, where that helps."""
        if self.is_closing:
            return
        key = batch.key.elsewhere(batch.server.name)
        note = self._observer.on_hedge if cause is Cause.HEDGE else self._observer.on_retry
        for request in batch.requests:
            if not request.is_over and self._judge(request, key, cause, repeatable=True) is Verdict.SEND_AGAIN:
                note(batch.server.name)
                self._queues.push(key, request)
        self._wake()

    def _judge(self, request: PendingRequest, key: BatchKey, cause: Cause, *, repeatable: bool) -> Verdict:
        """Return whether a request is sent again; the budget is spent when it is."""
        now_s = asyncio.get_running_loop().time()
        ended = 1 if cause is not Cause.FAILED else 0  # the attempt in question is still counted as under way
        state = AttemptState(
            cause=cause,
            repeatable=repeatable and not self.is_closing,
            attempts=request.attempts,
            others=request.under_way - ended + (1 if request.is_queued else 0),
            slack_s=request.deadline_s - now_s if request.has_own_deadline else None,
            elsewhere_s=self._fleet.elsewhere_s(key, request.items),
        )
        verdict = judge_retry(state, max_attempts=self._fleet.settings.max_attempts)
        if verdict is not Verdict.SEND_AGAIN:
            return verdict
        spent = self._budget.refilled(self._fleet.settings.retries, now_s=now_s).spent()
        if spent is None:
            return Verdict.NO_BUDGET
        self._budget = spent
        return verdict
