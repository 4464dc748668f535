"""A listening socket whose connections speak HTTP/2."""

from __future__ import annotations

import asyncio
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
    """Accepts connections until it is stopped.

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

    async def start(self, host: str, port: int, *, ssl: tls.SSLContext | None = None, reuse_port: bool = False) -> int:
        """Listen, and return the port.

        Raises:
            OSError: when it can't.
        """
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Http2Protocol(self._make, on_made=self._add, on_lost=self._remove),
            host,
            port,
            ssl=ssl,
            backlog=_BACKLOG,
            reuse_port=reuse_port or None,
        )
        self._timer = loop.call_later(_CHECK_S, self._check)
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    async def stop(self, grace_s: float) -> None:
        """Accept no more, let calls under way end for so long, and close everything."""
        if self._server is None:
            return
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
        if self._timer is not None:
            self._timer.cancel()

    def _close_idle(self) -> None:
        for protocol in list(self._protocols):
            if protocol.connection is None or protocol.connection.is_idle:
                protocol.close()

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
