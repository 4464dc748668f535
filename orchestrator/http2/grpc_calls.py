"""gRPC calls on the streams of an HTTP/2 server: messages in, a task for each call, an answer and a status out.

A unary call is buffered until it has come whole, and its task begins then; a streaming call's task begins with its
headers and reads messages as it takes them, so a client that sends faster is held up by its window. A call whose client
resets it, or whose time is up, has its task cancelled, and counts for its connection until that has ended.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc_wire import (
    OK_TRAILERS,
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    Metadata,
    RequestHead,
    RpcError,
    http_refusal,
    message_bytes,
    pack_message,
    trailers,
    unpack_message,
)
from orchestrator.http2.limits import Limits
from orchestrator.http2.stream import Receiver, Stream

log = logging.getLogger(__name__)

UnaryHandler = Callable[[bytes, Metadata], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
StreamHandler = Callable[[AsyncIterator[bytes], Send, Metadata], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Service:
    """What is offered, by path, and how failures are told.

    Attributes:
        unary: handlers of one message each.
        streaming: handlers of streams both ways.
        explain: the RpcError that stands for what a handler raised.
        max_message_bytes: of a request.
        limits: of a connection.
        check: raises what a call is refused with by its path and metadata, before its message has come; None lets all
            in.
    """

    unary: dict[str, UnaryHandler]
    streaming: dict[str, StreamHandler]
    explain: Callable[[Exception], RpcError]
    max_message_bytes: int
    limits: Limits
    check: Callable[[str, Metadata], None] | None = None

    def accept(self, stream: Stream, head: RequestHead) -> Receiver | None:
        """Begin a call, or answer at once what is none."""
        if head.is_malformed:
            stream.reset(ErrorCode.PROTOCOL_ERROR)
        elif head.problem:
            stream.send_headers(http_refusal(head.problem), is_last=True)
        elif head.is_too_large:
            _refuse(stream, "RESOURCE_EXHAUSTED", f"more than {self.limits.header_list_bytes} bytes of metadata")
        elif (refusal := self._refusal(head)) is not None:
            _refuse(stream, refusal.status, refusal.detail)
        elif (unary := self.unary.get(head.path)) is not None:
            return UnaryCall(self, stream, head, unary)
        elif (streaming := self.streaming.get(head.path)) is not None:
            return StreamingCall(self, stream, head, streaming)
        else:
            _refuse(stream, "UNIMPLEMENTED", f"there is no method {head.path[:200]}")
        return None

    def _refusal(self, head: RequestHead) -> RpcError | None:
        if self.check is None:
            return None
        try:
            self.check(head.path, head.metadata)
        except Exception as exc:
            return self.explain(exc)
        return None


def _refuse(stream: Stream, status: str, detail: str) -> None:
    stream.send_headers(trailers(status, detail, is_only=True), is_last=True)


class _Call:
    """What unary and streaming calls share: one task, its end, and the client's time limit."""

    __slots__ = ("_has_headers", "_head", "_service", "_stream", "_task", "_timer")

    def __init__(self, service: Service, stream: Stream, head: RequestHead) -> None:
        self._service = service
        self._stream = stream
        self._head = head
        self._has_headers = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(head.timeout_s, self._expire)

    def receive_headers(self, meaning: Any, is_last: bool) -> None:
        """Take a request's trailers, which gRPC does not have: only the end counts."""
        if is_last:
            self.receive_data(b"", True)
        else:
            self._stream.reset(ErrorCode.PROTOCOL_ERROR)
            self.abort(ErrorCode.PROTOCOL_ERROR)

    def receive_data(self, data: bytes, is_last: bool) -> None:
        raise NotImplementedError

    def abort(self, code: ErrorCode) -> None:
        """The client is gone, or has lost interest."""
        self._release()
        if self._timer is not None:
            self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _release(self) -> None:
        """Forget what has come of a request that is not whole."""

    def _start(self, work: Any) -> None:
        self._stream.connection.running += 1
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._stream.connection.running -= 1
        self._task = None
        if self._timer is not None:
            self._timer.cancel()

    def _expire(self) -> None:
        self._end("DEADLINE_EXCEEDED", "Deadline Exceeded")
        self.abort(ErrorCode.CANCEL)

    def _fail(self, error: Exception) -> None:
        told = error if isinstance(error, RpcError) else self._service.explain(error)
        self._end(told.status, told.detail)

    def _end(self, status: str, detail: str) -> None:
        stream = self._stream
        if self._has_headers:
            stream.finish(trailers(status, detail, is_only=False))
        else:
            stream.send_headers(trailers(status, detail, is_only=True), is_last=True)


