"""gRPC calls on the streams of an HTTP/2 server: messages in, a task for each call, an answer and a status out.

A unary call is buffered until it has come whole, and its task begins then; a streaming call's task begins with its
headers and reads messages as it takes them, so a client that sends faster is held up by its window. A call whose client
resets it, or whose time is up, has its task cancelled, and counts for its connection until that has ended.

A method that can answer without awaiting may take a call over as it comes (``Service.quick``) and needs no task.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from orchestrator.http2.flow import AnyFlow
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.wire import (
    OK_TRAILERS,
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    TRAILERS,
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
from orchestrator.http2.receive_budget import ReceiveBudget
from orchestrator.http2.stream import Receiver, Stream

log = logging.getLogger(__name__)

_THREAD_FROM_BYTES = 256 * 1024  # decompressing more takes milliseconds, which the event loop can't spare

UnaryHandler = Callable[[bytes, Metadata], Awaitable[bytes]]
Send = Callable[[bytes], Awaitable[None]]
StreamHandler = Callable[[AsyncIterator[bytes], Send, Metadata], Awaitable[None]]


class Answerer(Protocol):
    """A unary call, for who answers it later.

    Attributes:
        on_abort: called when its client is gone or has lost interest, once at most; nothing is to be answered then.
    """

    on_abort: Callable[[], None] | None

    def answer(self, message: bytes) -> None:
        """Answer it; to be done once, or ``refuse``, after it was taken."""
        ...

    def refuse(self, error: Exception) -> None:
        """Tell why there is no answer."""
        ...


QuickHandler = Callable[[bytes, Metadata, Answerer], bool]
"""Returns whether it takes a call, and will answer or has answered it; raises what it is refused with."""


@dataclass(frozen=True, slots=True)
class Service:
    """What is offered, by path, and how failures are told.

    Attributes:
        unary: handlers of one message each.
        streaming: handlers of streams both ways.
        explain: the RpcError that stands for what a handler raised.
        max_message_bytes: of a request.
        limits: of a connection.
        receive_budget: of all connections.
        quick: handlers that are asked first, for the paths of some unary ones.
        check: raises what a call is refused with by its path and metadata, before its message has come; None lets all
            in.
    """

    unary: dict[str, UnaryHandler]
    streaming: dict[str, StreamHandler]
    explain: Callable[[Exception], RpcError]
    max_message_bytes: int
    limits: Limits
    receive_budget: ReceiveBudget
    check: Callable[[str, Metadata], None] | None = None
    quick: Mapping[str, QuickHandler] = field(default_factory=dict)

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


def _too_much_held() -> RpcError:
    return RpcError("RESOURCE_EXHAUSTED", "too many large requests are coming in at a time; send it again")


def _refuse(stream: Stream, status: str, detail: str) -> None:
    stream.send_headers(trailers(status, detail, is_only=True), is_last=True)


class _Call(ABC):
    """What unary and streaming calls share: one task, its end, and the client's time limit."""

    __slots__ = ("_has_headers", "_head", "_left_bytes", "_service", "_stream", "_task", "_timer")

    def __init__(self, service: Service, stream: Stream, head: RequestHead) -> None:
        self._service = service
        self._stream = stream
        self._head = head
        self._has_headers = False
        self._left_bytes = head.content_bytes
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(head.timeout_s, self._expire)

    def receive_headers(self, meaning: Any, is_last: bool) -> None:
        """Take a request's trailers, which gRPC does not have: only the end counts."""
        if is_last and meaning is TRAILERS:
            self.receive_data(b"", True)
        else:
            self._break(ErrorCode.PROTOCOL_ERROR)

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body; one that belies its ``content-length`` is a stream error (RFC 9113, 8.1.1)."""
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0 or (is_last and self._left_bytes > 0):
                self._break(ErrorCode.PROTOCOL_ERROR)
                return
        self._receive(data, is_last)

    @abstractmethod
    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body that has been counted."""

    def _break(self, code: ErrorCode) -> None:
        self._stream.reset(code)
        self.abort(code)

    def abort(self, code: ErrorCode) -> None:
        """The client is gone, or has lost interest."""
        self._release()
        self._stop_timer()
        if self._task is not None:
            self._task.cancel()

    @property
    def connection(self) -> AnyFlow:
        """The connection that it came on."""
        return self._stream.connection

    @abstractmethod
    def lose(self) -> None:
        """Give back what is held of it, because too much is held of all."""

    def _stop_timer(self) -> None:
        # As soon as the call has ended, or refused ones would be kept for as long as their clients would have waited.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @abstractmethod
    def _release(self) -> None:
        """Forget what has come of a request that is not whole."""

    def _start(self, work: Any) -> None:
        self._stream.connection.running += 1
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._stream.connection.running -= 1
        self._task = None
        self._release()
        self._stop_timer()
        if task.cancelled():  # by what it waited for; after ``abort`` there is nobody to be told any more
            self._end("CANCELLED", "what the answer depended on was cancelled")

    def _expire(self) -> None:
        self._end("DEADLINE_EXCEEDED", "Deadline Exceeded")
        self.abort(ErrorCode.CANCEL)

    def _fail(self, error: Exception) -> None:
        told = error if isinstance(error, RpcError) else self._service.explain(error)
        self._end(told.status, told.detail, told.retry_after_s)

    def _end(self, status: str, detail: str, retry_after_s: float | None = None) -> None:
        stream = self._stream
        self._stop_timer()
        if self._has_headers:
            stream.finish(trailers(status, detail, is_only=False, retry_after_s=retry_after_s))
        else:
            stream.send_headers(trailers(status, detail, is_only=True, retry_after_s=retry_after_s), is_last=True)


