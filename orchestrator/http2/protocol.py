"""HTTP/2 connections on asyncio: what comes goes to a ``Connection``, what it says goes out once a turn of the loop.

All answers that are given in one turn leave in one write: the requests of one batch are answered together, and a system
call costs as much as all the rest of an answer. What nothing can join, because nothing else is under way, may leave at
once (``Flow.flush``). A transport that takes no more stops the reading too, so a client that does not read its answers
is not read either, and holds what its window allows and no more.

Of what comes, too, a turn of the loop takes only so much. A socket is read by pieces of up to 256 KiB, which may hold
twenty thousand frames. What a connection's share of the turn leaves waits in a ``Backlog``, of which each turn takes
one more share, and the connection is not read before all of it is taken. So who floods, over however many connections,
holds up those who flood, and a connection with a call or two is answered as if they were not there.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.http2.arrivals import Arrivals, read_left_bytes
from orchestrator.http2.connection import TURN_FRAMES, Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.frames import ErrorCode, ViolationError
from orchestrator.http2.huffman import first_row
from orchestrator.http2.listener import Listener, Waiting
from orchestrator.http2.loop_lag import LoopLag

_WRITE_BUFFER_BYTES = 2**20
_FULL_READ_BYTES = 2**17
"""Where a socket gave so much at once, more may wait in it."""
_IDLE_LOOK_S = 0.5
_DRAIN_LOOK_S = 0.02
LATER_FRAMES = 64
"""Frames of each further share: about thirty calls, whose answers take their time too."""
_LEAST_FRAMES = 8
_LARGE_BYTES = 2**16
_EVICTION_S = 1.0
_PROBE_S = 1.0  # several round trips to the other side of the world
_LINGER_S = 0.5  # for the peer to close too: what it sends to a closed socket would reset what it has not read yet

Make = Callable[[Callable[[], None]], Connection[Any]]
"""Returns the logic of a new connection, given what to call when it has something to say."""


class Backlog:
    """Connections of which more came than their share of a turn; each further turn takes a share of one of them."""

    def __init__(self) -> None:
        self._waiting: deque[Http2Protocol] = deque()
        self._is_due = False

    @property
    def unread_bytes(self) -> int:
        """How many bytes had come and were not taken, those that were still in sockets included."""
        return sum([protocol.unread_bytes for protocol in self._waiting])

    def share(self, size: int) -> int:
        """Return how many frames a connection may take of ``size`` bytes that come now: few when many wait already."""
        if self._waiting and size > _LARGE_BYTES:
            return 1
        return max(_LEAST_FRAMES, TURN_FRAMES >> len(self._waiting))

    def add(self, protocol: Http2Protocol) -> None:
        """Let a connection wait for its turn, unless it does."""
        if protocol not in self._waiting:
            self._waiting.append(protocol)
            self._schedule()

    def _schedule(self) -> None:
        if self._waiting and not self._is_due:
            self._is_due = True
            asyncio.get_running_loop().call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_due = False
        protocol = self._waiting.popleft()
        try:
            if protocol.go_on():
                self._waiting.append(protocol)
        finally:
            self._schedule()


class Http2Protocol(asyncio.Protocol):
    """One connection; made by ``asyncio``'s servers and clients. ``on_made`` says whether there is room for it.

    What it leaves of a turn waits in ``backlog``, in one of its own when none is given. ``lag`` says how long what
    comes waits to be read.

    Attributes:
        connection: its logic; None before it stands.
        peer: the address that it comes from.
        paused_since_s: since when the peer takes nothing, seconds on the loop's clock; None while it does.
    """

    def __init__(
        self,
        make: Make,
        on_made: Callable[[Http2Protocol], bool],
        on_lost: Callable[[Http2Protocol], None],
        *,
        backlog: Backlog | None = None,
        lag: LoopLag | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._make = make
        self._on_made = on_made
        self._on_lost = on_lost
        self._backlog = backlog or Backlog()
        self._lag = lag
        self._arrivals = Arrivals(self._loop.time())
        self._was_behind = False  # since the socket was read
        self._is_behind = False  # with what came, and so in the backlog unless the peer takes nothing either
        self._transport: Any = None
        self._descriptor = -1
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
        if (socket := transport.get_extra_info("socket")) is not None:
            self._descriptor = socket.fileno()
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        self._transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)
        tls = transport.get_extra_info("ssl_object")
        if not self._on_made(self) or (tls is not None and tls.selected_alpn_protocol() not in ("h2", None)):
            self._transport.abort()
            return
        self.connection = self._make(self._wake)
        self.connection.peer = self.peer
        self.connection.flush = self._flush
        self.connection.start()

    def data_received(self, data: bytes) -> None:
        """Hand bytes that came on to the connection."""
        now_s = self._heard_s = self._loop.time()
        connection = self.connection
        if connection is not None:
            if self._lag is not None:
                waited_s = math.inf if self._was_behind else self._lag.seconds
                connection.arrived_s = self._arrivals.take(len(data), self._left_bytes(len(data)), now_s, waited_s)
                self._was_behind = False
            if connection.receive(data, most_frames=self._backlog.share(len(data))) and not self._is_behind:
                self._is_behind = self._was_behind = True
                self._transport.pause_reading()
                self._backlog.add(self)
            if connection.violation is not None:
                self.close()

    def _left_bytes(self, read_bytes: int) -> int:
        """Return how much the socket still holds, of which ``read_bytes`` were just read."""
        return read_left_bytes(self._descriptor) if read_bytes >= _FULL_READ_BYTES else 0

    @property
    def unread_bytes(self) -> int:
        """How many bytes had come at the last look and were not taken.

        Of who was never answered it is 0: a flood is no request.
        """
        if self.connection is None or not self.connection.was_answered:
            return 0
        return self.connection.unread_bytes + self._arrivals.left_bytes

    def go_on(self) -> bool:
        """Take a further share of what came; return whether there is more that can be taken now."""
        if self.paused_since_s is not None:  # it goes on with ``resume_writing``
            return False
        if (
            self.connection is not None
            and self._closing_since_s is None
            and self.connection.receive(b"", most_frames=LATER_FRAMES)
        ):
            return True
        self._is_behind = False
        if self.connection is not None and self.connection.violation is not None:
            self.close()
        elif self._closing_since_s is None:
            self._transport.resume_reading()
        return False

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open, and nothing waits that could open one."""
        return self.connection is None or (self.connection.is_idle and not self._is_behind)

    @property
    def waiting(self) -> Waiting | None:
        """Since when it waits for its client; None while a call is being answered."""
        connection = self.connection
        if connection is None:
            return Waiting(self.peer, self._heard_s)
        if self.paused_since_s is None and (self._is_behind or connection.is_answering):
            return None
        return Waiting(self.peer, self._heard_s, connection.was_answered, connection.is_idle)

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
        if self._is_behind:
            self._backlog.add(self)
        elif self._closing_since_s is None:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Abort what is under way."""
        self._closing_since_s = self._loop.time()
        if self.connection is not None:
            self.connection.abort(ErrorCode.CANCEL)
        self._on_lost(self)

    def check(self, *, late_s: float) -> None:
        """End the connection, or streams of it, that make no progress; see Listener."""
        if self.connection is None:
            return
        if not self._is_behind:  # what it is to get on with may have come
            self.connection.check(late_s=late_s)
        now_s = self._loop.time()
        if self.paused_since_s is not None:
            self.paused_since_s = min(now_s, self.paused_since_s + late_s)
        if self._closing_since_s is not None:
            self._closing_since_s = min(now_s, self._closing_since_s + late_s)
        since_s = self.paused_since_s if self._closing_since_s is None else self._closing_since_s
        if since_s is not None and now_s - since_s > self.connection.limits.stall_s:
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

    def evict(self) -> None:
        """Close for the sake of another connection, and say so where the peer takes it."""
        if self.connection is not None:
            self.connection.fail(ViolationError(ErrorCode.NO_ERROR, "another connection needs the place of this one"))
        self.close()
        self._loop.call_later(_EVICTION_S, self._transport.abort)

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

    def __init__(self, make: Make, limits: Limits, *, max_connections: int = 4096, lag: LoopLag | None = None) -> None:
        first_row()
        self.backlog = Backlog()
        connect = partial(Http2Protocol, make, backlog=self.backlog, lag=lag)
        super().__init__(connect, max_connections=max_connections, handshake_s=limits.handshake_s)

    def _evict(self, connection: Http2Protocol) -> None:
        connection.evict()

    async def _drain(self) -> None:
        while True:
            for protocol in list(self._connections):
                protocol.drain()
            await asyncio.sleep(_DRAIN_LOOK_S)  # at least once, for connections that are about to begin
            if not self._connections:
                return
