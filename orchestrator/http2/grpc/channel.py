"""Unary gRPC calls to one server, over one connection that is made when it is needed.

gRPC's asyncio client spends 150 to 350 µs of CPU on a call, and hands every event from a thread of its own to the loop,
which a caller waits for; this spends a tenth of it, in the loop.

A call that a caller no longer waits for goes on and its answer is dropped: nothing is ever cancelled at the server,
because Triton 2.51 can crash on it (server#7368). What the server certainly has not begun (it refused the stream, or
is going away) is sent once more on a new connection. A server that can't be reached is tried again after a pause; calls
meanwhile fail at once, as with gRPC's own channels. No keepalive pings are sent, which Triton would take for an attack;
a peer that is gone without a word is noticed by TCP.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from orchestrator.http2.connection import Connection
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.wire import (
    PREFIX_BYTES,
    Metadata,
    ResponseHead,
    RpcError,
    pack_message,
    read_response_head,
    request_headers,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.limits import Limits
from orchestrator.http2.protocol import Http2Protocol
from orchestrator.http2.stream import Stream

log = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 2**20
_LIMITS: Final = Limits(stream_window_bytes=4 * _MIB, connection_window_bytes=64 * _MIB)
_CONNECT_S: Final = 0.5
"""Where the accept queue is full the kernel drops SYNs and waits 1, 2, 4, … s before it sends the next; a new attempt
is quicker than the old one's next SYN."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 0.5  # so that a server that comes back is found within a second
_UNACKNOWLEDGED_MS: Final = 20_000
_MOST_BLOCKS: Final = 256


class _RefusedError(RpcError):
    """The server has certainly not begun a call."""

    def __init__(self) -> None:
        super().__init__("UNAVAILABLE", "failed to connect: the server refuses calls")


class GrpcChannel:
    """Calls one server; to be used from one event loop.

    Args:
        address: ``host:port``.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._protocol: Http2Protocol | None = None
        self._connecting: asyncio.Task[Connection[ResponseHead]] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before_s = 0.0
        self._problem = ""
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._under_way: set[_Exchange] = set()
        self._protocols: set[Http2Protocol] = set()  # with those that are going away
        self._all_lost = asyncio.Event()

    @property
    def in_flight(self) -> int:
        """Calls under way, those that nobody waits for included."""
        return len(self._under_way)

    async def call(self, path: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the answer to one message.

        Args:
            path: ``/service/method``.
            message: serialised.
            metadata: to send along; a tuple is kept, so equal ones should be equal tuples.

        Raises:
            RpcError: with the server's status, or UNAVAILABLE when there is no server.
        """
        block = self._block(path, metadata)
        for _ in range(2):
            connection = self._current() or await self._connect()
            if connection.open_streams >= connection.peer_max_streams:
                raise RpcError("UNAVAILABLE", f"failed to connect: {self.address} takes no more calls at a time")
            exchange = _Exchange(self._under_way, _as_it_is, _as_it_is)
            exchange.stream = connection.open(exchange, block, pack_message(message))
            try:
                found: bytes = await exchange.answer
            except _RefusedError:
                continue
            else:
                return found
        raise RpcError("UNAVAILABLE", f"failed to connect to {self.address}: it refuses calls")

    def begin(
        self,
        path: str,
        message: bytes,
        metadata: Metadata,
        *,
        read: Callable[[bytes], T],
        explain: Callable[[RpcError], Exception],
    ) -> asyncio.Future[T] | None:
        """Begin a call at once and return what its answer is read to; None when the connection does not stand yet.

        A call that the server refuses fails, where ``call`` would ask a second time.

        Args:
            path: as for ``call``.
            message: likewise.
            metadata: likewise.
            read: what an answer holds.
            explain: the exception that stands for a failure.
        """
        connection = self._current()
        if connection is None or connection.open_streams >= connection.peer_max_streams:
            return None
        exchange = _Exchange(self._under_way, read, explain)
        exchange.stream = connection.open(exchange, self._block(path, metadata), pack_message(message))
        if len(self._under_way) == 1:  # the server has nothing to do
            connection.flush()
        return exchange.answer

    async def close(self, *, drain_s: float) -> None:
        """Close the connection, after waiting so long for calls under way."""
        until_s = time.monotonic() + drain_s
        while self._under_way and time.monotonic() < until_s:
            waits = [exchange.ended() for exchange in self._under_way]
            await asyncio.wait(waits, timeout=until_s - time.monotonic())
        if self._under_way:
            log.warning("leaving %d calls that %s has not answered", len(self._under_way), self.address)
        if self._connecting is not None:
            self._connecting.cancel()
        for protocol in self._protocols:
            protocol.abort()
        if self._protocols:
            await self._all_lost.wait()

    def _block(self, path: str, metadata: Metadata) -> bytes:
        key = (path, tuple(metadata))
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            block = self._blocks[key] = request_headers(path, self.address, metadata)
        return block

    def _current(self) -> Connection[ResponseHead] | None:
        connection = None if self._protocol is None else self._protocol.connection
        return connection if connection is not None and connection.is_usable else None

    async def _connect(self) -> Connection[ResponseHead]:
        if self._connecting is None:
            if time.monotonic() < self._not_before_s:
                raise RpcError("UNAVAILABLE", self._problem)
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(self._note_connected)
        return await asyncio.shield(self._connecting)

    def _note_connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting = None
        if not task.cancelled() and task.exception() is None:
            self._pause_s = _FIRST_PAUSE_S

    async def _open(self) -> Connection[ResponseHead]:
        loop = asyncio.get_running_loop()
        host, _, port = self.address.rpartition(":")
        if self._protocol is not None:  # going away; what is under way on it may end
            self._protocol.close_when_idle()
        try:
            async with asyncio.timeout(_CONNECT_S):
                transport, protocol = await loop.create_connection(self._make_protocol, host.strip("[]"), int(port))
        except (OSError, TimeoutError) as exc:
            self._problem = f"failed to connect to {self.address}: {exc or 'no answer in time'}"
            self._not_before_s = time.monotonic() + self._pause_s
            self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)
            raise RpcError("UNAVAILABLE", self._problem) from exc
        _watch(transport.get_extra_info("socket"))
        self._protocol = protocol
        assert protocol.connection is not None
        connection: Connection[ResponseHead] = protocol.connection
        return connection

    def _make_protocol(self) -> Http2Protocol:
        return Http2Protocol(_make_connection, on_made=self._note_made, on_lost=self._note_lost)

    def _note_made(self, protocol: Http2Protocol) -> bool:
        self._protocols.add(protocol)
        self._all_lost.clear()
        return True

    def _note_lost(self, protocol: Http2Protocol) -> None:
        self._protocols.discard(protocol)
        if protocol is self._protocol:
            self._protocol = None
        if not self._protocols:
            self._all_lost.set()


