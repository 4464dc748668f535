"""gRPC calls to one server, unary and streaming, over the one connection to it that a process's channels share.

gRPC's asyncio client spends 150 to 350 µs of CPU on a call, and hands every event from a thread of its own to the loop,
which a caller waits for; this spends a tenth of it, in the loop. A call that a caller no longer waits for goes on and
its answer is dropped (see ``client_call``). What the server certainly has not begun (it refused the stream, or is going
away) is sent once more on a new connection.

A server that can't be reached, or ends each connection before it has said anything, is tried again after a pause; calls
meanwhile fail at once, as with gRPC's own channels.
No keepalive pings are sent, which Triton would take for an attack; a peer that is gone without a word is noticed by
TCP, or by who waits for its answers (``set_aside``). A connection that is going away lets what is under way on it end,
while new calls go over the next one.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar
from weakref import WeakValueDictionary

from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Buffer, Limits
from orchestrator.http2.grpc.client_call import ClientCall, ClientStream, Explain, RefusedStreamError, UnaryExchange
from orchestrator.http2.grpc.wire import (
    Metadata,
    ResponseHead,
    RpcError,
    message_parts,
    read_response_head,
    request_headers,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.protocol import Http2Protocol
from orchestrator.http2.stream import Stream

log = logging.getLogger(__name__)

T = TypeVar("T")

_MIB = 2**20
_LIMITS: Final = Limits(stream_window_bytes=_MIB, connection_window_bytes=64 * _MIB)
"""The window of a stream is also what one holds that its reader does not take."""
_CONNECT_S: Final = 0.5
"""Where the accept queue is full the kernel drops SYNs and waits 1, 2, 4, … s before it sends the next; a new attempt
is quicker than the old one's next SYN."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 0.5  # so that a server that comes back is found within a second
_ENDED: Final = "the server ended the connection at once"
_CLOSED: Final = "failed to connect: the connection is closed"
_UNACKNOWLEDGED_MS: Final = 20_000
_MOST_ASIDE: Final = 2
"""Of a server that stands still; its kernel takes connections all the same."""
_MOST_BLOCKS: Final = 256


Dial = Callable[[str, int], Awaitable[socket.socket]]
"""Returns a connected socket that does not block, for a host and a port; raises OSError."""


