"""Inferences of families: from a request that was read, through the router, to an answer that is counted.

There is one way through, and it calls back: gRPC's single calls are most of the traffic, and a callback needs no task.
HTTP and streams await the same, by a future that the callback resolves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeVar

from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.gateway.auth.callers import Caller, Guard
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.metrics.outcomes import outcome_of
from orchestrator.gateway.ports import InferenceRouter
from orchestrator.gateway.protocol.family import (
    FamilyModel,
    FamilyRequest,
    build_response,
    read_request,
    require_version,
)
from orchestrator.gateway.protocol.family_requests import FamilyRequests
from orchestrator.gateway.protocol.family_responses import FamilyResponses
from orchestrator.gateway.protocol.messages import Message
from orchestrator.router import Answer, CallbackSink

ResponseT = TypeVar("ResponseT")
Render = Callable[[str, FamilyModel, Answer, int | None], ResponseT]
"""Makes a response from the request's id, the family, the answer, and how many classes are wanted as text."""


class FamilyInference:
    """Answers inferences of families.

    Args:
        router: What runs them.
        metrics: Where they are counted.
        guard: What says what a caller may.
        require_open: Raises when no more requests are taken.
    """

    def __init__(
        self, router: InferenceRouter, metrics: GatewayMetrics, guard: Guard, require_open: Callable[[], None]
    ) -> None:
        self._router = router
        self._metrics = metrics
        self._guard = guard
        self._require_open = require_open
        self._requests = FamilyRequests()
        self._responses = FamilyResponses()

    async def infer(self, family: FamilyModel, request: Message, caller: Caller) -> Message:
        """Return the ModelInferResponse to a ModelInferRequest.

        Raises:
            SlimError: Why there is none.
        """
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        cancel = self._begin(family, request, caller, build_response, partial(_resolve, future))
        try:
            return await future
        except asyncio.CancelledError:
            cancel()
            raise
        finally:
            del future, cancel  # an error holds this frame, and the future the error; it would take the collector

    def find(self, message: bytes, families: Mapping[str, FamilyModel]) -> tuple[FamilyModel, FamilyRequest] | None:
        """See FamilyRequests."""
        return self._requests.find(message, families)

    def begin(
        self,
        family: FamilyModel,
        request: FamilyRequest | bytes,
        caller: Caller,
        callback: Callable[[bytes | Exception], None],
    ) -> Callable[[], None]:
        """Take a serialised ModelInferRequest and return at once what withdraws it.

        Args:
            family: The family that it is for.
            request: The request as it came, or as ``find`` found it.
            caller: Who makes the call.
            callback: Called once with the serialised ModelInferResponse or the error, unless this raises or the
                request is withdrawn; may be called before this returns.

        Raises:
            SlimError: Why the request is not taken.
        """
        return self._begin(family, request, caller, self._responses.render, callback)

    def _begin(
        self,
        family: FamilyModel,
        request: Message,
        caller: Caller,
        render: Render[ResponseT],
        callback: Callable[[ResponseT | Exception], None],
    ) -> Callable[[], None]:
        self._metrics.begin()
        note = partial(self._note, family, caller, time.perf_counter())

        def finish(outcome: Answer | Exception) -> None:
            if isinstance(outcome, Exception):
                note(outcome_of(outcome))
                callback(outcome)
                return
            try:
                callback(render(wanted.id, family, outcome, wanted.classes))
                note("ok", outcome)
            except Exception as exc:  # a bug of ours, which the client is told as such
                note(outcome_of(exc))
                callback(exc)

        def cancel() -> None:
            if not sink.done():
                sink.cancel()
                note("cancelled")

        sink = CallbackSink(finish)
        try:
            self._require_open()
            wanted = self._read(request, family)
            self._guard.require_priority(caller, wanted.options.priority)
            self._guard.charge_items(caller, len(wanted.batch))
            self._submit(wanted, family, sink)
        except BaseException as exc:
            note(outcome_of(exc))
            raise
        return cancel

    def _read(self, request: Message, family: FamilyModel) -> FamilyRequest:
        if isinstance(request, FamilyRequest):
            return request
        if isinstance(request, bytes):
            return self._requests.read(request, family)
        require_version(family, request.model_version)
        return read_request(request, family)

    def _submit(self, wanted: FamilyRequest, family: FamilyModel, sink: CallbackSink) -> None:
        try:
            self._router.submit(wanted.batch, wanted.options, sink)
        except ConfigError as exc:
            try:
                self._router.models(family.name)
            except ConfigError:  # not the client's fault: the family is known but has left all servers
                raise ServerUnavailableError(f"family '{family.name}' is on no server now", executed=False) from exc
            raise

    def _note(
        self, family: FamilyModel, caller: Caller, began_s: float, outcome: str, answer: Answer | None = None
    ) -> None:
        self._metrics.end()
        self._metrics.time(
            family.name,
            outcome,
            tenant=caller.tenant,
            width="" if answer is None else str(answer.width),
            server="" if answer is None else answer.server,
            latency_s=time.perf_counter() - began_s,
            queue_s=None if answer is None else answer.queue_s,
        )


def _resolve(future: asyncio.Future[Message], response: Message | Exception) -> None:
    if future.done():  # whoever waited has given up
        return
    if isinstance(response, Exception):
        future.set_exception(response)
    else:
        future.set_result(response)
