"""Batches on their way: sent, watched, given up for their callers' sake when they take too long, and answered.

No batch has a task of its own, but for one that is kept back for a few milliseconds so that Triton does not join it to
the one before it: a client that can answer without one returns a future, and what is to be done with its answer is the
future's callback. Callers come first; what the answer shows (how long the server took, what policies want to know, the
decision log) is noted right after, while the answers travel, but always before anything is decided again.

A call to Triton is never cancelled (see orchestrator.triton.client), so a batch ends only when its answer or its
failure comes, or when ``group_timeout_s`` has passed and nothing more is hoped for. Before that two things may happen,
each by a timer: after a quantile of what is expected its requests are *hedged*, where that is on, and far beyond what
is expected they are *overdue*. Both put the request into the queue again while its first attempt goes on. The first
answer is given to the caller; any later one is dropped, and only shows that the server is alive.

A model that has an overdue batch and has answered nothing since it was sent is *suspect*, and so is its server when
that has answered nothing else either: nothing more goes there, as long as there is another, until it answers something.
So a server that hangs, or a model that is dead on all servers, costs nobody more than the overdue time.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from orchestrator.errors import (
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
    WrongAnswerError,
)
from orchestrator.router.dispatch.batch import Batch
from orchestrator.router.dispatch.decision_log import DecisionLog, outcome_of
from orchestrator.router.dispatch.retry_rules import (
    Cause,
    RetryBudget,
    Verdict,
    is_repeatable,
    judge_retry,
    overdue_after_s,
)
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.deadline_timers import Deadlines
from orchestrator.router.queue.request import Answer, BatchKey, PendingRequest, Suspicion
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.queue.trace import Attempt, Trace, context_of
from orchestrator.router.servers.connection import StalledModelError, StalledServerError
from orchestrator.router.servers.ejection_rules import latency_quantile
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.incidents import is_of_model
from orchestrator.triton.infer_wire import Tensors

log = logging.getLogger(__name__)

_LOOK_AGAIN_S = 0.1  # after a batch became overdue: by then it is known whether other widths of its server answer
_HEDGE_MARGIN = 1.1  # over the quantile, so that what is only just over it is let through


class Sender:
    """Sends batches, gives their answers to callers, and sends again what ``retry`` allows.

    ``wake`` is called when something was queued or may be sent that could not be sent before, ``learn`` with each batch
    that was answered while it was awaited, and when. Outcomes are written to ``decisions``, where there is such a log.

    Attributes:
        on_answer: Called with each request that is answered, and its answer.
    """

    def __init__(
        self,
        fleet: Fleet,
        queues: RequestQueues,
        observer: RouterObserver,
        wake: Callable[[], None],
        learn: Callable[[Batch, float], None],
        decisions: DecisionLog | None,
    ) -> None:
        self._fleet = fleet
        self._queues = queues
        self._observer = observer
        self._wake = wake
        self._learn = learn
        self._decisions = decisions
        self._budget = RetryBudget(float(fleet.settings.retries.minimum), 0.0)
        self._deadlines: Deadlines[Batch] = Deadlines(self._on_due)
        self._running: dict[asyncio.Future[Tensors], Batch] = {}
        self._given_up: set[asyncio.Future[Tensors]] = set()
        self._alone = itertools.count(1)
        self._ended: list[tuple[Batch, float, str | None]] = []
        self._is_closing = False
        self.on_answer: Callable[[PendingRequest, Answer], None] = lambda request, answer: None

    @property
    def under_way(self) -> int:
        """The number of batches that were sent and have not ended, those that were given up included."""
        return len(self._running)

    @property
    def given_up(self) -> int:
        """The number of batches under way that nobody waits for any more."""
        return len(self._given_up)

    def items_by_key(self) -> Iterator[tuple[BatchKey, int]]:
        """Yield the key of each batch that runs on a server of this router's and is waited for, with its items."""
        return (
            (batch.key, batch.sent.items)
            for batch in self._running.values()
            if batch.server.is_driven and not batch.is_given_up
        )

    def send(self, batch: Batch) -> None:
        """Send a batch, which its server has room for."""
        server = batch.server
        pause_s = server.pause_s(batch.model, now_s=batch.sent.sent_s)
        server.in_flight.append(batch.sent)
        server.calls += 1
        traces: list[Trace] = []
        sent_to = server.name, batch.model.width
        for request in batch.requests:
            request.attempts += 1
            request.sent_to = sent_to
            request.under_way += 1
            if (trace := request.trace) is not None:
                traces.append(trace)
                if trace.is_sampled:
                    attempt = Attempt(server.name, batch.model.width, batch.sent.items, batch.sent.sent_s)
                    trace.attempts.append(attempt)
                    batch.attempts.append(attempt)
        self._observer.on_sent(server.name, batch.model.width, batch.sent.items)
        try:
            infer = server.client.infer_batch
            if traces:
                infer = partial(infer, metadata=context_of(traces))
            ask = partial(infer, batch.model, batch.inputs())
            batch.outputs = asyncio.ensure_future(_ask_later(ask, pause_s) if pause_s > 0 else ask())
        except Exception as exc:
            batch.outputs = asyncio.get_running_loop().create_future()
            batch.outputs.set_exception(exc)
        batch.stages = self._stages(batch)
        self._deadlines.begin()
        self._deadlines.watch(batch, batch.stages[-1][0])
        self._running[batch.outputs] = batch
        batch.outputs.add_done_callback(partial(self._end, batch))

    def settle(self) -> None:
        """Note what the batches show whose callers have their answers."""
        ended = self._ended
        while ended:
            batch, now_s, error = ended.pop(0)
            server = batch.server
            if not batch.is_given_up:
                try:
                    if error is None:
                        self._learn(batch, now_s)
                finally:
                    server.release(batch.sent)
            if self._decisions is not None and batch.record is not None:
                outcome = outcome_of(batch, now_s=now_s, error=error)
                self._decisions.write(batch.record, batch.decision_id, outcome)
            self._observer.on_ended(server.name, batch.model.width, batch.sent.items)
            self._wake()

    async def close(self, *, until_s: float) -> None:
        """Send nothing again, wait for what somebody waits for, no longer than until then, and end the rest."""
        self._is_closing = True
        loop = asyncio.get_running_loop()
        try:
            while (awaited := self._running.keys() - self._given_up) and loop.time() < until_s:
                await asyncio.wait(awaited, timeout=until_s - loop.time(), return_when=asyncio.FIRST_COMPLETED)
        finally:
            remaining = list(self._running)
            for outputs in remaining:
                outputs.cancel()
            await asyncio.gather(*remaining, return_exceptions=True)
            await asyncio.sleep(0)  # for callbacks that are still to run
            self.settle()
            self._deadlines.close()

    # --- it takes too long ---

    def _stages(self, batch: Batch) -> list[tuple[float, Callable[[Batch], None]]]:
        """Return what happens to a batch that is not answered, and when; the first of it last."""
        settings = self._fleet.settings
        stages: list[tuple[float, Callable[[Batch], None]]] = [(settings.group_timeout_s, self._on_stalled)]
        expected_s = self._fleet.times.work_s(batch.server, batch.model.name)
        overdue_s = overdue_after_s(expected_s, settings.retries)
        if overdue_s is not None and overdue_s < settings.group_timeout_s:
            again_s = min(settings.group_timeout_s, overdue_s + _LOOK_AGAIN_S)
            stages += [(again_s, partial(self._copy, cause=Cause.OVERDUE)), (overdue_s, self._on_overdue)]
        if settings.hedge is not None and expected_s > 0:
            fleet = (server.health for server in self._fleet.servers.values())
            factor = latency_quantile(fleet, settings.hedge.quantile)
            hedge_s = max(settings.hedge.floor_ms / 1e3, _HEDGE_MARGIN * expected_s * (factor or 1.0))
            if hedge_s < stages[-1][0]:
                stages.append((hedge_s, partial(self._copy, cause=Cause.HEDGE)))
        sent_s = batch.sent.sent_s
        return [(sent_s + after_s, act) for after_s, act in stages]

    def _on_due(self, batch: Batch) -> None:
        _, act = batch.stages.pop()
        if batch.stages:
            self._deadlines.watch(batch, batch.stages[-1][0])
        act(batch)

    def _on_overdue(self, batch: Batch) -> None:
        self._fleet.incidents.note_overdue(batch.server, batch.model.name, batch.sent.sent_s)
        batch.is_overdue = True
        for request in batch.requests:
            request.overdue += 1
        self._copy(batch, Cause.OVERDUE)

    def _on_stalled(self, batch: Batch) -> None:
        batch.is_given_up = True
        self._given_up.add(batch.outputs)
        batch.outputs.add_done_callback(self._given_up.discard)
        self._release(batch)
        is_model_alone = batch.server.health.is_alone(batch.model.name)
        batch.server.release(batch.sent)
        limit = f"group_timeout_s = {self._fleet.settings.group_timeout_s}"
        error: SlimError = StalledServerError(f"{batch.server.name} left a batch unanswered, {limit}")
        if is_model_alone:
            error = StalledModelError(f"{batch.model.name} on {batch.server.name} left a batch unanswered, {limit}")
        self._retry(batch, error)
        self._wake()

    # --- it has ended ---

    def _end(self, batch: Batch, outputs: asyncio.Future[Tensors]) -> None:
        """Answer the requests of a batch that has ended, one way or another."""
        self._running.pop(outputs, None)
        loop, server = asyncio.get_running_loop(), batch.server
        now_s = loop.time()
        server.calls -= 1
        server.health.is_suspect = False
        self._deadlines.end()
        if batch.is_given_up:
            server.check_soon.set()  # it may have come back
        else:
            self._release(batch)
        for attempt in batch.attempts:
            attempt.note_end(outputs, now_s)
        error = None
        try:
            self._answer(batch, outputs.result(), now_s)
        except (Exception, asyncio.CancelledError) as exc:
            error = self._fail(batch, exc)
        if not self._ended:
            loop.call_soon(self.settle)
        self._ended.append((batch, now_s, error))

    def _release(self, batch: Batch) -> None:
        for request in batch.requests:
            request.under_way -= 1
            request.overdue -= batch.is_overdue

    def _answer(self, batch: Batch, outputs: Tensors, now_s: float) -> None:
        """Answer the requests of a batch; raises when the answer is not about them."""
        for output in outputs:
            if len(output) != batch.sent.items:
                raise WrongAnswerError(f"{batch.server.name} answered {len(output)} items of {batch.sent.items}")
        if batch.is_given_up:
            return
        looks_wrong = not (self._fleet.settings.probes is None or _is_finite(outputs))
        start = 0
        for request in batch.requests:
            part = tuple([output[start : start + request.items] for output in outputs])
            start += request.items
            if request.is_over or (looks_wrong and self._ask_another(batch, request, part)):
                continue
            answer = batch.answer(request, part, now_s=now_s)
            request.answer(answer)
            if request.suspicion is not None:
                request.suspicion.note_answer(batch.server.name, batch.model)
            self.on_answer(request, answer)
        self._budget = self._budget.answered(len(batch.requests), self._fleet.settings.retries)

    def _fail(self, batch: Batch, exc: BaseException) -> str:
        """Send the requests of a batch that failed again, or fail them; return why in words."""
        name = batch.server.name
        if isinstance(exc, SlimError):
            if not batch.is_given_up:
                self._retry(batch, exc)
            return str(exc)
        failure: SlimError
        if isinstance(exc, asyncio.CancelledError):
            error, failure = "cancelled", ServerUnavailableError("the router closed before the answer came")
        else:
            error = f"{type(exc).__name__}: {exc}"
            log.error("sending a batch to %s failed unexpectedly", name, exc_info=exc)
            failure = TransientError(f"{name}: {error}")
        for request in batch.requests:
            request.fail(failure)
        return error

    # --- once more ---

    def _retry(self, batch: Batch, error: SlimError) -> None:
        """Send the requests of a batch that failed again, or fail them, and note what it says of the server.

        Where one of them may be to blame each goes alone from then on, so that it takes no other with it. Where one
        must be, that costs no budget: the batch was not their choice, and who sends such requests would use it up.
        """
        failure = batch.server, batch.model, batch.sent.sent_s, error
        self._fleet.incidents.note_failure(*failure)
        suspicion: Suspicion | None = None
        if is_of_model(error):
            blame = partial(self._fleet.incidents.blame, *failure)
            suspicion = Suspicion(batch.server.name, batch.model, len(batch.requests), blame)
        is_refused, is_shared = type(error) is PermanentError, len(batch.requests) > 1
        is_free = is_shared and (is_refused or self._fleet.incidents.is_sound(batch.server.name, batch.model.name))
        key = batch.key.elsewhere(batch.server.name)
        for request in batch.requests:
            if request.is_over:
                continue
            if suspicion is not None or is_refused:
                key = replace(key, alone=next(self._alone))
            if suspicion is not None:
                request.suspicion = suspicion
            repeatable = is_repeatable(error) or (is_refused and is_shared)
            verdict = self._judge(request, key, Cause.FAILED, repeatable=repeatable, is_free=is_free)
            if verdict is Verdict.SEND_AGAIN:
                self._observer.on_retry(batch.server.name)
                self._queues.push(key, request)
            elif verdict is not Verdict.ELSEWHERE_ALREADY:
                log.debug("a request is not sent again, %s: %s", verdict, error)
                request.fail(_for_caller(error, is_shared=is_shared))

    def _ask_another(self, batch: Batch, request: PendingRequest, outputs: Tensors) -> bool:
        """Send a request again, once, whose answer is not finite though its input is; return whether it is sent.

        A sound network gives such answers to inputs that overflow it. So its server is not blamed but probed, and what
        another one answers is taken as it is.
        """
        if request.attempts > 1 or not _is_finite(request.batch) or _is_finite(outputs):
            return False
        key = batch.key.elsewhere(batch.server.name)
        # Or one client could use up the budget of retries.
        is_doubted = self._fleet.incidents.doubt(batch.server, batch.model)
        if not is_doubted or self._judge(request, key, Cause.FAILED, repeatable=True) is not Verdict.SEND_AGAIN:
            return False
        self._observer.on_retry(batch.server.name)
        self._queues.push(key, request)
        return True

    def _copy(self, batch: Batch, cause: Cause) -> None:
        """Queue the requests of a batch that is under way for another server, where that helps."""
        if self._is_closing:
            return
        key = batch.key.elsewhere(batch.server.name)
        note = self._observer.on_hedge if cause is Cause.HEDGE else self._observer.on_retry
        for request in batch.requests:
            if not request.is_over and self._judge(request, key, cause, repeatable=True) is Verdict.SEND_AGAIN:
                note(batch.server.name)
                self._queues.push(key, request)
        self._wake()

    def _judge(
        self, request: PendingRequest, key: BatchKey, cause: Cause, *, repeatable: bool, is_free: bool = False
    ) -> Verdict:
        """Return whether a request is sent again; the budget is spent when it is, unless that ``is_free``."""
        now_s, settings = asyncio.get_running_loop().time(), self._fleet.settings
        # The attempt in question is still counted as under way; beside an overdue one others may hang likewise.
        ended = {Cause.FAILED: 0, Cause.HEDGE: 1, Cause.OVERDUE: request.overdue}[cause]
        verdict = judge_retry(
            cause,
            repeatable=repeatable and not self._is_closing,
            attempts=request.attempts,
            max_attempts=settings.max_attempts,
            others=request.under_way - ended + (1 if request.is_queued else 0),
            slack_s=request.deadline_s - now_s if request.has_own_deadline else None,
            elsewhere_s=self._fleet.times.elsewhere_s(key, request.items),
        )
        if verdict is not Verdict.SEND_AGAIN or is_free:
            return verdict
        spent = self._budget.refilled(settings.retries, now_s=now_s).spent()
        if spent is None:
            return Verdict.NO_BUDGET
        self._budget = spent
        return verdict


def _for_caller(error: SlimError, *, is_shared: bool) -> SlimError:
    """Return what a caller learns of a failed attempt; a model that its server had until then may come again."""
    if is_shared and type(error) is PermanentError:
        return TransientError(f"{error}; another request of the same batch may be to blame, send it again")
    if isinstance(error, ModelNotFoundError):
        return ServerUnavailableError(f"{error}; it was loaded until now, retry later", executed=False)
    return error


async def _ask_later(ask: Callable[[], Awaitable[Tensors]], pause_s: float) -> Tensors:
    await asyncio.sleep(pause_s)
    return await ask()


def _is_finite(arrays: Tensors) -> bool:
    return all([array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in arrays])
