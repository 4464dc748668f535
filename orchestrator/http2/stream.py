"""One stream of a connection: what is sent on it, what comes, and how it ends.

An answer that fits is one write; see ``flow`` for what waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from orchestrator.http2.budget import time_bought_s
from orchestrator.http2.flow import MOST_OUT_BYTES, SPARED_UPDATES, Buffer, Flow
from orchestrator.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    ErrorCode,
    frame,
    rst_stream_frame,
    window_update_frame,
)

LARGEST_SENT: Final = 65536
"""Largest DATA frame that is sent, whatever the peer takes, so that large answers do not hold up small ones."""
_LAST_HEADERS: Final = END_HEADERS | END_STREAM
_PIECE_BYTES: Final = 1024
_LEAST_PIECE_BYTES: Final = 32
"""A smaller piece of an answer, or than half of the peer's own small window, spares it no update of the window."""


class Receiver(Protocol):
    """Takes what comes on a stream; called while bytes are read, so it must return at once."""

    def receive_headers(self, meaning: Any, is_last: bool) -> None:
        """Take what a later header block means; the first one of a request went to ``accept``."""

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body; the sender may send as much again once ``Stream.credit`` is called."""

    def abort(self, code: ErrorCode) -> None:
        """End: the stream was reset by the peer or lost with its connection; nothing more comes or can be sent."""


@dataclass(slots=True, eq=False)
class Stream:
    """A stream that is not closed yet.

    Its methods are what either side of it can do (RFC 9113 section 5.1), for a server and for a client.

    Attributes:
        connection: the flow of the connection that it belongs to.
        id: its number.
        receiver: takes what comes; None once the stream is closed, so that both go without the garbage collector.
        send_window: bytes the peer takes; negative after it has shrunk its window.
        receive_window: bytes the peer may send.
        owed: bytes that came and are not credited yet.
        is_remote_closed: whether the peer has sent its last.
        is_local_closed: whether we have.
        pending: what the peer does not take yet.
        pending_bytes: how much that is.
        counted_bytes: how much of it the budget knows of.
        trailers: what follows ``pending``; empty: an empty DATA frame ends the stream; None: it is not to end yet.
        on_writable: called once when less is pending, then forgotten.
        progress_s: when it last got on, seconds on the connection's clock.
        is_fed: whether the peer is expected to go on sending, so that silence is a fault.
    """

    connection: Flow[Stream]
    id: int
    is_remote_closed: bool = False
    is_fed: bool = True
    receiver: Receiver | None = None
    send_window: int = field(init=False)
    receive_window: int = field(init=False)
    owed: int = 0
    is_local_closed: bool = False
    pending: deque[memoryview] = field(default_factory=deque)
    pending_bytes: int = 0
    counted_bytes: int = 0
    trailers: bytes | None = None
    on_writable: Callable[[], None] | None = None
    progress_s: float = field(init=False)

    def __post_init__(self) -> None:
        self.send_window = self.connection.initial_window
        self.receive_window = self.connection.limits.stream_window_bytes
        self.progress_s = self.connection.now_s
        self.connection.streams[self.id] = self

    @property
    def is_congested(self) -> bool:
        """Whether more should only be sent after ``on_writable``."""
        return self.pending_bytes > 0

    # --- sending ---

    def respond(self, headers: bytes, body: Buffer, trailers: bytes) -> None:
        """Send a whole answer (header block, one body, closing header block), in one piece when the peer takes it."""
        connection, size = self.connection, len(body)
        if self.is_local_closed:
            return
        connection.was_answered = True
        if (
            size > self.send_window
            or size > connection.send_window
            or size > connection.max_frame
            or connection.is_paused
        ):
            self.send_headers(headers)
            self.send_data(body)
            self.finish(trailers)
            return
        number = self.id
        headers = connection.begin_block(headers)
        self.send_window -= size
        connection.send_window -= size
        connection.write(
            FRAME_HEADER.pack(len(headers) >> 8, len(headers) & 0xFF, HEADERS, END_HEADERS, number),
            headers,
            FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, number),
            body,
            FRAME_HEADER.pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, _LAST_HEADERS, number),
            trailers,
        )
        self._close_local()

    def send_headers(self, block: bytes, *, is_last: bool = False) -> None:
        """Send a header block, which no window holds back."""
        if not self.is_local_closed:
            connection = self.connection
            flags = _LAST_HEADERS if is_last else END_HEADERS
            connection.write(frame(HEADERS, flags, self.id, connection.begin_block(block)))
            if is_last:
                self._close_local()

    def send_data(self, data: Buffer) -> None:
        """Send a piece of the body, as soon as the peer takes it."""
        if not self.is_local_closed and data:
            if not self.pending:
                self.progress_s = self.connection.clock()
            self.pending.append(memoryview(data))
            self.pending_bytes += len(data)
            self.pump()

    def finish(self, trailers: bytes = b"") -> None:
        """End our side once all is sent."""
        if not self.is_local_closed and self.trailers is None:
            self.trailers = trailers
            self.pump()

    def stop_sending(self) -> None:
        """End our side at once and in order, without what is pending: the peer takes no more of it."""
        self.pending.clear()
        self.pending_bytes = 0
        self.trailers = b""
        self.pump()

    def pump(self) -> None:
        """Send as much of what is pending as the peer takes."""
        connection, pending = self.connection, self.pending
        before = self.pending_bytes
        while pending and not connection.is_paused and connection.out_bytes < MOST_OUT_BYTES:
            room = min(self.send_window, connection.send_window, connection.max_frame)
            if room <= 0:
                break
            chunk = pending[0]
            if len(chunk) <= room:
                pending.popleft()
            else:
                pending[0], chunk = chunk[room:], chunk[:room]
            size = len(chunk)
            self.send_window -= size
            connection.send_window -= size
            connection.out_bytes += size
            self.pending_bytes -= size
            is_last = not pending and self.trailers == b""
            flags = END_STREAM if is_last else 0
            connection.write(FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, flags, self.id), chunk)
            if is_last:
                self._close_local()
        if self.pending_bytes < before:
            sent_bytes = before - self.pending_bytes
            least_bytes = min(_PIECE_BYTES, max(_LEAST_PIECE_BYTES, connection.initial_window // 2))
            if sent_bytes >= least_bytes or not pending:
                connection.spared_updates += SPARED_UPDATES + sent_bytes // _PIECE_BYTES
            connection.was_answered = True
            self._note_progress(connection.clock(), sent_bytes, before, is_whole=not pending)
        if self.pending_bytes != self.counted_bytes:
            self._count_pending()
        if pending and self.send_window > 0:
            connection.blocked[self.id] = self
        else:
            connection.blocked.pop(self.id, None)
        if pending:
            return
        if self.trailers is not None and not self.is_local_closed:
            self._end_sending(self.trailers)
        if before and (on_writable := self.on_writable) is not None:
            self.on_writable = None
            on_writable()

    def _note_progress(self, now_s: float, size: int, held_bytes: int, *, is_whole: bool = False) -> None:
        """Note that so many bytes got on of what is held, which buys the peer time."""
        bought_s = time_bought_s(size, held_bytes, self.connection.limits.stall_s)
        self.progress_s = now_s if is_whole else min(now_s, self.progress_s + bought_s)

    def _end_sending(self, trailers: bytes) -> None:
        kind, flags = (HEADERS, _LAST_HEADERS) if trailers else (DATA, END_STREAM)
        self.connection.write(frame(kind, flags, self.id, trailers))
        self._close_local()

    def _close_local(self) -> None:
        self.is_local_closed = True
        if self.is_remote_closed:
            self.connection.streams.pop(self.id, None)
            self.receiver = None
            if self.owed:
                self.forget()
        elif self.connection.is_server:  # an answer before the request has come whole: the rest is not wanted
            self.reset(ErrorCode.NO_ERROR)
            self.receiver = None

    # --- receiving ---

    def credit(self, held_bytes: int = 0) -> None:
        """Let the peer send as much again as came, because it was taken; a frame says so once it is worth one.

        So much is held of what has not come whole.
        """
        size = self.owed
        self.credit_connection()
        if self.is_remote_closed:
            return
        self._note_progress(self.connection.now_s, size, held_bytes)
        window = self.connection.limits.stream_window_bytes
        lacking = window - self.receive_window
        if lacking * 2 >= window:
            self.receive_window += lacking
            self.connection.write(window_update_frame(self.id, lacking))

    def credit_connection(self) -> None:
        """Let the peer send as much again as came on other streams, and on this one only after ``credit``."""
        owed, self.owed = self.owed, 0
        self.connection.credit_connection(owed)

    def close_remote(self) -> None:
        """Note that the peer has sent its last."""
        self.is_remote_closed = True
        if self.is_local_closed:
            self.connection.streams.pop(self.id, None)
            self.receiver = None

    # --- the end ---

    def reset(self, code: ErrorCode) -> None:
        """End the stream at once, both ways; the receiver is not notified. A client is charged, whoever is at fault."""
        connection = self.connection
        if connection.streams.get(self.id) is self:
            connection.charges += connection.is_server
            connection.write(rst_stream_frame(self.id, code))
            self.forget()

    def end(self, code: ErrorCode) -> None:
        """Reset the stream and notify its receiver."""
        self.reset(code)
        self.notify_abort(code)

    @property
    def owner(self) -> Flow[Stream]:
        """The connection that it is on."""
        return self.connection

    def lose(self) -> None:
        """End it, because too much is held of answers that peers do not take."""
        self.end(ErrorCode.ENHANCE_YOUR_CALM)

    def discard(self) -> None:
        """Close it both ways and let go of what is pending."""
        self.is_local_closed = self.is_remote_closed = True
        self.pending.clear()
        self.pending_bytes = 0
        if self.counted_bytes:
            self._count_pending()

    def _count_pending(self) -> None:
        change, self.counted_bytes = self.pending_bytes - self.counted_bytes, self.pending_bytes
        if change > 0:
            self.connection.send_budget.take(self, change)
        else:
            self.connection.send_budget.give(self, -change)

    def forget(self) -> None:
        """Let go of all that a stream holds which is closed both ways from now on."""
        self.discard()
        self.connection.streams.pop(self.id, None)
        self.connection.blocked.pop(self.id, None)
        self.credit_connection()

    def notify_abort(self, code: ErrorCode) -> None:
        """Let the receiver know that the stream is gone."""
        self.on_writable = None
        receiver, self.receiver = self.receiver, None
        if receiver is not None:
            receiver.abort(code)
