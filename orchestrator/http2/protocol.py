"""HTTP/2 connections on asyncio: what comes goes to a ``Connection``, what it says goes out once a turn of the loop.

All answers that are given in one turn leave in one write: the requests of one batch are answered together, and a system
call costs as much as all the rest of an answer. What nothing can join, because nothing else is under way, may leave at
once (``Flow.flush``). A transport that takes no more stops the reading too, so a client that does not read its answers
is not read either, and holds what its window allows and no more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.http2.connection import Connection
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.listener import Listener, Waiting
from orchestrator.http2.stream import Limits

_WRITE_BUFFER_BYTES = 2**20
_IDLE_LOOK_S = 0.5
_DRAIN_LOOK_S = 0.02
_PROBE_S = 1.0  # several round trips to the other side of the world
_LINGER_S = 0.5  # for the peer to close too: what it sends to a closed socket would reset what it has not read yet

Make = Callable[[Callable[[], None]], Connection[Any]]
"""Returns the logic of a new connection, given what to call when it has something to say."""


class Http2Protocol(asyncio.Protocol):
    """One connection; made by ``asyncio``'s servers and clients. ``on_made`` says whether there is room for it.

    Attributes:
        connection: its logic; None before it stands.
        peer: the address that it comes from.
        paused_since_s: since when the peer takes nothing, seconds on the loop's clock; None while it does.
    """

    def __init__(
        self, make: Make, on_made: Callable[[Http2Protocol], bool], on_lost: Callable[[Http2Protocol], None]
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._on_made = on_made
        self._on_lost = on_lost
        self._transport: Any = None
        self.peer = ""
        self._heard_s = self._loop.time()
        self.connection: Connection[Any] | None = None
        self.paused_since_s: float | None = None
        self._closing_since_s: float | None = None
        self._draining_since_s: float | None = None
        self._drained_since_s: float | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin the connection, or close when there is no room."""
        self._transport = transport
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if not self._on_made(self) or (tls is not None and tls.selected_alpn_protocol() not in ("h2", None)):
            self._transport.abort()
            return
        self.connection = self._make(self._wake)
        self.connection.flush = self._flush
        self.connection.start()

    def data_received(self, data: bytes) -> None:
        """Hand bytes that came on to the connection."""
        self._heard_s = self._loop.time()
        connection = self.connection
        if connection is not None:
            connection.receive(data)
            if connection.violation is not None:
                self.close()

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return self.connection is None or self.connection.is_idle

    @property
    def waiting(self) -> Waiting | None:
        """Since when it waits for its client; None while a stream is open."""
        if not self.is_idle:
            return None
        return Waiting(self.peer, self._heard_s, self.connection is not None and self.connection.was_used)

    def pause_writing(self) -> None:
        """Send and read no more: the transport's buffer is full."""
        self.paused_since_s = self._loop.time()
        if self.connection is not None:
            self.connection.is_paused = True
        if self._closing_since_s is None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """Send and read again: the transport takes more."""
        self.paused_since_s = None
        if self.connection is not None:
            self.connection.resume()
        if self._closing_since_s is None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Abort what is under way."""
        self._closing_since_s = self._loop.time()
        if self.connection is not None:
            self.connection.abort(ErrorCode.CANCEL)
        self._on_lost(self)

    def check(self, *, late_s: float) -> None:
        """End the connection, or streams of it, that make no progress."""
        if self.connection is None:
            return
        self.connection.check()
        since_s = self.paused_since_s if self._closing_since_s is None else self._closing_since_s
        if since_s is not None and self._loop.time() - since_s > self.connection.limits.stall_s:
            self.abort()
        elif self.connection.violation is not None:
            self.close()

    def drain(self) -> None:
        """Take leave of the peer, and close when no call is left; to be called until the connection is lost.

        The peer is to open no more streams, and those that it has opened before it read so are served: it answers a
        ping after them. Then it is told which was the last. With the last answer our side of the connection ends, and
        the peer is read until it ends its own.
        """
        if self.connection is None or self._closing_since_s is not None:
            return
        now_s = self._loop.time()
        if self._draining_since_s is None:
            self._draining_since_s = now_s
            self.connection.drain()
        elif now_s - self._draining_since_s >= _PROBE_S:
            self.connection.end_probe()
        if not self.connection.is_drained:
            return
        if self._drained_since_s is None:
            self._flush()
            self._drained_since_s = now_s
            if self._transport.can_write_eof():
                self._transport.write_eof()
        elif now_s - self._drained_since_s >= _LINGER_S:
            self.close()

    def close_when_idle(self) -> None:
        """Close when no stream is open any more."""
        if self.is_idle:
            self.close()
        else:
            self._loop.call_later(_IDLE_LOOK_S, self.close_when_idle)

    def close(self) -> None:
        """Close once what was written has gone out; ``check`` sees to it that this does not take for ever."""
        if self._closing_since_s is None:
            self._closing_since_s = self._loop.time()
            self._flush()
            self._transport.close()

    def abort(self) -> None:
        """Close at once; what was written and not taken is lost."""
        self._closing_since_s = self._loop.time()
        self._transport.abort()

    def _wake(self) -> None:
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        assert self.connection is not None
        data = self.connection.take_out()
        if data and self._drained_since_s is None and not self._transport.is_closing():
            self._transport.write(data)


class Http2Listener(Listener[Http2Protocol]):
    """A listener whose connections speak HTTP/2, as ``make`` has them do, within ``limits`` each."""

    def __init__(self, make: Make, limits: Limits, *, max_connections: int = 4096) -> None:
        connect = partial(Http2Protocol, make)
        super().__init__(connect, max_connections=max_connections, handshake_s=limits.handshake_s)

    async def _drain(self) -> None:
        while True:
            for protocol in list(self._connections):
                protocol.drain()
            await asyncio.sleep(_DRAIN_LOOK_S)  # at least once, for connections that are about to begin
            if not self._connections:
                return