class Connector:
    """Connects to one server at ``host:port``, and again; to be used from one event loop.

    A connection is plain unless there is a ``tls`` context; what ``dial`` makes always is.

    Attributes:
        users: How many will ``release`` it.
        is_closed: Whether the last of them has gone.
    """

    def __init__(self, address: str, dial: Dial | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.address = address
        self._dial = dial
        self._tls = tls
        self.is_closed = False
        self.users = 0
        self._protocol: Http2Protocol | None = None
        self._connecting: asyncio.Task[Connection[ResponseHead]] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before_s = 0.0
        self._problem = ""
        self._protocols: set[Http2Protocol] = set()  # with those that are going away
        self._all_lost = asyncio.Event()

    async def release(self) -> None:
        """Count one user less; the last one's end closes the connection."""
        self.users -= 1
        if self.users:
            return
        self.is_closed = True
        if self._connecting is not None:
            self._connecting.cancel()
        for protocol in self._protocols:
            protocol.abort()
        if self._protocols:
            await self._all_lost.wait()

    def current(self) -> Connection[ResponseHead] | None:
        """Return the connection when it stands and may take another stream, else None."""
        connection = None if self._protocol is None else self._protocol.connection
        if connection is None or not connection.is_usable or connection.open_streams >= connection.peer_max_streams:
            return None
        return connection

    async def connect(self) -> Connection[ResponseHead]:
        """Return a connection that takes another stream, made anew where there is none; raises RpcError UNAVAILABLE."""
        connection = None if self._protocol is None else self._protocol.connection
        if connection is None or not connection.is_usable:
            connection = await self._make()
            if not connection.is_usable:  # it was lost before who waited for it went on, and would answer nothing
                raise RpcError("UNAVAILABLE", f"failed to connect: {_ENDED}")
        if connection.open_streams >= connection.peer_max_streams:
            raise RpcError("UNAVAILABLE", "failed to connect: the server takes no more calls at a time")
        return connection

    def set_aside(self) -> None:
        """Make a new connection for the next call, unless some that were set aside have still not ended."""
        if self._protocol is not None and len(self._protocols) <= _MOST_ASIDE:
            self._protocol.close_when_idle()
            self._protocol = None

    async def _make(self) -> Connection[ResponseHead]:
        if self.is_closed:  # nobody would close another one
            raise RpcError("UNAVAILABLE", _CLOSED)
        if self._connecting is None:
            if time.monotonic() < self._not_before_s:
                raise RpcError("UNAVAILABLE", self._problem)
            self._connecting = asyncio.ensure_future(self._open())
            self._connecting.add_done_callback(self._note_connected)
        try:
            return await asyncio.shield(self._connecting)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self.is_closed or (task is not None and task.cancelling()):
                raise
            raise RpcError("UNAVAILABLE", _CLOSED) from None

    def _note_connected(self, task: asyncio.Task[Any]) -> None:
        self._connecting = None
        if not task.cancelled():
            task.exception()  # seen, for asyncio, also when whoever waited for it has given up

    def _pause(self, reason: str) -> None:
        self._problem = f"failed to connect: {reason}"
        self._not_before_s = time.monotonic() + self._pause_s
        self._pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s)

    async def _open(self) -> Connection[ResponseHead]:
        host, _, port = self.address.rpartition(":")
        if self._protocol is not None:  # going away; what is under way on it may end
            self._protocol.close_when_idle()
            self._protocol = None  # or each attempt in vain would have it looked at once more
        try:
            async with asyncio.timeout(_CONNECT_S):
                transport, protocol = await self._connect(host.strip("[]"), int(port))
        except (OSError, TimeoutError) as exc:
            self._pause(_reason_of(exc))
            raise RpcError("UNAVAILABLE", self._problem) from exc
        _watch(transport.get_extra_info("socket"))
        assert protocol.connection is not None
        connection: Connection[ResponseHead] = protocol.connection
        if connection.is_usable:
            self._protocol = protocol
        else:
            self._pause(_ENDED)
        return connection

    async def _connect(self, host: str, port: int) -> tuple[asyncio.Transport, Http2Protocol]:
        loop = asyncio.get_running_loop()
        made: list[Http2Protocol] = []

        def make() -> Http2Protocol:
            made.append(Http2Protocol(_make_connection, self._note_made, self._note_lost))
            return made[-1]

        try:
            if self._dial is None:
                return await loop.create_connection(make, host, port, ssl=self._tls)
            return await loop.create_connection(make, sock=await self._dial(host, port))
        except BaseException:
            for protocol in made:  # where the time ends as it connects, uvloop closes it and does not tell it
                self._note_lost(protocol)
            raise

    def _note_made(self, protocol: Http2Protocol) -> bool:
        self._protocols.add(protocol)
        self._all_lost.clear()
        return True

    def _note_lost(self, protocol: Http2Protocol) -> None:
        self._protocols.discard(protocol)
        if protocol is self._protocol:
            self._protocol = None
            if protocol.connection is not None and protocol.connection.has_begun:
                self._pause_s = _FIRST_PAUSE_S
            else:
                self._pause(_ENDED)
        if not self._protocols:
            self._all_lost.set()


class ConnectionPool:
    """The connections of one process, each shared by all who ask for its address."""

    def __init__(self) -> None:
        self._connectors: WeakValueDictionary[str, Connector] = WeakValueDictionary()

    def connector(self, address: str, dial: Dial | None = None, tls: ssl.SSLContext | None = None) -> Connector:
        """Return what connects to ``host:port``; the caller has to ``release`` it."""
        connector = self._connectors.get(address)
        if connector is None or connector.is_closed:
            connector = self._connectors[address] = Connector(address, dial, tls)
        connector.users += 1
        return connector


