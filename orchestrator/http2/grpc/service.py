"""A gRPC service: which methods there are, who may call them, and how calls of both kinds are answered.

A unary call is buffered until it has come whole, and its task begins then. A method that can answer without awaiting
may take a call over as it comes (``QuickHandler``) and needs no task. A streaming call's task begins with its headers
and reads messages as it takes them, so a client that sends faster is held up by its window.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Generic

from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.server_call import CallerT, CallRules, ServerCall
from orchestrator.http2.grpc.wire import (
    OK_TRAILERS,
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    Metadata,
    RequestHead,
    RpcError,
    http_refusal,
    message_bytes,
    message_parts,
    next_message_bytes,
    pack_message,
    split_message,
    strip_prefix,
    trailers,
)
from orchestrator.http2.stream import Receiver, Stream

UnaryHandler = Callable[[bytes, CallerT], Awaitable[bytes]]
QuickHandler = Callable[[bytes, CallerT, "UnaryCall[CallerT]"], bool]
"""Returns whether it takes a call, and will answer or has answered it; raises what it is refused with."""
Send = Callable[[bytes], Awaitable[None]]
StreamHandler = Callable[[AsyncIterator[bytes], Send, CallerT], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service(CallRules, Generic[CallerT]):
    """What is offered, by path, and how failures are shown.

    Attributes:
        unary: Handlers of one message each, by path.
        streaming: Handlers of streams both ways, by path.
        identify: Returns who makes a call of a path with this metadata, from this address, for its handler; called once
            a call, before its message has come. Raises what the call is refused with.
        owner_of: Returns with whom a caller's calls count that have not come whole.
        quick: Handlers that are asked first, for the paths of some unary ones.
        limit_s: Returns how long a caller's calls may take, whatever their clients say; None for any time.
    """

    unary: Mapping[str, UnaryHandler[CallerT]]
    streaming: Mapping[str, StreamHandler[CallerT]]
    identify: Callable[[str, Metadata, str], CallerT]
    owner_of: Callable[[CallerT], Hashable]
    quick: Mapping[str, QuickHandler[CallerT]] = field(default_factory=dict)
    limit_s: Callable[[CallerT], float | None] | None = None

    def accept(self, stream: Stream, head: RequestHead) -> Receiver | None:
        """Begin a call, or answer at once what is none, for a charge."""
        receiver = self._accept(stream, head)
        if receiver is None:
            stream.connection.charges += 1
        return receiver

    def _accept(self, stream: Stream, head: RequestHead) -> Receiver | None:
        if head.is_malformed:
            stream.reset(ErrorCode.PROTOCOL_ERROR)
        elif head.problem:
            stream.send_headers(http_refusal(head.problem), is_last=True)
        elif head.is_too_large:
            _refuse(stream, "RESOURCE_EXHAUSTED", f"more than {self.limits.header_list_bytes} bytes of metadata")
        else:
            return self._begin(stream, head)
        return None

    def _begin(self, stream: Stream, head: RequestHead) -> Receiver | None:
        try:
            caller = self.identify(head.path, head.metadata, stream.connection.peer)
        except Exception as exc:
            refusal = self.explain(exc)
            _refuse(stream, refusal.status, refusal.detail)
            return None
        if self.limit_s is not None and (most_s := self.limit_s(caller)) is not None:
            head = replace(head, timeout_s=most_s if head.timeout_s is None else min(most_s, head.timeout_s))
        call: ServerCall[CallerT]
        if (unary := self.unary.get(head.path)) is not None:
            call = UnaryCall(self, stream, head, caller, unary, self.quick.get(head.path))
        elif (streaming := self.streaming.get(head.path)) is not None:
            call = StreamingCall(self, stream, head, caller, streaming)
        else:
            _refuse(stream, "UNIMPLEMENTED", f"there is no method {head.path[:200]}")
            return None
        self.open_calls.add(call, self.owner_of(caller))
        return call


class UnaryCall(ServerCall[CallerT]):
    """A call of one message and one answer.

    Attributes:
        on_abort: Called when its client is gone or has lost interest, once at most; nothing is to be answered then.
    """

    __slots__ = ("_handler", "_has_begun", "_is_taken", "_quick", "_whole_bytes", "on_abort")

    def __init__(
        self,
        rules: CallRules,
        stream: Stream,
        head: RequestHead,
        caller: CallerT,
        handler: UnaryHandler[CallerT],
        quick: QuickHandler[CallerT] | None,
    ) -> None:
        super().__init__(rules, stream, head, caller)
        self._handler = handler
        self._quick = quick
        self._whole_bytes: int | None = None
        self._has_begun = False
        self._is_taken = False  # by a quick handler that has not answered yet
        self.on_abort: Callable[[], None] | None = None

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the message."""
        if self._has_begun or self._stream.is_local_closed:
            return
        try:
            body = data if is_last and not self._held else self._collect(data)  # the usual message comes in one piece
            if is_last and not self._stream.is_local_closed:
                self._release()
                self._begin(body)
        except RpcError as exc:
            self._release()
            self._fail(exc)

    def _collect(self, data: bytes) -> bytearray:
        """Keep a piece; return all that is kept."""
        self._hold(data)
        stream, held = self._stream, self._held
        if stream.is_local_closed:  # it was lost by that
            return held
        if self._whole_bytes is None and len(held) >= PREFIX_BYTES:
            self._whole_bytes = PREFIX_BYTES + message_bytes(held, self._rules.max_message_bytes)
        if len(held) > (self._whole_bytes or PREFIX_BYTES):
            raise RpcError("INTERNAL", "more than the one message of a unary call")
        if not stream.is_remote_closed:
            stream.credit(len(held))
        return held

    def _refuse(self, error: RpcError) -> None:
        self._fail(error)
        if self._task is not None:
            self._task.cancel()

    def _begin(self, body: bytes | bytearray) -> None:
        size = len(body) - PREFIX_BYTES
        if size < 0 or size != message_bytes(body, self._rules.max_message_bytes):
            raise RpcError("INTERNAL", "the request is not the one message of a unary call")
        self._has_begun = True
        self._rules.open_calls.discard(self)
        flag, payload = body[0], strip_prefix(body)
        message = self._unpack_small(flag, payload)
        if message is None:
            self._start(self._run_large(flag, payload))
            return
        if self._is_lost:
            return
        if self._quick is None or not self._offer(self._quick, message):
            self._start(self._run(message))

    def _offer(self, quick: QuickHandler[CallerT], message: bytes) -> bool:
        """Let a quick handler take the call; return whether it has."""
        self._is_taken = True
        self._stream.connection.running += 1
        try:
            is_taken = quick(message, self._caller, self)
        except Exception as exc:
            self.refuse(exc)
            return True
        if not is_taken:
            self._give_back()
        return is_taken

    def answer(self, message: bytes) -> None:
        """Answer the call; to be done once, or ``refuse``, by a quick handler that has taken it."""
        if self._give_back():
            if self._unpacked_bytes:
                self._give_unpacked()
            self._stop_waiting()
            self._stream.respond(RESPONSE_HEADERS, pack_message(message), OK_TRAILERS)
            if self.connection.running == 0:  # no other answer could leave with it
                self.connection.flush()

    def refuse(self, error: Exception) -> None:
        """Refuse the call with what stands for an error; see ``answer``."""
        if self._give_back():
            self._give_unpacked()
            self._fail(error)

    def _give_back(self) -> bool:
        """Let go of a call that was taken; return whether it was."""
        was_taken, self._is_taken = self._is_taken, False
        self._stream.connection.running -= was_taken
        return was_taken

    def abort(self, code: ErrorCode) -> None:
        """The client is gone, or has lost interest."""
        super().abort(code)
        if self._give_back() and self.on_abort is not None:
            self.on_abort()

    async def _run_large(self, flag: int, payload: bytes) -> None:
        try:
            message = await self._unpack_large(flag, payload)
        except RpcError as exc:
            self._fail(exc)
        else:
            if message is not None:
                await self._run(message)

    async def _run(self, message: bytes) -> None:
        try:
            answer = await self._handler(message, self._caller)
        except Exception as exc:
            self._fail(exc)
        else:
            first, *rest = message_parts(answer)
            if not rest:
                self._stream.respond(RESPONSE_HEADERS, first, OK_TRAILERS)
                return
            self._stream.send_headers(RESPONSE_HEADERS)
            for part in (first, *rest):
                self._stream.send_data(part)
            self._stream.finish(OK_TRAILERS)


