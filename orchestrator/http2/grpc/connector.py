"""The one connection to a server that all of a process's channels to it share, made when it is needed.

A server that can't be reached is tried again after a pause; calls meanwhile fail at once, as with gRPC's own channels.
No keepalive pings are sent, which Triton would take for an attack; a peer that is gone without a word is noticed by
TCP. A connection that is going away lets what is under way on it end, while new calls go over the next one.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import Any, Final
from weakref import WeakValueDictionary

from orchestrator.http2.connection import Connection
from orchestrator.http2.grpc.wire import ResponseHead, RpcError, read_response_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.limits import Limits
from orchestrator.http2.protocol import Http2Protocol

_MIB = 2**20
_LIMITS: Final = Limits(stream_window_bytes=_MIB, connection_window_bytes=64 * _MIB)
"""The window of a stream is also what one holds that its reader does not take."""
_CONNECT_S: Final = 0.5
"""Where the accept queue is full the kernel drops SYNs and waits 1, 2, 4, … s before it sends the next; a new attempt
is quicker than the old one's next SYN."""
_FIRST_PAUSE_S: Final = 0.1
_LONGEST_PAUSE_S: Final = 0.5  # so that a server that comes back is found within a second
_UNACKNOWLEDGED_MS: Final = 20_000


class Connector:
    """Connects to one server at ``host:port``, and again; to be used from one event loop.

    Attributes:
        is_closed: whether its last user has gone.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self.is_closed = False
        self._users = 0
        self._protocol: Http2Protocol | None = None
        self._connecting: asyncio.Task[Connection[ResponseHead]] | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._not_before_s = 0.0
        self._problem = ""
        self._protocols: set[Http2Protocol] = set()  # with those that are going away
        self._all_lost = asyncio.Event()

    def retain(self) -> None:
        """Count one more user, who will ``release`` it."""
        self._users += 1

    async def release(self) -> None:
        """Count one user less; the last one's end closes the connection."""
        self._users -= 1
        if self._users:
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
        """Return a connection that may take another stream, made anew where there is none.

        Raises:
            RpcError: UNAVAILABLE, when there is no server or it takes no more streams.
        """
        connection = self._standing() or await self._make()
        if connection.open_streams >= connection.peer_max_streams:
            raise RpcError("UNAVAILABLE", f"failed to connect: {self.address} takes no more calls at a time")
        return connection

    def _standing(self) -> Connection[ResponseHead] | None:
        connection = None if self._protocol is None else self._protocol.connection
        return connection if connection is not None and connection.is_usable else None

    async def _make(self) -> Connection[ResponseHead]:
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


class ConnectionPool:
    """The connections of one process, each shared by all who ask for its address."""

    def __init__(self) -> None:
        self._connectors: WeakValueDictionary[str, Connector] = WeakValueDictionary()

    def connector(self, address: str) -> Connector:
        """Return what connects to ``host:port``, retained for the caller."""
        connector = self._connectors.get(address)
        if connector is None or connector.is_closed:
            connector = self._connectors[address] = Connector(address)
        connector.retain()
        return connector


def _make_connection(wake: Callable[[], None]) -> Connection[ResponseHead]:
    decoder = HeaderDecoder(read_response_head, max_list_bytes=_LIMITS.header_list_bytes)
    return Connection(decoder, None, _LIMITS, clock=time.monotonic, wake=wake)


def _watch(found: socket.socket) -> None:
    """Let TCP end the connection when what was sent is not acknowledged, where it can."""
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if option is not None and found.family in (socket.AF_INET, socket.AF_INET6):
        found.setsockopt(socket.IPPROTO_TCP, option, _UNACKNOWLEDGED_MS)