class UnaryCall(_Call):
    """A call of one message and one answer."""

    __slots__ = ("_handler", "_held", "_held_bytes", "_whole_bytes")

    def __init__(self, service: Service, stream: Stream, head: RequestHead, handler: UnaryHandler) -> None:
        super().__init__(service, stream, head)
        self._handler = handler
        self._held: list[bytes] = []
        self._held_bytes = 0
        self._whole_bytes: int | None = None

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the message."""
        if self._task is not None or self._stream.is_local_closed:
            return
        try:
            if not (is_last and not self._held):  # the usual message comes in one piece
                data = self._hold(data)
            if is_last:
                self._release()
                self._begin(data)
        except RpcError as exc:
            self._release()
            self._fail(exc)

    def _hold(self, data: bytes) -> bytes:
        """Keep a piece; return all that is kept when the message is whole."""
        stream = self._stream
        self._held.append(data)
        self._held_bytes += len(data)
        stream.connection.held_bytes += len(data)
        if self._whole_bytes is None and self._held_bytes >= PREFIX_BYTES:
            prefix = b"".join(self._held)[:PREFIX_BYTES]
            self._whole_bytes = PREFIX_BYTES + message_bytes(prefix, self._service.max_message_bytes)
        if self._held_bytes > (self._whole_bytes or PREFIX_BYTES):
            raise RpcError("INTERNAL", "more than the one message of a unary call")
        if stream.connection.held_bytes > self._service.limits.held_bytes:
            raise RpcError("RESOURCE_EXHAUSTED", "too many large requests are under way on this connection")
        if not stream.is_remote_closed:
            stream.credit()
            return b""
        return b"".join(self._held)

    def _release(self) -> None:
        self._stream.connection.held_bytes -= self._held_bytes
        self._held_bytes = 0
        self._held = []

    def _begin(self, body: bytes) -> None:
        limit = self._service.max_message_bytes
        if len(body) < PREFIX_BYTES or len(body) != PREFIX_BYTES + message_bytes(body, limit):
            raise RpcError("INTERNAL", "the request is not the one message of a unary call")
        message = unpack_message(body[0], body[PREFIX_BYTES:], self._head.encoding, limit)
        self._start(self._run(message))

    async def _run(self, message: bytes) -> None:
        try:
            answer = await self._handler(message, self._head.metadata)
        except Exception as exc:
            self._fail(exc)
        else:
            self._stream.respond(RESPONSE_HEADERS, pack_message(answer), OK_TRAILERS)


class StreamingCall(_Call):
    """A call of many messages both ways."""

    __slots__ = ("_buffer", "_has_ended", "_messages", "_waiter")

    def __init__(self, service: Service, stream: Stream, head: RequestHead, handler: StreamHandler) -> None:
        super().__init__(service, stream, head)
        self._buffer = bytearray()
        self._messages: deque[tuple[int, bytes] | RpcError] = deque()
        self._has_ended = False
        self._waiter: asyncio.Future[None] | None = None
        stream.is_fed = False  # its client may be silent for as long as it likes
        self._start(self._run(handler))

    async def _run(self, handler: StreamHandler) -> None:
        try:
            await handler(self._read(), self._send, self._head.metadata)
        except Exception as exc:
            self._fail(exc)
        else:
            self._end("OK", "")

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the stream of messages."""
        self._buffer += data
        try:
            self._split()
            if is_last and self._buffer:
                raise RpcError("INTERNAL", "the stream ends in the middle of a message")
        except RpcError as exc:
            self._messages.append(exc)
            self._buffer.clear()
            is_last = True
        self._has_ended = self._has_ended or is_last
        if not self._messages:  # the rest of a message that is under way must come
            self._stream.credit()
        if (self._messages or self._has_ended) and self._waiter is not None:
            _release(self._waiter)

    def _split(self) -> None:
        buffer, limit = self._buffer, self._service.max_message_bytes
        position = 0
        while len(buffer) - position >= PREFIX_BYTES:
            begin = position + PREFIX_BYTES
            after = begin + message_bytes(buffer[position:begin], limit)
            if after > len(buffer):
                break
            self._messages.append((buffer[position], bytes(buffer[begin:after])))
            position = after
        del buffer[:position]

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            while self._messages:
                message = self._messages.popleft()
                if isinstance(message, RpcError):
                    raise message
                if not self._messages:
                    self._stream.credit()
                # Not before, or what fits into a window would be held unpacked.
                yield unpack_message(*message, self._head.encoding, self._service.max_message_bytes)
            if self._has_ended:
                return
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
            self._waiter = None

    async def _send(self, message: bytes) -> None:
        stream = self._stream
        if not self._has_headers:
            self._has_headers = True
            stream.send_headers(RESPONSE_HEADERS)
        stream.send_data(pack_message(message))
        while stream.is_congested and not stream.is_local_closed:
            writable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stream.on_writable = partial(_release, writable)
            await writable


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
