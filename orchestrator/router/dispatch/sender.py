"""Groups on their way: sent, watched, and their requests answered.

No group has a task of its own: a client that can answer without one returns a future, and what is to be done with its
answer is the future's callback. Callers are told first; what the answer teaches (how long the server took, what
policies want to know, the decision log) is noted right after, while the answers travel, but always before anything is
decided again. Groups under way are never cancelled while a server runs them (see orchestrator.triton.client); closing
waits for them, not for ever.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from orchestrator.errors import ServerUnavailableError, SlimError, TransientError, WrongAnswerError
from orchestrator.router.dispatch.attempts import Attempt, Attempts
from orchestrator.router.dispatch.batch import Batch
from orchestrator.router.dispatch.decision_log import DecisionLog, outcome_of
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import Array
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.servers.fleet import Fleet

log = logging.getLogger(__name__)

Learn = Callable[[Batch, float], None]


class Sender:
    """Sends groups and gives their answers to callers.

    Args:
        fleet: they go to.
        lanes: requests wait in that are sent again.
        observer: is told of groups.
        wake: called when something may be sent that could not be sent before.
        learn: called with each group that was answered while it was awaited, and when.
        decisions: to write outcomes to; None: nowhere.
    """

    def __init__(
        self,
        fleet: Fleet,
        lanes: RequestQueues,
        observer: RouterObserver,
        wake: Callable[[], None],
        learn: Learn,
        decisions: DecisionLog | None,
    ) -> None:
        self._observer = observer
        self._wake = wake
        self._learn = learn
        self._decisions = decisions
        self._attempts = Attempts(fleet, lanes, observer, wake)
        self._running: set[asyncio.Future[Array]] = set()
        self._ended: list[tuple[Attempt, float, str | None]] = []

    def send(self, batch: Batch) -> None:
        """Send a group, which its server has room for."""
        link = batch.link
        link.in_flight.append(batch.sent)
        self._observer.on_sent(link.name, batch.model.width, batch.sent.items)
        try:
            answer: asyncio.Future[Array] = asyncio.ensure_future(link.client.infer_batch(batch.model, batch.batch()))
        except Exception as exc:
            answer = asyncio.get_running_loop().create_future()
            answer.set_exception(exc)
        attempt = self._attempts.begin(batch, answer)
        self._running.add(answer)
        answer.add_done_callback(partial(self._end, attempt))

    def settle(self) -> None:
        """Note what the groups teach whose callers have been told."""
        ended = self._ended
        while ended:
            attempt, now_s, error = ended.pop(0)
            batch, link = attempt.batch, attempt.batch.link
            if not attempt.is_given_up:
                try:
                    if error is None:
                        self._learn(batch, now_s)
                finally:
                    link.in_flight.remove(batch.sent)
            if self._decisions is not None and batch.record is not None:
                outcome = outcome_of(batch, now_s=now_s, error=error)
                self._decisions.write(batch.record, batch.decision_id, outcome)
            self._observer.on_ended(link.name, batch.model.width, batch.sent.items)
            self._wake()

    async def close(self, *, until_s: float) -> None:
        """Send nothing again, wait for what is under way, no longer than until then, and end the rest."""
        self._attempts.is_closing = True
        try:
            await self._drain(until_s)
        finally:
            remaining = list(self._running)
            for answer in remaining:
                answer.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)
            await asyncio.sleep(0)  # for callbacks that are still to run
            self.settle()
            self._attempts.close()

    async def _drain(self, until_s: float) -> None:
        """Wait for groups that were not given up."""
        loop = asyncio.get_running_loop()
        while (awaited := self._running - self._attempts.given_up) and loop.time() < until_s:
            await asyncio.wait(awaited, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED)

    def _end(self, attempt: Attempt, answer: asyncio.Future[Array]) -> None:
        """Tell the callers of a group that has ended, one way or another."""
        self._running.discard(answer)
        now_s = asyncio.get_running_loop().time()
        is_awaited = self._attempts.end(attempt)
        error = None
        try:
            self._take(attempt.batch, answer, now_s, is_awaited=is_awaited)
        except (Exception, asyncio.CancelledError) as exc:
            error = self._fail(attempt.batch, exc, is_awaited=is_awaited)
        if not self._ended:
            asyncio.get_running_loop().call_soon(self.settle)
        self._ended.append((attempt, now_s, error))

    def _take(self, batch: Batch, answer: asyncio.Future[Array], now_s: float, *, is_awaited: bool) -> None:
        """Answer the requests of a group; raises what it failed of."""
        output = answer.result()
        if len(output) != batch.sent.items:
            raise WrongAnswerError(f"{batch.link.name} answered {len(output)} items of {batch.sent.items}")
        if not is_awaited:
            return
        start = 0
        for request in batch.requests:
            part = output[start : start + request.items]
            start += request.items
            if not request.is_over:
                request.answer(batch.answer(request, part, now_s=now_s))
        self._attempts.note_answered(len(batch.requests))

    def _fail(self, batch: Batch, exc: BaseException, *, is_awaited: bool) -> str:
        """Send the requests of a group that failed again, or tell their callers; return why in words."""
        name = batch.link.name
        if isinstance(exc, SlimError):
            if is_awaited:
                self._attempts.fail(batch, exc)
            return str(exc)
        told: SlimError
        if isinstance(exc, asyncio.CancelledError):
            error, told = "cancelled", ServerUnavailableError("the router closed before the answer came")
        else:
            error = f"{type(exc).__name__}: {exc}"
            log.error("sending a group to %s failed unexpectedly", name, exc_info=exc)
            told = TransientError(f"{name}: {error}")
        for request in batch.requests:
            request.fail(told)
        return error