class StreamingCall(ServerCall[CallerT]):
    """A call of many messages both ways."""

    __slots__ = ("_has_ended", "_readable", "_refusal")

    def __init__(
        self, rules: CallRules, stream: Stream, head: RequestHead, caller: CallerT, handler: StreamHandler[CallerT]
    ) -> None:
        super().__init__(rules, stream, head, caller)
        self._refusal: RpcError | None = None
        self._has_ended = False
        self._readable = asyncio.Event()
        stream.is_fed = False  # between messages its client may be silent for as long as it likes
        self._start(self._run(handler))

    async def _run(self, handler: StreamHandler[CallerT]) -> None:
        try:
            await handler(self._read(), self._send, self._caller)
        except Exception as exc:
            self._fail(exc)
        else:
            self._end("OK", "")

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the stream of messages."""
        if self._task is None or self._refusal is not None:
            return
        if is_last:
            self._has_ended = True
            self._rules.open_calls.discard(self)
        self._hold(data)
        if not self._is_readable():
            self._ask_for_more()
        else:
            self._readable.set()

    def _refuse(self, error: RpcError) -> None:
        self._refusal = error
        self._readable.set()

    def _is_readable(self) -> bool:
        """Whether a reader need not wait, be it for a message, a failure or the end."""
        if self._has_ended or self._refusal is not None:
            return True
        try:
            return next_message_bytes(self._held, self._rules.max_message_bytes) is not None
        except RpcError:
            return True

    def _ask_for_more(self) -> None:
        stream, is_under_way = self._stream, bool(self._held)
        if not is_under_way or not stream.is_fed:  # a message begins, or may
            stream.progress_s = stream.connection.clock()
        stream.is_fed = is_under_way  # the rest of a message that is under way must come
        stream.credit(len(self._held))

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            if self._refusal is not None:
                raise self._refusal
            size = next_message_bytes(self._held, self._rules.max_message_bytes)
            if size is not None:
                flag, payload = self._split_off(size)
                message = self._unpack_small(flag, payload)
                if message is None:
                    message = await self._unpack_large(flag, payload)
                if message is not None:
                    yield message
                    self._give_unpacked()
            elif self._has_ended:
                if self._held:
                    raise RpcError("INTERNAL", "the stream ends in the middle of a message")
                return
            else:
                self._readable.clear()
                await self._readable.wait()

    def _split_off(self, size: int) -> tuple[int, bytes]:
        """Take off one message as it is read; kept as objects, small ones would take ten times more."""
        flag, payload, self._held = split_message(self._held, size)
        self._rules.receive_budget.give(self, size)
        if not self._is_readable():
            self._ask_for_more()
        return flag, payload

    async def _send(self, message: bytes) -> None:
        stream = self._stream
        if not self._has_headers:
            self._has_headers = True
            stream.send_headers(RESPONSE_HEADERS)
        for part in message_parts(message):
            stream.send_data(part)
        while stream.is_congested and not stream.is_local_closed:
            writable = asyncio.Event()
            stream.on_writable = writable.set
            await writable.wait()


def _refuse(stream: Stream, status: str, detail: str) -> None:
    stream.send_headers(trailers(status, detail, is_only=True), is_last=True)