def _as_it_is(found: T) -> T:
    return found


def _make_connection(wake: Callable[[], None]) -> Connection[ResponseHead]:
    decoder = HeaderDecoder(read_response_head, max_list_bytes=_LIMITS.header_list_bytes)
    return Connection(decoder, None, _LIMITS, clock=time.monotonic, wake=wake)


def _watch(found: socket.socket) -> None:
    """Let TCP end the connection when what was sent is not acknowledged, where it can."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_MS)


class _Exchange:
    """The receiver of one answer; it outlives a caller that gives up."""

    __slots__ = ("_ended", "_explain", "_parts", "_read", "_under_way", "answer", "head", "stream")

    def __init__(
        self, under_way: set[_Exchange], read: Callable[[bytes], Any], explain: Callable[[RpcError], Exception]
    ) -> None:
        self.answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._read = read
        self._explain = explain
        self.head = ResponseHead()
        self.stream: Stream | None = None
        self._parts: list[bytes] = []
        self._under_way = under_way
        self._ended: asyncio.Future[None] | None = None
        under_way.add(self)

    def ended(self) -> asyncio.Future[None]:
        """Return what is resolved when nothing more comes."""
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    def receive_headers(self, meaning: ResponseHead, is_last: bool) -> None:
        """Take the head of the answer, or its end."""
        if not is_last:
            self.head = meaning
            return
        status, detail = meaning.status, meaning.detail
        if status is None:
            http = meaning.http_status or self.head.http_status
            status = "UNAVAILABLE" if http in (429, 502, 503, 504) else "UNKNOWN"
            detail = f"the answer has no gRPC status; HTTP {http}"
        if status == "OK":
            self._succeed()
        else:
            self._fail(RpcError(status, detail))

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the answer."""
        self._parts.append(data)
        if self.stream is not None:
            self.stream.credit()
        if is_last:
            self._fail(RpcError("INTERNAL", "the answer ends without a status"))

    def abort(self, code: ErrorCode) -> None:
        """The server, or the connection, has ended the call."""
        if code is ErrorCode.REFUSED_STREAM:
            self._fail(_RefusedError())
        elif self.stream is not None and self.stream.connection.is_over:
            self._fail(RpcError("UNAVAILABLE", "Connection reset: it was lost before the answer came"))
        else:
            status = "CANCELLED" if code is ErrorCode.CANCEL else "INTERNAL"
            self._fail(RpcError(status, f"RST_STREAM with code {code.name}"))

    def _succeed(self) -> None:
        body = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        if (
            len(body) < PREFIX_BYTES
            or body[0]
            or int.from_bytes(body[1:PREFIX_BYTES], "big") != len(body) - PREFIX_BYTES
        ):
            self._fail(RpcError("INTERNAL", "the answer is not the one message of a unary call"))
            return
        self._end()
        if self.answer.done():
            return
        try:
            found = self._read(body[PREFIX_BYTES:])
        except Exception as exc:
            self.answer.set_exception(exc)
        else:
            self.answer.set_result(found)

    def _fail(self, error: RpcError) -> None:
        self._end()
        if not self.answer.done():
            self.answer.set_exception(self._explain(error))

    def _end(self) -> None:
        self._under_way.discard(self)
        self._parts = []
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(None)
