"""A listening socket whose connections speak HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Callable
from typing import Any, Final

from orchestrator.http2.connection import Connection
from orchestrator.http2.eviction import choose_evicted
from orchestrator.http2.limits import Limits
from orchestrator.http2.protocol import Http2Protocol

_CHECK_S: Final = 1.0
_BACKLOG: Final = 1024


class Listener:
    """Accepts connections, or adopts those that another process has accepted, until it is stopped.

    Args:
        make: returns the logic of a new connection, given what to call when it has something to say.
        limits: what one connection may take.
        max_connections: connections at a time; one beyond takes the place of one that is idle, or is closed at once.
    """

    def __init__(
        self, make: Callable[[Callable[[], None]], Connection[Any]], limits: Limits, *, max_connections: int = 4096
    ) -> None:
        self._make = make
        self._limits = limits
        self._max_connections = max_connections
        self._protocols: dict[Http2Protocol, None] = {}  # in the order they came
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._protocols)

    def open(self) -> None:
        """Begin to look after connections, without listening: they are adopted."""
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    async def adopt(self, connection: socket.socket, *, ssl: tls.SSLContext | None = None) -> None:
        """Serve a connection that another process has accepted; it belongs to this one from now on.

        Raises:
            OSError: when it is lost at once.
        """
        await asyncio.get_running_loop().connect_accepted_socket(self._new_protocol, sock=connection, **self._tls(ssl))

    async def start(self, host: str, port: int, *, ssl: tls.SSLContext | None = None) -> int:
        """Listen, and return the port; raises OSError when it can't."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._new_protocol,
            host,
            port,
            backlog=_BACKLOG,
            **self._tls(ssl),
        )
        self.open()
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    def _tls(self, ssl: tls.SSLContext | None) -> dict[str, Any]:
        return {} if ssl is None else {"ssl": ssl, "ssl_handshake_timeout": self._limits.handshake_s}

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let calls under way end for so long, and close everything."""
        if self._timer is None:
            return
        if self._server is not None:
            self._server.close()
        for protocol in list(self._protocols):
            protocol.drain()
        self._close_idle()
        try:
            async with asyncio.timeout(grace_s):
                while self._protocols:
                    self._empty.clear()
                    await asyncio.wait({asyncio.ensure_future(self._empty.wait())}, timeout=0.02)
                    self._close_idle()
        except TimeoutError:
            pass
        for protocol in list(self._protocols):
            protocol.abort()
        self._timer.cancel()

    def _close_idle(self) -> None:
        for protocol in list(self._protocols):
            if protocol.connection is None or protocol.connection.is_idle:
                protocol.close()

    def _new_protocol(self) -> Http2Protocol:
        return Http2Protocol(self._make, on_made=self._add, on_lost=self._remove)

    def _add(self, protocol: Http2Protocol) -> bool:
        if len(self._protocols) >= self._max_connections and not self._make_room():
            return False
        self._protocols[protocol] = None
        return True

    def _make_room(self) -> bool:
        """Close an idle connection; False when none is idle."""
        idle = [p for p in self._protocols if p.connection is None or p.connection.is_idle]
        index = choose_evicted([protocol.waiting for protocol in idle])
        if index is None:
            return False
        evicted = idle[index]
        del self._protocols[evicted]
        evicted.abort()
        return True

    def _remove(self, protocol: Http2Protocol) -> None:
        self._protocols.pop(protocol, None)
        if not self._protocols:
            self._empty.set()

    def _check(self) -> None:
        for protocol in list(self._protocols):
            protocol.check(self._limits.stall_s)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)
