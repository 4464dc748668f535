"""What the frames of a peer do to one end of a connection (RFC 9113 sections 5, 6 and 8).

It is what gRPC uses of HTTP/2 and no more: priorities are ignored, nothing is pushed. What comes on a stream that is
closed is ignored, as by gRPC's own core: the RFC would have STREAM_CLOSED where the peer had ended it, and silence
where we had, for which ended streams would have to be remembered.

What brings nobody an answer (pings, resets of either side, empty frames, refused calls, windows that grow without need)
is charged to the peer; ``connection`` says for how much it is sent away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.flow import SPARED_UPDATES, Flow, Limits
from orchestrator.http2.frames import (
    ACK,
    DATA,
    ENABLE_PUSH,
    END_STREAM,
    GOAWAY,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    MAX_FRAME_SIZE,
    MAX_WINDOW,
    PADDED,
    PING,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    ViolationError,
    frame,
    read_settings,
    rst_stream_frame,
    strip_padding,
)
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.stream import LARGEST_SENT, Receiver, Stream

T = TypeVar("T")

DRAIN_PROBE: Final = b"draining"
"""What a ping says whose answer comes after all that the peer sent before it knew that we leave."""
_CHARGED_BLOCK_BYTES: Final = 2048
"""Decoding so much of a header block takes as much as some other frames that are charged for."""
_SMALL_BYTES: Final = 1024
_WINDOWS_A_CHARGE: Final = 16
_MOST_SKIPPED: Final = 128
_MOST_SPARED: Final = 4096


class Incoming(Flow[Stream], ABC, Generic[T]):
    """The half of a connection that takes frames; the other half, ``Connection``, is its life.

    Attributes:
        handlers: What takes the payload, flags and stream of a frame, by its type. They raise ViolationError.
        last_stream: The last stream that the peer has opened.
        next_stream: The next one that is opened to the peer.
        is_draining: Whether no more streams of the peer are taken.
        goaway: The last stream that the peer will answer; None while it takes all.
        peer_max_streams: Streams that the peer takes at a time.
    """

    def __init__(
        self,
        decoder: HeaderDecoder[T],
        accept: Callable[[Stream, T], Receiver | None] | None,
        limits: Limits,
        *,
        clock: Callable[[], float],
        wake: Callable[[], None],
        send_budget: HeldBudget | None,
    ) -> None:
        super().__init__(limits, is_server=accept is not None, clock=clock, wake=wake, send_budget=send_budget)
        self._decoder = decoder
        self._accept = accept
        self._skipped: deque[range] = deque(maxlen=_MOST_SKIPPED)  # numbers of streams that were never opened
        self.last_stream = 0
        self.next_stream = 1
        self.is_draining = False
        self.goaway: int | None = None
        self.peer_max_streams = MAX_WINDOW  # until its SETTINGS say otherwise
        # DATA and HEADERS come first where they are looked up, because they come most.
        self.handlers: Final = {
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

    @abstractmethod
    def end_probe(self) -> None:
        """Take note that the peer has answered DRAIN_PROBE."""

    def _stream(self, number: int) -> Stream | None:
        """Return an open stream, None for one that is closed; one that never was is a violation."""
        stream = self.streams.get(number)
        if stream is None and (number == 0 or self._is_unused(number)):
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"a frame on stream {number}, which was never opened")
        return stream

    def _is_unused(self, number: int) -> bool:
        return number % 2 == 0 or (number > self.last_stream if self.is_server else number >= self.next_stream)

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
                raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"stream {number} is opened after {self.last_stream}")
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
        if number > self.last_stream + 2:
            self._skipped.append(range(self.last_stream + 1, number))
        self.last_stream = number
        self.spared_updates += SPARED_UPDATES
        if self.is_draining:
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
        elif payload == DRAIN_PROBE:
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
