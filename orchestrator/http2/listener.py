"""A listening socket whose connections speak HTTP/2."""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Callable
from typing import Any, Final

from orchestrator.http2.connection import Connection
from orchestrator.http2.limits import Limits
from orchestrator.http2.protocol import Http2Protocol

_CHECK_S: Final = 1.0
_BACKLOG: Final = 1024
_MOST_CONNECTIONS: Final = 4096
"""Well below usual limits of file descriptors; one that comes beyond is closed at once."""


class Listener:
    """Accepts connections, or adopts those that another process has accepted, until it is stopped.

    Args:
        make: returns the logic of a new connection, given what to call when it has something to say.
        limits: of a connection.
    """

    def __init__(self, make: Callable[[Callable[[], None]], Connection[Any]], limits: Limits) -> None:
        self._make = make
        self._limits = limits
        self._protocols: set[Http2Protocol] = set()
        self._server: asyncio.Server | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()

    @property
    def connections(self) -> int:
        """Open now."""
        return len(self._protocols)

    def open(self) -> None:
        """Begin to look after connections, without listening: they are adopted."""
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)

    async def adopt(self, connection: socket.socket, *, ssl: tls.SSLContext | None = None) -> None:
        """Serve a connection that another process has accepted; it belongs to this one from now on.

        Raises:
            OSError: when it is lost at once.
        """
        await asyncio.get_running_loop().connect_accepted_socket(self._new_protocol, sock=connection, ssl=ssl)

    async def start(self, host: str, port: int, *, ssl: tls.SSLContext | None = None) -> int:
        """Listen, and return the port.

        Raises:
            OSError: when it can't.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            self._new_protocol,
            host,
            port,
            ssl=ssl,
            backlog=_BACKLOG,
        )
        self.open()
        found: int = self._server.sockets[0].getsockname()[1]
        return found

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
        self._protocols.add(protocol)
        return len(self._protocols) <= _MOST_CONNECTIONS

    def _remove(self, protocol: Http2Protocol) -> None:
        self._protocols.discard(protocol)
        if not self._protocols:
            self._empty.set()

    def _check(self) -> None:
        for protocol in list(self._protocols):
            protocol.check(self._limits.stall_s)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_S, self._check)
