"""One end of an HTTP/2 connection without any I/O: bytes in, calls to receivers and bytes out (RFC 9113).

Hand-written because the ready ones cost what they were to save: see ``orchestrator.http2`` for the numbers. It is what
gRPC uses of HTTP/2 and no more: priorities are ignored, nothing is pushed, header blocks are written without a table.
What comes on a stream that is closed is ignored, as by gRPC's own core: the RFC would have STREAM_CLOSED where the peer
had ended it, and silence where we had, for which ended streams would have to be remembered.

What a peer does that brings nobody an answer (pings, resets of either side, empty frames, refused calls, windows that
grow without need) comes out of a token bucket, so a flood ends the connection. What it is not charged for does not hold
up others either: ``receive`` takes a bounded share of what came, and the owner calls it again for the rest after
everybody else's turn. All that is held for it is bounded: what it sends by windows, what it does not take by holding
our own answers back and reading no further. ``check``, called now and then, ends what makes no progress.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final, Generic, TypeVar

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.frames import (
    ACK,
    DATA,
    DEFAULT_WINDOW,
    ENABLE_PUSH,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_HEADER_LIST_SIZE,
    MAX_WINDOW,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    FrameReader,
    ViolationError,
    frame,
    goaway_frame,
    read_settings,
    rst_stream_frame,
    settings_frame,
    strip_padding,
    window_update_frame,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.stream import LARGEST_SENT, SPARED_UPDATES, Flow, Limits, Receiver, Stream
from orchestrator.token_bucket import Rate, TokenBucket

T = TypeVar("T")

_BLOCK_LIMIT: Final = 4
"""How many times larger than the limit of a decoded header list its encoded form may be."""
TURN_FRAMES: Final = 256
"""Frames of one connection that are taken in one turn of the event loop, about a hundred calls."""
_TURN_S: Final = 0.002
"""Seconds after which no further frame is taken in a turn."""
_UNTIMED_FRAMES: Final = 2
"""Frames before the clock is looked at: a call has no more."""
_CHARGED_BLOCK_BYTES: Final = 2048
"""Decoding so much of a header block takes as much as some other frames that are charged for."""
_SMALL_BYTES: Final = 1024
_WINDOWS_A_CHARGE: Final = 16
_MOST_SKIPPED: Final = 128
_MOST_SPARED: Final = 4096
_MOST_LOOKED_AT: Final = 8
_EVERY_STREAM: Final = 2**31 - 1
_DRAIN_PROBE: Final = b"draining"
_LIFE_PROBE: Final = b"anybody?"


class Connection(Flow, Generic[T]):
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
        goaway: the last stream that the peer will answer; None while it takes all.
        peer_max_streams: streams that the peer takes at a time.
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
        super().__init__(limits, is_server=accept is not None, clock=clock, wake=wake, send_budget=send_budget)
        self._decoder = decoder
        self._accept = accept
        self._born_s = self.now_s
        self.violation: ViolationError | None = None
        self.goaway: int | None = None
        self.peer_max_streams = MAX_WINDOW  # until its SETTINGS say otherwise
        self._reader = FrameReader(
            PREFACE if self.is_server else b"", most_block_bytes=_BLOCK_LIMIT * limits.header_list_bytes
        )
        self._last_stream = 0
        self._skipped: deque[range] = deque(maxlen=_MOST_SKIPPED)  # numbers of streams that were never opened
        self._next_stream = 1
        self._drain: str = ""
        self._pinged_s: float | None = None
        self._fault_rate = Rate(limits.idle_faults_per_s, limits.idle_faults)
        self._fault_bucket = TokenBucket(limits.idle_faults, self.now_s)
        # DATA and HEADERS come first where they are looked up, because they come most.
        self._handlers = {
            DATA: self._take_data,
            HEADERS: self._take_headers,
            PRIORITY: self._take_priority,
            RST_STREAM: self._take_rst_stream,
            SETTINGS: self._take_settings,
            PUSH_PROMISE: self._take_push_promise,
            PING: self._take_ping,
            GOAWAY: self._take_goaway,
            WINDOW_UPDATE: self._take_window_update,
        }

    # --- for the owner ---

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

    def receive(self, data: bytes, *, most_frames: int = TURN_FRAMES) -> bool:
        """Take what came, as much of it as one turn of the loop may take; return whether something is left.

        It is kept, and taken by further calls, with nothing or with what came meanwhile. A violation ends the
        connection, and its reason is among what is to be written.
        """
        if self.violation is not None:
            return False
        self.now_s = self.clock()
        self._pinged_s = None
        handlers = self._handlers
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
            self.write(goaway_frame(self._last_stream, error.code, str(error)))
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
        if not self._drain:
            self._drain = "probing"
            self.write(goaway_frame(_EVERY_STREAM, ErrorCode.NO_ERROR))
            self.write(frame(PING, 0, 0, _DRAIN_PROBE))

    def end_probe(self) -> None:
        """Wait no longer for the answer to the ping of ``drain``, and say which stream is the last."""
        if self._drain == "probing":
            self._drain = "draining"
            self.write(goaway_frame(self._last_stream, ErrorCode.NO_ERROR))

    @property
    def is_drained(self) -> bool:
        """Whether the peer knows which stream is the last, and none is open any more."""
        return self._drain == "draining" and not self.streams

    def check(self) -> None:
        """End what makes no progress; to be called every second or so."""
        now_s = self.clock()
        limits, reader = self.limits, self._reader
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
        return not self.is_over and self.goaway is None and self._next_stream < MAX_WINDOW

    def open(self, receiver: Receiver, block: bytes, body: bytes | None = None) -> Stream:
        """Open a stream to the peer with a header block, and with all its body when it is given."""
        stream = Stream(self, self._next_stream, is_fed=False, receiver=receiver)
        self._next_stream += 2
        self.write(frame(HEADERS, END_HEADERS, stream.id, self.begin_block(block)))
        if body is not None:
            stream.trailers = b""
            stream.send_data(body)
        return stream

    # --- receiving ---

    def _settle(self) -> None:
        charges, self.charges = self.charges, 0
        bucket = self._fault_bucket.refilled_by(self._fault_rate, now_s=self.now_s).spent(charges)
        if bucket is None:
            raise ViolationError(ErrorCode.ENHANCE_YOUR_CALM, "too many resets, pings, empty frames or refused calls")
        self._fault_bucket = bucket

    def _stream(self, number: int) -> Stream | None:
        """Return an open stream, None for one that is closed; one that never was is a violation."""
        stream = self.streams.get(number)
        if stream is None and (number == 0 or self._is_unused(number)):
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {number}, which was never opened")
        return stream

    def _is_unused(self, number: int) -> bool:
        return number % 2 == 0 or (number > self._last_stream if self.is_server else number >= self._next_stream)

    def _take_data(self, payload: bytes, flags: int, number: int) -> None:
        size = len(payload)
        self.receive_window -= size
        if self.receive_window < 0:
            raise ViolationError(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        if flags & PADDED:
            payload = strip_padding(payload, flags)
        is_last = bool(flags & END_STREAM)
        if not payload and not is_last:
            self.charges += 1
        stream = self._stream(number)
        if stream is None:  # reset by us while this was on its way
            self.charges += size < _SMALL_BYTES  # larger ones are the rest of a body, and cost us little
            self.credit_connection(size)
            return
        if stream.is_remote_closed:
            self.credit_connection(size)
            stream.end(ErrorCode.STREAM_CLOSED)
            return
        stream.receive_window -= size
        stream.owed += size
        if stream.receive_window < 0:
            stream.end(ErrorCode.FLOW_CONTROL_ERROR)
            return
        receiver = stream.receiver
        if is_last:
            stream.close_remote()
        if receiver is not None:
            receiver.receive_data(payload, is_last)
        if receiver is None or is_last:
            stream.credit()

    def _take_headers(self, block: bytes, flags: int, number: int) -> None:
        if len(block) >= _CHARGED_BLOCK_BYTES:
            self.charges += len(block) // _CHARGED_BLOCK_BYTES
        # Decoded whatever becomes of the stream: later blocks build on the table.
        meaning = self._decoder.decode(block)
        is_last = bool(flags & END_STREAM)
        stream = self.streams.get(number)
        if stream is None:
            if self._is_unused(number):
                self._take_opening(number, meaning, is_last)
            elif any(number in skipped for skipped in self._skipped):
                raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"stream {number} is opened after {self._last_stream}")
            else:
                self.charges += 1  # reset by us while this was on its way
            return
        if stream.is_remote_closed:
            stream.end(ErrorCode.STREAM_CLOSED)
            return
        receiver = stream.receiver
        if is_last:
            stream.close_remote()
        if receiver is not None:
            receiver.receive_headers(meaning, is_last)

    def _take_opening(self, number: int, meaning: T, is_last: bool) -> None:
        if self._accept is None or number % 2 == 0:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"the peer may not open stream {number}")
        if number > self._last_stream + 2:
            self._skipped.append(range(self._last_stream + 1, number))
        self._last_stream = number
        self.spared_updates += SPARED_UPDATES
        if self._drain == "draining":
            return
        if max(len(self.streams), self.running) >= self.limits.max_streams:
            self.charges += 1
            self.write(rst_stream_frame(number, ErrorCode.REFUSED_STREAM))
            return
        stream = Stream(self, number, is_remote_closed=is_last)
        stream.receiver = receiver = self._accept(stream, meaning)
        if is_last and receiver is not None:
            receiver.receive_data(b"", True)

    def _take_priority(self, payload: bytes, flags: int, number: int) -> None:
        self.charges += 1
        if number == 0:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")

    def _take_rst_stream(self, payload: bytes, flags: int, number: int) -> None:
        self.charges += 1
        stream = self._stream(number)
        if stream is not None:
            stream.forget()
            code = int.from_bytes(payload, "big")
            stream.notify_abort(ErrorCode(code) if code <= max(ErrorCode) else ErrorCode.INTERNAL_ERROR)

    def _take_settings(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        self.charges += 1
        if flags & ACK:
            if payload:
                raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, "an acknowledgement of SETTINGS with content")
            return
        # The last of a name counts; a walk over all streams for each would not do.
        settings = dict(read_settings(payload))
        self.write(frame(SETTINGS, ACK, 0))  # first, because what a larger window lets go must come after it
        for name, value in settings.items():
            if name == INITIAL_WINDOW_SIZE:
                self._change_windows(value - self.initial_window)
            elif name == MAX_FRAME_SIZE:
                self.max_frame = min(value, LARGEST_SENT)
            elif name == MAX_CONCURRENT_STREAMS:
                self.peer_max_streams = value
            elif name == ENABLE_PUSH and value and not self.is_server:
                raise ViolationError(ErrorCode.PROTOCOL_ERROR, "a server that asks to be pushed to")

    def _change_windows(self, change: int) -> None:
        """Apply the peer's new initial window to the streams that are open."""
        self.initial_window += change
        self.charges += len(self.streams) // _WINDOWS_A_CHARGE
        for stream in list(self.streams.values()):
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise ViolationError(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {stream.id} overflows")
            if stream.pending:
                stream.pump()

    def _take_push_promise(self, payload: bytes, flags: int, number: int) -> None:
        raise ViolationError(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE, which nobody asked for")

    def _take_ping(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        self.charges += 1
        if not flags & ACK:
            self.write(frame(PING, ACK, 0, payload))
        elif payload == _DRAIN_PROBE:
            self.end_probe()

    def _take_goaway(self, payload: bytes, flags: int, number: int) -> None:
        if number != 0 or len(payload) < 8:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream, or too short")
        self.charges += 1
        self.goaway = int.from_bytes(payload[:4], "big") & MAX_WINDOW
        if not self.is_server:
            for stream in [stream for stream in self.streams.values() if stream.id > self.goaway]:
                stream.forget()
                stream.notify_abort(ErrorCode.REFUSED_STREAM)

    def _take_window_update(self, payload: bytes, flags: int, number: int) -> None:
        increment = int.from_bytes(payload, "big") & MAX_WINDOW
        if self.spared_updates > 0:
            self.spared_updates = min(self.spared_updates, _MOST_SPARED) - 1
        else:
            self.charges += 1
        if number == 0:
            self.send_window += increment
            if not increment:
                raise ViolationError(ErrorCode.PROTOCOL_ERROR, "the connection's window grows by 0")
            if self.send_window > MAX_WINDOW:
                raise ViolationError(ErrorCode.FLOW_CONTROL_ERROR, f"the connection's window grows by {increment}")
            self.pump_blocked()
            return
        stream = self._stream(number)
        if stream is None:
            return
        stream.send_window += increment
        if not increment or stream.send_window > MAX_WINDOW:
            stream.end(ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR)
        elif stream.pending:
            stream.pump()
