"""Inferences: those of families through the router, those of other models through the server that has them.

There is one way through the router, and it calls back: gRPC's unary calls are most of the traffic, and a callback needs
no task. HTTP and streams await the same, by a future that the callback resolves.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from orchestrator.errors import ConfigError, ServerUnavailableError, SlimError
from orchestrator.gateway.access_log import write_access
from orchestrator.gateway.auth.callers import Caller, Guard, Ticket
from orchestrator.gateway.dataplane.exchange import Decision, Exchange, Form
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.dataplane.passthrough import Passthrough
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.peers.forwarding import Forwarder
from orchestrator.gateway.protocol.family import (
    FamilyMessages,
    FamilyModel,
    FamilyRequest,
    build_response,
    read_request,
    require_version,
)
from orchestrator.gateway.protocol.messages import Message, parse, pb, serialise
from orchestrator.gateway.protocol.wire import (
    COPY_STEP_BYTES,
    MalformedMessageError,
    build_request,
    check_inference,
    read_address,
    request_parts,
    split_answer,
    split_request,
)
from orchestrator.gateway.statuses import outcome_of
from orchestrator.gateway.tracing import Tracing
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.service import UnaryCall
from orchestrator.http2.loop_lag import LoopLag
from orchestrator.router import Answer, CallbackSink, Router, Transit
from orchestrator.snapshot import ServerName

T = TypeVar("T")
ResponseT = TypeVar("ResponseT")

_QUICK_BYTES: Final = 2**16
"""Size up to which a message is parsed unseen: that costs less than reading its fields here, whatever they are."""


@dataclass(slots=True, eq=False)
class Inference:
    """Answers inferences of every model, each after it was admitted.

    Attributes:
        access_log: Whether to write a line about each that ends.
        tracing: What sends spans of families' requests; None: nothing does.
        lag: How long what comes waits for this process, and answers wait to leave it.
        forwarder: What passes requests on to other gateways; None for a gateway that shares its fleet with none.
    """

    router: Router
    model_index: ModelIndex
    metrics: GatewayMetrics
    guard: Guard
    passthrough: Passthrough
    access_log: bool = False
    tracing: Tracing | None = None
    lag: LoopLag = field(default_factory=LoopLag)
    forwarder: Forwarder | None = None
    _messages: FamilyMessages = field(default_factory=FamilyMessages)

    def admit(self, caller: Caller, model: str) -> Ticket:
        """Return what holds an inference's place among those under way; to be closed when it is answered.

        Raises ForbiddenError when the caller may not use the model, and QuotaError when it has had its share.
        """
        try:
            return self.guard.admit(caller, model)
        except SlimError as exc:
            self.note_refusal(model, exc, caller)
            raise

    def note_refusal(self, model: str, error: SlimError, caller: Caller) -> None:
        """Count, and log, an inference that ended before it was read."""
        self.metrics.count(self._label(model), outcome_of(error), tenant=caller.tenant)
        if self.access_log:
            write_access(model, outcome_of(error), caller, request_id="")

    def begin(self, message: bytes, caller: Caller, responder: UnaryCall[Caller]) -> bool:
        """Take a serialised inference, to be answered when the router does; False when it is of no family.

        Raises SlimError when it is refused.
        """
        request = parse(pb.ModelInferRequest, message) if len(message) <= _QUICK_BYTES else None
        model = read_address(message).model if request is None else request.model_name
        family = self.model_index.families.get(model)
        if family is None:
            return False
        ticket = self.admit(caller, family.name)

        def respond(response: bytes | Exception) -> None:
            responder.on_abort = None  # else call and callback would keep each other alive
            ticket.close()
            if isinstance(response, Exception):
                responder.refuse(response)
            else:
                responder.answer(response)

        def abort() -> None:
            ticket.close()
            cancel()

        try:
            read: Callable[[Message, FamilyModel], FamilyRequest] = self._messages.read
            if request is None:
                request, raws = _parse(message)
                read = partial(read_request, raws=raws)
            transit = Transit(responder.connection.arrived_s, self.lag.seconds)
            form = Form(read, self._messages.write, _as_it_is, lambda: (message,))
            responder.on_abort = abort  # before, because it may be answered at once
            cancel = self._begin(family, request, caller, respond, form, transit)
        except BaseException:
            responder.on_abort = None
            ticket.close()
            raise
        return True

    async def call(self, message: bytes, caller: Caller) -> bytes:
        """Return the serialised answer to a serialised inference; raises SlimError."""
        model = read_address(message).model
        with self.admit(caller, model):
            family = self.model_index.families.get(model)
            if family is None:
                return await self._pass_through(model, message, caller)
            request, raws = _parse(message)
            return serialise(await self._infer(family, request, caller, raws))

    async def infer(
        self, request: Message, raws: Sequence[Buffer], caller: Caller, *, is_decoupled: bool = False
    ) -> tuple[Message, Sequence[Buffer]]:
        """Return the ModelInferResponse to a ModelInferRequest that was admitted, both with raw data beside them.

        Of a model that ``is_decoupled`` it is its only response. Raises as ``call``.
        """
        family = self.model_index.families.get(request.model_name)
        if family is None:
            head, *rest = request_parts(request, raws)
            answer = await self._pass_through(request.model_name, bytes(head), caller, rest, is_decoupled=is_decoupled)
            return split_answer(answer)
        response = await self._infer(family, request, caller, raws)
        return response, response.raw_output_contents

    async def stream(self, request: Message, raws: list[Buffer], caller: Caller) -> AsyncGenerator[Message]:
        """Yield the ModelStreamInferResponses to a ModelInferRequest that was admitted.

        ``raws`` is emptied. What a model says of its failure is inside the responses; raises as ``call`` otherwise.
        """
        model = request.model_name
        family = self.model_index.families.get(model)
        if family is not None:
            response = await self._infer(family, request, caller, raws)
            yield pb.ModelStreamInferResponse(infer_response=response)
            return
        message = await _join(request, raws)
        with self.metrics.answering():
            try:
                self.guard.charge_items(caller, 1)
                check_inference(message)
                answers = await self.passthrough.stream(message, caller.metadata)
            except SlimError as exc:
                self.metrics.count(self._label(model), outcome_of(exc), tenant=caller.tenant)
                raise
            self.metrics.count(model, "streamed", tenant=caller.tenant)
            async with aclosing(answers):
                async for answer in answers:
                    yield answer

    async def infer_streamed(self, family: FamilyModel, message: bytes, caller: Caller) -> bytes:
        """Return the ModelStreamInferResponse to one request of a stream; expected errors are inside it."""
        response = pb.ModelStreamInferResponse()
        try:
            with self.admit(caller, family.name):
                request, raws = _parse(message)
                response.infer_response.CopyFrom(await self._infer(family, request, caller, raws))
                response.infer_response.parameters["triton_final_response"].bool_param = True
        except MalformedMessageError:
            raise
        except SlimError as exc:
            response.error_message = str(exc)
            response.infer_response.id = read_address(message).request_id
        return serialise(response)

    async def _infer(
        self, family: FamilyModel, request: Message, caller: Caller, raws: Sequence[Buffer] | None = None
    ) -> Message:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        read, message = partial(read_request, raws=raws), partial(request_parts, request, raws or ())
        form = Form(read, build_response, pb.ModelInferResponse.FromString, message)
        lag_s = self.lag.seconds
        transit = Transit(asyncio.get_running_loop().time() - lag_s, lag_s)
        cancel = self._begin(family, request, caller, partial(_resolve, future), form, transit)
        try:
            return await future
        except asyncio.CancelledError:
            cancel()
            raise
        finally:
            del future, cancel  # an error holds this frame, and the future the error; it would take the collector

    def _begin(
        self,
        family: FamilyModel,
        request: Message,
        caller: Caller,
        callback: Callable[[ResponseT | Exception], None],
        form: Form[ResponseT],
        transit: Transit,
    ) -> Callable[[], None]:
        """Take a ModelInferRequest and return at once what withdraws it.

        ``callback`` is called once with what the form makes of the answer, or with the error, unless this raises or
        the request is withdrawn; it may be called before this returns.
        """
        self.metrics.begin(is_for_peer=caller.is_peer)
        trace = None if self.tracing is None else self.tracing.begin(caller.metadata, is_hop=caller.is_peer)
        if trace is not None:
            transit = transit._replace(trace=trace)
        note = partial(self._note, family, caller, request.id, time.perf_counter(), transit)
        try:
            require_version(family, request.model_version)
            wanted = form.read(request, family)
            self.guard.require_priority(caller, wanted.options.priority)
            self.guard.charge_items(caller, wanted.items)
            self.metrics.time_transit(transit.return_s + asyncio.get_running_loop().time() - transit.arrived_s)
            forwarder = None if caller.is_peer else self.forwarder
            exchange = Exchange(
                *(family, wanted, form, transit),
                submit=self._submit,
                forwarder=forwarder,
                note=note,
                callback=callback,
            )
            exchange.begin()
        except BaseException as exc:
            note(outcome_of(exc))
            raise
        return exchange.cancel

    def _submit(self, wanted: FamilyRequest, family: FamilyModel, sink: CallbackSink, transit: Transit) -> None:
        try:
            self.router.submit(wanted.inputs, wanted.options, sink, transit)
        except ConfigError as exc:
            # Not the client's fault: its request is what the family takes.
            try:
                models = self.router.models(family.name)
            except ConfigError:
                raise ServerUnavailableError(f"family '{family.name}' is on no server now", executed=False) from exc
            if not any(model.inputs == family.inputs for model in models):
                text = f"the models of family '{family.name}' are being replaced; retry later"
                raise ServerUnavailableError(text, executed=False) from exc
            raise

    def _note(
        self,
        family: FamilyModel,
        caller: Caller,
        request_id: str,
        began_s: float,
        transit: Transit,
        outcome: str,
        decision: Decision = ("", "", None),
        answer: Answer | None = None,
    ) -> None:
        latency_s = time.perf_counter() - began_s
        self.metrics.end(is_for_peer=caller.is_peer)
        if self.tracing is not None and transit.trace is not None:
            self.tracing.end(transit.trace, family.name, outcome, began_s=transit.arrived_s, answer=answer)
        if caller.is_peer:  # its own gateway counts and times it
            self.metrics.count_for_peer(outcome)
            return
        width, server, queue_s = decision
        self.metrics.time(
            family.name,
            outcome,
            tenant=caller.tenant,
            width=width,
            server=server,
            latency_s=latency_s,
            queue_s=queue_s,
        )
        if self.access_log:
            ran_on = server if answer is None else None
            write_access(
                family.name, outcome, caller, request_id=request_id, latency_s=latency_s, server=ran_on, answer=answer
            )

    async def _pass_through(
        self, name: str, message: bytes, caller: Caller, rest: Sequence[Buffer] = (), *, is_decoupled: bool = False
    ) -> bytes:
        """Return what a server answers to an inference of a model that is no family; ``rest`` is our own raw data."""
        self.metrics.begin()
        began_s = time.perf_counter()
        outcome, asked = "ok", list[ServerName]()
        try:
            self.guard.charge_items(caller, 1)
            classified = check_inference(message)
            passing, metadata = self.passthrough, caller.metadata
            if is_decoupled:
                return await passing.ask_decoupled(b"".join((message, *rest)), metadata, on_sent=asked.append)
            answer, _ = await passing.ask(
                "ModelInfer", message, metadata, rest=rest, classified=classified, on_sent=asked.append
            )
            return answer
        except BaseException as exc:
            outcome = outcome_of(exc)
            raise
        finally:
            latency_s = time.perf_counter() - began_s
            server = asked[-1] if asked else ""
            self.metrics.end()
            if self.access_log:
                request_id = read_address(message).request_id
                write_access(name, outcome, caller, request_id=request_id, latency_s=latency_s, server=server)
            self.metrics.time(
                name if outcome == "ok" else self._label(name),
                outcome,
                tenant=caller.tenant,
                server=server,
                latency_s=latency_s,
                queue_s=None,
            )

    def _label(self, model: str) -> str:
        """Return a model's name for metrics, empty when nobody has it: a client must not make up series."""
        return model if self.model_index.is_known(model) else ""


async def _join(request: Message, raws: list[Buffer]) -> bytes:
    """Return a ModelInferRequest with its raw data, which are taken out of their list, as one message."""
    message = await call_beside(partial(build_request, request, raws), copied_bytes=sum(map(len, raws)))
    raws.clear()
    return message


async def call_beside(function: Callable[[], T], *, copied_bytes: int) -> T:
    """Return what a function returns, called beside the event loop when it copies much."""
    return function() if copied_bytes <= COPY_STEP_BYTES else await asyncio.to_thread(function)


def _parse(message: bytes) -> tuple[Message, Sequence[Buffer] | None]:
    """Return a ModelInferRequest for a family, and its raw data when it is not in it.

    Raises ConfigError or MalformedMessageError.
    """
    if len(message) <= _QUICK_BYTES:
        return parse(pb.ModelInferRequest, message), None
    head, raws = split_request(message)
    return parse(pb.ModelInferRequest, head), raws


def _as_it_is(response: bytes) -> bytes:
    return response


def _resolve(future: asyncio.Future[Message], response: Message | Exception) -> None:
    if future.done():  # whoever waited has given up
        return
    if isinstance(response, Exception):
        future.set_exception(response)
    else:
        future.set_result(response)
