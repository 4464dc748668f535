"""One stream of a connection: what its user may do with it, and what it holds back until the peer takes it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from orchestrator.http2.frames import ErrorCode

if TYPE_CHECKING:
    from orchestrator.http2.flow import Flow


class Receiver(Protocol):
    """Takes what comes on a stream; called while bytes are read, so it must return at once."""

    def receive_headers(self, meaning: Any, is_last: bool) -> None:
        """Take what a later header block means; the first one of a request went to ``accept``."""
        ...

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body; the sender may send as much again once ``Stream.credit`` is called."""
        ...

    def abort(self, code: ErrorCode) -> None:
        """The stream is gone, reset by the peer or lost with its connection; nothing more comes or can be sent."""
        ...


class Stream:
    """A stream that is not closed yet.

    Attributes:
        id: its number.
        receiver: takes what comes.
        send_window: bytes the peer takes; negative after it has shrunk its window.
        receive_window: bytes the peer may send.
        owed: bytes that came and are not credited yet.
        is_remote_closed: whether the peer has sent its last.
        is_local_closed: whether we have.
        pending: what the peer does not take yet.
        pending_bytes: of that.
        trailers: to follow ``pending``; empty: an empty DATA frame ends the stream; None: it is not to end yet.
        on_writable: called once when less is pending, then forgotten.
        progress_s: when it last got on, on the connection's clock.
        is_fed: whether the peer is expected to go on sending, so that silence is a fault.
    """

    __slots__ = (
        "_connection",
        "id",
        "is_fed",
        "is_local_closed",
        "is_remote_closed",
        "on_writable",
        "owed",
        "pending",
        "pending_bytes",
        "progress_s",
        "receive_window",
        "receiver",
        "send_window",
        "trailers",
    )

    def __init__(self, connection: Flow, number: int, send_window: int, receive_window: int) -> None:
        self._connection = connection
        self.id = number
        self.receiver: Receiver | None = None
        self.send_window = send_window
        self.receive_window = receive_window
        self.owed = 0
        self.is_remote_closed = False
        self.is_local_closed = False
        self.pending: deque[memoryview] = deque()
        self.pending_bytes = 0
        self.trailers: bytes | None = None
        self.on_writable: Callable[[], None] | None = None
        self.progress_s = connection.now_s
        self.is_fed = True

    @property
    def connection(self) -> Flow:
        """It belongs to."""
        return self._connection

    @property
    def is_congested(self) -> bool:
        """Whether more should only be sent after ``on_writable``."""
        return self.pending_bytes > 0

    def respond(self, headers: bytes, body: bytes, trailers: bytes) -> None:
        """Send a whole answer: header block, one body, closing header block."""
        self._connection.send_whole(self, headers, body, trailers)

    def send_headers(self, block: bytes, *, is_last: bool = False) -> None:
        """Send a header block, which no window holds back."""
        self._connection.send_headers(self, block, is_last=is_last)

    def send_data(self, data: bytes) -> None:
        """Send a piece of the body, as soon as the peer takes it."""
        if not self.is_local_closed and data:
            if not self.pending:
                self.progress_s = self._connection.clock()
            self.pending.append(memoryview(data))
            self.pending_bytes += len(data)
            self._connection.pump(self)

    def finish(self, trailers: bytes = b"") -> None:
        """End our side once all is sent."""
        if not self.is_local_closed and self.trailers is None:
            self.trailers = trailers
            self._connection.pump(self)

    def credit(self) -> None:
        """Let the peer send as much again as came: it was taken."""
        self._connection.credit(self)

    def reset(self, code: ErrorCode) -> None:
        """End the stream at once, both ways; the receiver is not told."""
        self._connection.reset(self, code)
