"""Calls as a client makes them: they outlive a caller who gives up, because nothing is cancelled at the server.

Triton 2.51 can crash of a cancel (server#7368). So an answer that nobody waits for is dropped when it comes, and a
stream that nobody reads is finished on our side and read to its end.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from orchestrator.http2.connection import Connection
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.wire import (
    PREFIX_BYTES,
    ResponseHead,
    RpcError,
    collect,
    message_parts,
    next_message_bytes,
    split_message,
    strip_prefix,
    unpack_message,
)
from orchestrator.http2.stream import Stream

Explain = Callable[[RpcError], Exception]
"""Returns the exception that stands for a failure."""
_ANY_BYTES: Final = 2**32
"""No limit of a message: its length has 32 bits."""


class RefusedStreamError(RpcError):
    """The server has certainly not begun a call."""

    def __init__(self) -> None:
        super().__init__("UNAVAILABLE", "failed to connect: the server refuses calls")


class ClientCall(ABC):
    """What unary calls and streams share: their end. Their ``stream`` is None before it was opened."""

    __slots__ = ("_ended", "_explain", "_head", "_under_way", "stream")

    def __init__(self, under_way: set[ClientCall], explain: Explain) -> None:
        self.stream: Stream | None = None
        self._explain = explain
        self._head = ResponseHead()
        self._ended: asyncio.Future[None] | None = None
        self._under_way = under_way
        under_way.add(self)

    def ended(self) -> asyncio.Future[None]:
        """Return what is resolved when nothing more comes."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def receive_headers(self, meaning: ResponseHead, is_last: bool) -> None:
        """Take the head of the answer, or its end."""
        if not is_last:
            self._head = meaning
            return
        status, detail = meaning.status, meaning.detail
        if status is None:
            http = meaning.http_status or self._head.http_status
            status = "UNAVAILABLE" if http in (429, 502, 503, 504) else "UNKNOWN"
            detail = f"the answer has no gRPC status; HTTP {http}"
        self._end(None if status == "OK" else RpcError(status, detail))

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the answer."""
        self._take(data)
        if is_last:
            self._end(RpcError("INTERNAL", "the answer ends without a status"))

    def abort(self, code: ErrorCode) -> None:
        """End: the server has ended the call, or the connection is lost."""
        if code is ErrorCode.REFUSED_STREAM:
            self._end(RefusedStreamError())
        elif self.stream is not None and self.stream.connection.is_over:
            self._end(RpcError("UNAVAILABLE", "Connection reset: it was lost before the answer came"))
        else:
            status = "CANCELLED" if code is ErrorCode.CANCEL else "INTERNAL"
            self._end(RpcError(status, f"RST_STREAM with code {code.name}"))

    def _end(self, error: RpcError | None) -> None:
        self._under_way.discard(self)
        if self.stream is not None and not self.stream.is_local_closed:
            self.stream.stop_sending()
        self._settle(error)
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    @abstractmethod
    def _take(self, data: bytes) -> None:
        """Take a piece of the body."""

    @abstractmethod
    def _settle(self, error: RpcError | None) -> None:
        """Let whoever waits know how the call has ended; None: well."""


class UnaryExchange(ClientCall):
    """A call of one message and one ``answer``, which is what ``read`` makes of it, or why there is none."""

    __slots__ = ("_body", "_read", "answer")

    def __init__(self, under_way: set[ClientCall], read: Callable[[bytes], Any], explain: Explain) -> None:
        super().__init__(under_way, explain)
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._read = read
        self._body: bytes | bytearray = b""

    def _take(self, data: bytes) -> None:
        self._body = collect(self._body, data)
        if self.stream is not None:
            self.stream.credit()

    def _settle(self, error: RpcError | None) -> None:
        body, self._body = self._body, b""
        if self.stream is not None:
            self.stream.receiver = None  # or the two, and the answer, would be left to the collector
        if self.answer.done():
            return
        if error is None:
            size = len(body) - PREFIX_BYTES
            if size < 0 or body[0] or int.from_bytes(body[1:PREFIX_BYTES], "big") != size:
                error = RpcError("INTERNAL", "the answer is not the one message of a unary call")
        if error is not None:
            self.answer.set_exception(self._explain(error))
            return
        try:
            found = self._read(strip_prefix(body))
        except Exception as exc:
            self.answer.set_exception(exc)
        else:
            self.answer.set_result(found)


class ClientStream(ClientCall):
    """A stream of messages both ways, opened with the first that is sent; the caller must ``abandon`` it in the end.

    Nobody's cancellation reaches the server: a message that ``send`` has begun to send is sent whole.
    """

    def __init__(
        self,
        under_way: set[ClientCall],
        connect: Callable[[], Awaitable[Connection[ResponseHead]]],
        block: Callable[[], bytes],
        explain: Explain,
    ) -> None:
        super().__init__(under_way, explain)
        self._connect = connect
        self._block = block
        self._buffer = bytearray()
        self._error: RpcError | None = None
        self._has_ended = False
        self._is_abandoned = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()

    async def send(self, message: bytes) -> None:
        """Send one message; waits while the server takes no more. One at a time.

        Raises:
            Exception: what ``explain`` makes of the stream's end.
        """
        if self.stream is None and not self._has_ended:
            try:
                block = self._block()
                connection = await self._connect()
            except RpcError as exc:
                self._end(exc)
            else:
                if not self._has_ended:
                    self.stream = connection.open(self, block)
        stream = self.stream
        if self._has_ended or stream is None or stream.is_local_closed or stream.trailers is not None:
            raise self._explain(self._error or RpcError("UNAVAILABLE", "the stream has ended"))
        for part in message_parts(message):
            stream.send_data(part)
        while stream.is_congested and not stream.is_local_closed:
            self._writable.clear()
            stream.on_writable = self._writable.set
            await self._writable.wait()

    async def finish(self) -> None:
        """Say that no more messages come; answers go on until the server has given all."""
        if self.stream is not None:
            self.stream.finish()
        elif not self._has_ended:
            self._end(None)

    async def answers(self) -> AsyncIterator[bytes]:
        """Yield the server's messages until it ends the stream.

        Raises:
            Exception: what ``explain`` makes of a status other than OK.
        """
        while True:
            size = next_message_bytes(self._buffer, _ANY_BYTES)
            if size is not None:
                flag, payload, self._buffer = split_message(self._buffer, size)
                self._ask_for_more()
                try:
                    message = unpack_message(flag, payload, "identity", _ANY_BYTES)
                except RpcError as exc:
                    raise self._explain(exc) from exc
                yield message
            elif self._has_ended:
                if self._error is None and self._buffer:
                    self._error = RpcError("INTERNAL", "the stream ends in the middle of a message")
                if self._error is not None:
                    raise self._explain(self._error)
                return
            else:
                self._readable.clear()
                await self._readable.wait()

    def abandon(self) -> None:
        """Let the stream end by itself, what still comes being dropped; does nothing when it has ended."""
        self._is_abandoned = True
        self._buffer.clear()
        if self.stream is not None:
            self.stream.finish()
            self._ask_for_more()
        elif not self._has_ended:
            self._end(None)

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call back once nothing more comes; at once when that is so."""
        if self._has_ended:
            call()
        else:
            self.ended().add_done_callback(lambda _: call())

    def _ask_for_more(self) -> None:
        """Let the server send more on this stream, unless there is a message that its reader has not taken."""
        stream = self.stream
        if stream is not None and next_message_bytes(self._buffer, _ANY_BYTES) is None:
            stream.credit()

    def _take(self, data: bytes) -> None:
        if not self._is_abandoned:
            self._buffer += data
        if self.stream is not None:
            self.stream.credit_connection()  # a reader that takes nothing holds up its own stream alone
            self._ask_for_more()
        self._readable.set()

    def _settle(self, error: RpcError | None) -> None:
        self._has_ended, self._error = True, error
        self._readable.set()
        self._writable.set()
