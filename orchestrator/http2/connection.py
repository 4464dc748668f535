"""One end of an HTTP/2 connection without any I/O: bytes in, calls to receivers and bytes out (RFC 9113).

Hand-written because the ready ones cost what they were to save: see ``orchestrator.http2`` for the numbers. What frames
mean is in ``incoming``. Here is the life of a connection: how much of it is taken at a time, what ends it, and how it
takes leave.

What a peer does that brings nobody an answer comes out of a token bucket, so a flood ends the connection. What it is
not charged for does not hold up others either: ``receive`` takes a bounded share of what came, and the owner calls it
again for the rest after everybody else's turn. All that is held for it is bounded: what it sends by windows, what it
does not take by holding our own answers back and reading no further. ``check``, called now and then, ends what makes no
progress.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from typing import Final, TypeVar

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.flow import Buffer, Limits
from orchestrator.http2.frames import (
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    PING,
    PREFACE,
    ErrorCode,
    FrameReader,
    ViolationError,
    frame,
    goaway_frame,
    settings_frame,
    window_update_frame,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.incoming import DRAIN_PROBE, Incoming
from orchestrator.http2.stream import Receiver, Stream
from orchestrator.token_bucket import Rate, TokenBucket

T = TypeVar("T")

TURN_FRAMES: Final = 256
"""Frames of one connection that are taken in one turn of the event loop, about a hundred calls."""
_BLOCK_LIMIT: Final = 4
"""How many times larger than the limit of a decoded header list its encoded form may be."""
_TURN_S: Final = 0.002
"""Seconds after which no further frame is taken in a turn."""
_UNTIMED_FRAMES: Final = 2
"""Frames before the clock is looked at: a call has no more."""
STOOD_S: Final = 0.05
"""A look that comes so much too late is one of a process that has stood still; less matters to no limit."""
_MOST_LOOKED_AT: Final = 8
_EVERY_STREAM: Final = 2**31 - 1
_LIFE_PROBE: Final = b"anybody?"


class Connection(Incoming[T]):
    """One end of a connection; the other one is a client's unless ``accept`` is None.

    Args:
        decoder: of header blocks, for this connection alone.
        accept: called with a new stream and what its header block means; returns what takes the rest.
        limits: what the peer may take.
        clock: seconds, monotonic.
        wake: called when there is something to write after there was nothing.
        send_budget: what is held of answers that peers do not take, over all connections; None bounds nothing.

    Attributes:
        violation: why the connection has ended; None while it lives.
    """

    def __init__(
        self,
        decoder: HeaderDecoder[T],
        accept: Callable[[Stream, T], Receiver | None] | None,
        limits: Limits,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        send_budget: HeldBudget | None = None,
    ) -> None:
        super().__init__(decoder, accept, limits, clock=clock, wake=wake, send_budget=send_budget)
        self.violation: ViolationError | None = None
        self._born_s = self.now_s
        self._reader = FrameReader(
            PREFACE if self.is_server else b"", most_block_bytes=_BLOCK_LIMIT * limits.header_list_bytes
        )
        self._is_probing = False
        self._pinged_s: float | None = None
        self._fault_rate = Rate(limits.idle_faults_per_s, limits.idle_faults)
        self._fault_bucket = TokenBucket(limits.idle_faults, self.now_s)

    def start(self) -> None:
        """Send what a connection begins with."""
        settings = [
            (INITIAL_WINDOW_SIZE, self.limits.stream_window_bytes),
            (MAX_HEADER_LIST_SIZE, self.limits.header_list_bytes),
        ]
        if self.is_server:
            settings.append((MAX_CONCURRENT_STREAMS, self.limits.max_streams))
        else:
            self.write(PREFACE)
            settings.append((ENABLE_PUSH, 0))
        self.write(settings_frame(settings))
        self.write(window_update_frame(0, self.limits.connection_window_bytes - DEFAULT_WINDOW))

    @property
    def has_begun(self) -> bool:
        """Whether the peer has sent its SETTINGS."""
        return self._reader.is_open

    @property
    def unread_bytes(self) -> int:
        """The bytes that have come and that no turn has taken yet."""
        return self._reader.unread_bytes

    def receive(self, data: bytes, *, most_frames: int = TURN_FRAMES) -> bool:
        """Take what came, as much of it as one turn of the loop may take; return whether something is left.

        It is kept, and taken by further calls, with nothing or with what came meanwhile. A violation ends the
        connection, and its reason is among what is to be written.
        """
        if self.violation is not None:
            return False
        self.now_s = self.clock()
        self._pinged_s = None
        handlers = self.handlers
        frames = self._reader.read(data, now_s=self.now_s)
        count = 0
        try:
            for kind, flags, number, payload in frames:
                handler = handlers.get(kind)
                if handler is not None:
                    handler(payload, flags, number)
                else:
                    self.charges += 1
                if self.violation is not None:  # a receiver gave up on the whole connection
                    return False
                count += 1
                if count >= most_frames or (count > _UNTIMED_FRAMES and self.clock() - self.now_s > _TURN_S):
                    frames.close()
                    if self.charges:
                        self._settle()
                    return True
            if self.charges:
                self._settle()
        except ViolationError as exc:
            self.fail(exc)
        return False

    def fail(self, error: ViolationError) -> None:
        """End the connection with a reason for the peer; what is under way is aborted."""
        if self.violation is None:
            self.violation = error
            self.write(goaway_frame(self.last_stream, error.code, str(error)))
            self.abort(error.code)

    def abort(self, code: ErrorCode) -> None:
        """Abort every stream: the connection is gone."""
        self.is_over = True
        streams = list(self.streams.values())
        self.streams.clear()
        self.blocked.clear()
        for stream in streams:
            stream.discard()
            stream.notify_abort(code)

    def drain(self) -> None:
        """Take no more streams, those that the peer has opened meanwhile excepted: it answers a ping first."""
        if not self._is_probing and not self.is_draining:
            self._is_probing = True
            self.write(goaway_frame(_EVERY_STREAM, ErrorCode.NO_ERROR))
            self.write(frame(PING, 0, 0, DRAIN_PROBE))

    def end_probe(self) -> None:
        """Wait no longer for the answer to the ping of ``drain``, and say which stream is the last."""
        if self._is_probing:
            self._is_probing, self.is_draining = False, True
            self.write(goaway_frame(self.last_stream, ErrorCode.NO_ERROR))

    @property
    def is_drained(self) -> bool:
        """Whether the peer knows which stream is the last, and none is open any more."""
        return self.is_draining and not self.streams

    def check(self, *, late_s: float = 0.0) -> None:
        """End what makes no progress; to be called every second or so, and ``late_s`` later than it was due."""
        now_s = self.clock()
        limits, reader = self.limits, self._reader
        if late_s > STOOD_S:
            self._excuse(late_s, now_s)
        if not reader.is_open and now_s - self._born_s > limits.handshake_s:
            self.fail(ViolationError(ErrorCode.SETTINGS_TIMEOUT, f"no SETTINGS within {limits.handshake_s:g} s"))
        elif reader.block_since_s is not None and now_s - reader.block_since_s > limits.handshake_s:
            self.fail(ViolationError(ErrorCode.ENHANCE_YOUR_CALM, "a header block does not come to its end"))
        elif self._pinged_s is not None and now_s - self._pinged_s > limits.ping_s:
            self.fail(ViolationError(ErrorCode.NO_ERROR, f"no sign of life within {limits.ping_s:g} s of a ping"))
        if self.violation is not None:
            return
        if self._pinged_s is None and now_s - self.now_s > limits.quiet_s:
            self._pinged_s = now_s
            self.write(frame(PING, 0, 0, _LIFE_PROBE))
        for stream in list(self.streams.values()):
            is_waiting = stream.pending_bytes or (stream.is_fed and not stream.is_remote_closed)
            if is_waiting and now_s - stream.progress_s > limits.stall_s:
                stream.end(ErrorCode.CANCEL)

    def _excuse(self, late_s: float, now_s: float) -> None:
        """Hold it against nobody that so long nothing was read."""

        def later(since_s: float) -> float:
            return min(now_s, since_s + late_s)

        self._born_s, self.now_s = later(self._born_s), later(self.now_s)
        if self._reader.block_since_s is not None:
            self._reader.block_since_s = later(self._reader.block_since_s)
        if self._pinged_s is not None:
            self._pinged_s = later(self._pinged_s)
        for stream in self.streams.values():
            stream.progress_s = later(stream.progress_s)

    @property
    def is_answering(self) -> bool:
        """Whether a call waits for us: one that has come whole, or a stream of messages that got on just now.

        Of very many calls only the latest are looked at.
        """
        since_s = self.clock() - self.limits.handshake_s
        return any(
            not stream.pending_bytes
            and (stream.is_remote_closed or (not stream.is_fed and stream.progress_s >= since_s))
            for stream in islice(reversed(self.streams.values()), _MOST_LOOKED_AT)
        )

    @property
    def is_usable(self) -> bool:
        """Whether a stream may be opened to the peer."""
        return not self.is_over and self.goaway is None and self.next_stream < MAX_WINDOW

    def open(self, receiver: Receiver, block: bytes, body: Buffer | None = None) -> Stream:
        """Open a stream to the peer with a header block, and with all its body when it is given."""
        stream = Stream(self, self.next_stream, is_fed=False, receiver=receiver)
        self.next_stream += 2
        self.write(frame(HEADERS, END_HEADERS, stream.id, self.begin_block(block)))
        if body is not None:
            stream.trailers = b""
            stream.send_data(body)
        return stream

    def _settle(self) -> None:
        charges, self.charges = self.charges, 0
        bucket = self._fault_bucket.refilled_by(self._fault_rate, now_s=self.now_s).spent(charges)
        if bucket is None:
            raise ViolationError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets, pings, empty frames or refused calls")
        self._fault_bucket = bucket
