"""What the streams of one connection share: its windows, the order in which they send, and the bytes to be written.

What a window or the transport holds back waits with its stream. Streams that their own window would let go on take
turns, so that one with much to send does not hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Generic, Protocol, TypeVar

from orchestrator.http2.frames import DEFAULT_WINDOW, MAX_FRAME_BYTES, window_update_frame
from orchestrator.http2.limits import Limits

LARGEST_SENT: Final = 65536
"""Largest DATA frame that is sent, whatever the peer takes, so that large answers do not hold up small ones."""
_NO_TABLE: Final = b"\x20"
"""First byte of a header block that says: the sender's table has no bytes from now on."""


class Sender(Protocol):
    """A stream, as far as its connection's flow has to know it."""

    def pump(self) -> None:
        """Send as much of what is pending as the peer takes."""
        ...


S = TypeVar("S", bound=Sender)


class Flow(Generic[S]):
    """The state of a connection that all of its streams read and change.

    Attributes:
        now_s: when something last came, seconds on ``clock``.
        running: calls that have not ended, those whose streams are gone included; counted by the user.
        is_over: whether the connection is gone.
        is_paused: whether the transport takes no more; the owner sets it, and calls ``resume``.
        flush: lets out at once what would go out at the end of the loop's turn, for a caller who knows that nothing
            will join it; the owner sets it.
        streams: those that are open, by number.
        blocked: streams that the connection's window or the transport holds back, and not their own window.
        send_window: bytes that the peer takes on all streams together.
        initial_window: bytes that the peer takes on a new stream.
        max_frame: bytes of the largest DATA frame that may be sent.
        receive_window: bytes that the peer may send on all streams together.
    """

    def __init__(
        self, limits: Limits, *, is_server: bool, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self.limits = limits
        self.is_server = is_server
        self.clock = clock
        self._wake = wake
        self.now_s = clock()
        self.running = 0
        self.is_over = False
        self.is_paused = False
        self.flush: Callable[[], None] = _do_nothing
        self.streams: dict[int, S] = {}
        self.blocked: dict[int, S] = {}
        self.send_window = DEFAULT_WINDOW
        self.initial_window = DEFAULT_WINDOW
        self.max_frame = MAX_FRAME_BYTES
        self.receive_window = limits.connection_window_bytes
        self._owed_bytes = 0
        self._out: list[bytes | memoryview] = []
        self._block_prefix = _NO_TABLE

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not self.streams

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self.streams)

    def write(self, *parts: bytes | memoryview) -> None:
        """Add bytes to what goes out at the end of the loop's turn."""
        if not self._out:
            self._wake()
        self._out += parts

    def take_out(self) -> bytes:
        """Return what is to be written, and forget it."""
        out = self._out
        data = b"".join(out)
        out.clear()
        return data

    def begin_block(self, block: bytes) -> bytes:
        """Return a header block as it is to be sent.

        The first one gives the table up that it does not use, as a peer whose SETTINGS allow a smaller one insists on.
        """
        prefix, self._block_prefix = self._block_prefix, b""
        return prefix + block if prefix else block

    def resume(self) -> None:
        """Go on sending: the transport takes more again."""
        self.is_paused = False
        self.pump_blocked()

    def pump_blocked(self) -> None:
        """Go on with the streams that waited for the connection."""
        for number, stream in list(self.blocked.items()):
            if self.send_window <= 0 or self.is_paused:
                return
            # To the end of the row, so that one with much to send does not hold up the others.
            self.blocked.pop(number, None)
            stream.pump()

    def credit_connection(self, size: int) -> None:
        """Let the peer send ``size`` bytes more, on any stream; a frame says so once it is worth one."""
        self._owed_bytes += size
        if self._owed_bytes * 2 >= self.limits.connection_window_bytes:
            self.receive_window += self._owed_bytes
            self.write(window_update_frame(0, self._owed_bytes))
            self._owed_bytes = 0


AnyFlow = Flow[Any]
"""The flow of a connection, for those who need nothing of its streams."""


def _do_nothing() -> None:
    pass