class GrpcChannel:
    """Calls one server at ``host:port``; to be used from one event loop.

    Channels to the same address share the connection of their pool; without one, a channel has its own, which
    ``dial`` may make. ``tls`` is how to talk TLS, with ALPN ``h2``; None: plain.
    """

    def __init__(
        self,
        address: str,
        pool: ConnectionPool | None = None,
        *,
        dial: Dial | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.address = address
        self._connector = (pool or ConnectionPool()).connector(address, dial, tls)
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._under_way: set[ClientCall] = set()
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        """Calls and streams of this channel under way, those that nobody waits for included."""
        return len(self._under_way)

    async def call(self, path: str, message: Buffer, metadata: Metadata = (), *, rest: Sequence[Buffer] = ()) -> bytes:
        """Return the answer to one serialised message, sent to ``/service/method``.

        Metadata is kept when it is a tuple, so equal ones should be equal tuples. A message may come in parts, of which
        ``rest`` are all but the first; they must not change before the call has ended.

        Raises:
            RpcError: with the server's status, UNAVAILABLE when there is no server, or RESOURCE_EXHAUSTED when there is
                more metadata than servers take.
        """
        block = self._block(path, metadata)
        for _ in range(2):
            connection = self._connector.current() or await self._connector.connect()
            exchange = UnaryExchange(self._under_way, _as_it_is, _as_it_is)
            exchange.stream = _open(connection, exchange, block, message_parts(message, *rest))
            try:
                found: bytes = await exchange.answer
            except RefusedStreamError:
                continue
            else:
                return found
        raise RpcError("UNAVAILABLE", "failed to connect: the server refuses calls")

    def begin(
        self,
        path: str,
        message: Buffer,
        metadata: Metadata,
        *,
        rest: Sequence[Buffer] = (),
        read: Callable[[bytes], T],
        explain: Explain,
    ) -> asyncio.Future[T] | None:
        """Begin a call at once and return what ``read`` makes of its answer; None when there is no connection yet.

        A call that the server refuses fails, with what ``explain`` makes of it, where ``call`` would ask a second time.
        """
        connection = self._connector.current()
        if connection is None:
            return None
        exchange = UnaryExchange(self._under_way, read, explain)
        exchange.stream = _open(connection, exchange, self._block(path, metadata), message_parts(message, *rest))
        if connection.open_streams == 1:  # the server has nothing to do
            connection.flush()
        return exchange.answer

    def open_stream(self, path: str, metadata: Metadata = (), *, explain: Explain) -> ClientStream:
        """Return a stream of messages both ways, opened with the first that is sent.

        ``explain`` makes the exception that stands for a failure.
        """
        return ClientStream(self._under_way, self._connector.connect, partial(self._block, path, metadata), explain)

    def set_aside(self) -> None:
        """Make the next call over a new connection, as the present one may be dead without a word.

        Where packets were lost for a while, TCP waits for as long again before it sends the next; a new connection
        does not. What is under way may end.
        """
        self._connector.set_aside()

    async def close(self, *, drain_s: float) -> None:
        """Let go of the connection, after waiting so long for calls under way; who waits for none is told of none."""
        until_s = time.monotonic() + drain_s
        while self._under_way and time.monotonic() < until_s:
            waits = [call.ended() for call in self._under_way]
            await asyncio.wait(waits, timeout=until_s - time.monotonic())
        if self._under_way and drain_s > 0:
            log.warning("leaving %d calls that %s has not answered", len(self._under_way), self.address)
        if not self._is_closed:
            self._is_closed = True
            await self._connector.release()

    def _block(self, path: str, metadata: Metadata) -> bytes:
        key = (path, tuple(metadata))
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            block = self._blocks[key] = request_headers(path, self.address, metadata)
        return block


def _make_connection(wake: Callable[[], None]) -> Connection[ResponseHead]:
    decoder = HeaderDecoder(read_response_head, max_list_bytes=_LIMITS.header_list_bytes)
    return Connection(decoder, None, _LIMITS, clock=time.monotonic, wake=wake)


def _open(
    connection: Connection[ResponseHead], exchange: UnaryExchange, block: bytes, parts: Sequence[Buffer]
) -> Stream:
    """Return the stream of a call, with all that is sent on it."""
    if len(parts) == 1:
        return connection.open(exchange, block, parts[0])
    stream = connection.open(exchange, block)
    for part in parts:
        stream.send_data(part)
    stream.finish()
    return stream


def _reason_of(error: OSError) -> str:
    """Return why there is no connection, without the address that asyncio puts in its words: clients may read it."""
    if isinstance(error, socket.gaierror):
        return error.strerror or "the host has no address"
    if isinstance(error, ssl.SSLError):  # its number is none of the system's
        what = (error.reason or "no handshake").replace("_", " ").lower()
        if isinstance(error, ssl.SSLCertVerificationError):
            what += f" ({error.verify_message.partition(',')[0]})"
        return f"TLS failed: {what}"
    return os.strerror(error.errno) if error.errno else "no answer"


def _watch(found: socket.socket) -> None:
    """Let TCP end the connection when what was sent is not acknowledged, where it can."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_MS)


def _as_it_is(found: T) -> T:
    return found