class UnaryCall(_Call):
    """A call of one message and one answer."""

    __slots__ = ("_handler", "_has_begun", "_held", "_is_taken", "_whole_bytes", "on_abort")

    def __init__(self, service: Service, stream: Stream, head: RequestHead, handler: UnaryHandler) -> None:
        super().__init__(service, stream, head)
        self._handler = handler
        self._held = bytearray()  # not a list: pieces may be of one byte each
        self._whole_bytes: int | None = None
        self._has_begun = False
        self._is_taken = False  # by a quick handler that has not answered yet
        self.on_abort: Callable[[], None] | None = None

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the message."""
        if self._has_begun or self._stream.is_local_closed:
            return
        try:
            body = data if is_last and not self._held else self._hold(data)  # the usual message comes in one piece
            if is_last and not self._stream.is_local_closed:
                self._release()
                self._begin(body)
        except RpcError as exc:
            self._release()
            self._fail(exc)

    def _hold(self, data: bytes) -> bytearray:
        """Keep a piece; return all that is kept."""
        stream, held = self._stream, self._held
        held += data
        self._service.receive_budget.take(self, len(data))
        if stream.is_local_closed:  # it was lost by that
            return held
        if self._whole_bytes is None and len(held) >= PREFIX_BYTES:
            self._whole_bytes = PREFIX_BYTES + message_bytes(held, self._service.max_message_bytes)
        if len(held) > (self._whole_bytes or PREFIX_BYTES):
            raise RpcError("INTERNAL", "more than the one message of a unary call")
        if not stream.is_remote_closed:
            stream.credit()
        return held

    def lose(self) -> None:
        """See _Call."""
        self._release()
        self._fail(_too_much_held())

    def _release(self) -> None:
        self._service.receive_budget.give(self, len(self._held))
        self._held = bytearray()

    def _begin(self, body: bytes | bytearray) -> None:
        limit = self._service.max_message_bytes
        if len(body) < PREFIX_BYTES or len(body) != PREFIX_BYTES + message_bytes(body, limit):
            raise RpcError("INTERNAL", "the request is not the one message of a unary call")
        self._has_begun = True
        flag, payload = body[0], bytes(memoryview(body)[PREFIX_BYTES:])
        message = _unpack_small(flag, payload, self._head.encoding, limit)
        if message is None:
            self._start(self._run_large(flag, payload))
            return
        quick = self._service.quick.get(self._head.path)
        if quick is None or not self._offer(quick, message):
            self._start(self._run(message))

    def _offer(self, quick: QuickHandler, message: bytes) -> bool:
        """Let a quick handler take the call; return whether it has."""
        self._is_taken = True
        self._stream.connection.running += 1
        try:
            is_taken = quick(message, self._head.metadata, self)
        except Exception as exc:
            self.refuse(exc)
            return True
        if not is_taken:
            self._give_back()
        return is_taken

    def answer(self, message: bytes) -> None:
        """See Answerer."""
        if self._give_back():
            self._stop_timer()
            self._stream.respond(RESPONSE_HEADERS, pack_message(message), OK_TRAILERS)
            if self.connection.running == 0:  # no other answer could leave with it
                self.connection.flush()

    def refuse(self, error: Exception) -> None:
        """See Answerer."""
        if self._give_back():
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
            message = await _unpack_large(flag, payload, self._head.encoding, self._service.max_message_bytes)
        except RpcError as exc:
            self._fail(exc)
        else:
            await self._run(message)

    async def _run(self, message: bytes) -> None:
        try:
            answer = await self._handler(message, self._head.metadata)
        except Exception as exc:
            self._fail(exc)
        else:
            self._stream.respond(RESPONSE_HEADERS, pack_message(answer), OK_TRAILERS)


class StreamingCall(_Call):
    """A call of many messages both ways."""

    __slots__ = ("_buffer", "_has_ended", "_refusal", "_waiter")

    def __init__(self, service: Service, stream: Stream, head: RequestHead, handler: StreamHandler) -> None:
        super().__init__(service, stream, head)
        self._buffer = (
            bytearray()
        )  # messages are split off as they are read: as objects, small ones take ten times more
        self._refusal: RpcError | None = None
        self._has_ended = False
        self._waiter: asyncio.Future[None] | None = None
        stream.is_fed = False  # between messages its client may be silent for as long as it likes
        self._start(self._run(handler))

    async def _run(self, handler: StreamHandler) -> None:
        try:
            await handler(self._read(), self._send, self._head.metadata)
        except Exception as exc:
            self._fail(exc)
        else:
            self._end("OK", "")

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the stream of messages."""
        if self._task is None or self._refusal is not None:
            return
        self._buffer += data
        self._has_ended = self._has_ended or is_last
        self._service.receive_budget.take(self, len(data))
        if not self._is_readable():
            self._ask_for_more()
        elif self._waiter is not None:
            _release(self._waiter)

    def lose(self) -> None:
        """See _Call."""
        self._release()
        self._refusal = _too_much_held()
        if self._waiter is not None:
            _release(self._waiter)

    def _release(self) -> None:
        self._service.receive_budget.give(self, len(self._buffer))
        self._buffer = bytearray()

    def _is_readable(self) -> bool:
        """Whether a reader need not wait, be it for a message, a failure or the end."""
        if self._has_ended or self._refusal is not None:
            return True
        try:
            return self._next_bytes() is not None
        except RpcError:
            return True

    def _next_bytes(self) -> int | None:
        """Return the size of the next message with its prefix; None while it is not whole.

        Raises:
            RpcError: when it will be too large.
        """
        if len(self._buffer) < PREFIX_BYTES:
            return None
        size = PREFIX_BYTES + message_bytes(self._buffer, self._service.max_message_bytes)
        return size if size <= len(self._buffer) else None

    def _ask_for_more(self) -> None:
        self._stream.is_fed = bool(self._buffer)  # the rest of a message that is under way must come
        self._stream.credit()
        self._stream.progress_s = self._stream.connection.clock()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            if self._refusal is not None:
                raise self._refusal
            size = self._next_bytes()
            if size is not None:
                flag, payload = self._split_off(size)
                encoding, limit = self._head.encoding, self._service.max_message_bytes
                message = _unpack_small(flag, payload, encoding, limit)
                yield await _unpack_large(flag, payload, encoding, limit) if message is None else message
            elif self._has_ended:
                if self._buffer:
                    raise RpcError("INTERNAL", "the stream ends in the middle of a message")
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                self._waiter = None

    def _split_off(self, size: int) -> tuple[int, bytes]:
        buffer = self._buffer
        flag, payload = buffer[0], bytes(memoryview(buffer)[PREFIX_BYTES:size])
        del buffer[:size]
        self._service.receive_budget.give(self, size)
        if not self._is_readable():
            self._ask_for_more()
        return flag, payload

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


def _unpack_small(flag: int, payload: bytes, encoding: str, max_bytes: int) -> bytes | None:
    """Return a message, None when unpacking it takes longer than the event loop can spare.

    Raises:
        RpcError: as ``unpack_message``.
    """
    if flag and len(payload) >= _THREAD_FROM_BYTES:
        return None
    least_bytes = min(_THREAD_FROM_BYTES, max_bytes)
    try:
        return unpack_message(flag, payload, encoding, least_bytes)
    except RpcError as exc:
        if exc.status != "RESOURCE_EXHAUSTED" or least_bytes == max_bytes:
            raise
        return None  # it grows


async def _unpack_large(flag: int, payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a message, unpacked beside the event loop; raises as ``unpack_message``."""
    return await asyncio.to_thread(unpack_message, flag, payload, encoding, max_bytes)


def _release(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
