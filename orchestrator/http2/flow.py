"""What the streams of one connection share, and how much one peer may take of it.

They share its windows, the order in which they send, and the bytes to be written. What a window or the transport holds
back waits with its stream. Streams that their own window would let go on take turns, so that one with much to send does
not hold up the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Generic, Protocol, TypeVar

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.frames import DEFAULT_WINDOW, MAX_FRAME_BYTES, window_update_frame

SPARED_UPDATES: Final = 4
"""How often a peer widens windows for a call, or for a piece of an answer, at most; most do so once in many."""
MOST_OUT_BYTES: Final = 2**20
"""Bytes of bodies after which no more is written in a turn of the loop: they are copied to leave as one."""
_NO_TABLE: Final = b"\x20"
"""First byte of a header block that says: the sender's table has no bytes from now on."""
_MIB: Final = 2**20


Buffer = bytes | bytearray | memoryview


class Sender(Protocol):
    """A stream, as far as its connection lets it go on."""

    def pump(self) -> None:
        """Send as much of what is pending as the peer takes."""


S = TypeVar("S", bound=Sender)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one connection.

    Attributes:
        max_streams: calls under way at a time; a call that was reset counts until it has really ended.
        stream_window_bytes: bytes that may come on a stream before any are taken.
        connection_window_bytes: likewise on all streams of a connection together.
        header_list_bytes: size of a header list, by HPACK's count.
        handshake_s: how long the first SETTINGS may take, and a header block to come whole.
        stall_s: how long a peer may take to accept or send the next piece of what it has begun, besides what pieces
            buy; see ``budget``.
        quiet_s: silence after which the peer is pinged.
        ping_s: how long the answer to a ping may take.
        idle_faults: charges at once for what brings nobody an answer (pings, resets of either side, empty frames,
            refused calls, windows that grow without need); a peer beyond is sent away.
        idle_faults_per_s: likewise in the long run.
    """

    max_streams: int = 1024
    stream_window_bytes: int = _MIB
    connection_window_bytes: int = 16 * _MIB
    header_list_bytes: int = 16 * 1024
    handshake_s: float = 10.0
    stall_s: float = 30.0
    quiet_s: float = 60.0
    ping_s: float = 20.0
    idle_faults: int = 2000
    idle_faults_per_s: float = 1000.0


class Flow(Generic[S]):
    """The state of a connection that all of its streams read and change.

    Attributes:
        peer: the address of the other side; the owner sets it.
        now_s: when something last came, seconds on ``clock``.
        arrived_s: when what is being taken came to this machine, as far as is known; before ``now_s`` where it had to
            wait to be read. The owner sets it.
        send_budget: what is held of answers that peers do not take, over all connections of a server.
        running: calls that have not ended, those whose streams are gone included; counted by the user.
        charges: what the peer did that brings nobody an answer, and what we had to do for it, not settled yet.
        spared_updates: how often the peer may still widen a window without a charge, because calls or data went to it.
        was_answered: whether the peer ever got more than a refusal.
        is_over: whether the connection is gone.
        is_paused: whether the transport takes no more; the owner sets it, and calls ``resume``.
        flush: lets out at once what would go out at the end of the loop's turn, for a caller who knows that nothing
            will join it; the owner sets it.
        streams: those that are open, by number.
        blocked: streams that the connection's window, the transport or the turn holds back, and not their own window.
        out_bytes: how much of bodies waits to be written.
        send_window: bytes that the peer takes on all streams together.
        initial_window: bytes that the peer takes on a new stream.
        max_frame: bytes of the largest DATA frame that may be sent.
        receive_window: bytes that the peer may send on all streams together.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        is_server: bool,
        clock: Callable[[], float],
        wake: Callable[[], None],
        send_budget: HeldBudget | None = None,
    ) -> None:
        self.limits = limits
        self.send_budget = send_budget or HeldBudget(math.inf)
        self.is_server = is_server
        self.clock = clock
        self._wake = wake
        self.peer = ""
        self.now_s = self.arrived_s = clock()
        self.running = 0
        self.charges = 0
        self.spared_updates = SPARED_UPDATES
        self.was_answered = False
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
        self.out_bytes = 0
        self._out: list[Buffer] = []
        self._block_prefix = _NO_TABLE

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not self.streams

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self.streams)

    def write(self, *parts: Buffer) -> None:
        """Add bytes to what goes out at the end of the loop's turn."""
        if not self._out:
            self._wake()
        self._out += parts

    def take_out(self) -> bytes:
        """Return what is to be written in this turn of the loop, and forget it; there may be more in the next."""
        out = self._out
        data = b"".join(out)
        out.clear()
        if self.out_bytes:
            is_more = self.out_bytes >= MOST_OUT_BYTES
            self.out_bytes = 0
            if is_more:
                self.pump_blocked()
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
            if self.send_window <= 0 or self.is_paused or self.out_bytes >= MOST_OUT_BYTES:
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


def _do_nothing() -> None:
    pass
