"""The streams of a connection and their windows, both ways: what is sent when, and what the peer may send.

An answer that fits is one write. What a window or the transport holds back waits with its stream; those that their own
window would let go on take turns, so that one with much to send does not hold up the others.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from orchestrator.http2.frames import (
    DATA,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FRAME_HEADER,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    ErrorCode,
    ViolationError,
    frame,
    rst_stream_frame,
    window_update_frame,
)
from orchestrator.http2.limits import Limits
from orchestrator.http2.stream import Stream

LARGEST_SENT: Final = 65536
"""Of a DATA frame, whatever the peer takes, so that large answers do not hold up small ones."""


_LAST_HEADERS: Final = END_HEADERS | END_STREAM
_NO_TABLE: Final = b"\x20"
"""At the beginning of a header block: the sender's table has no bytes from now on."""


class Flow:
    """What a connection has open, and what of it is on its way out.

    Args:
        limits: of what the peer may send.
        is_server: whether the peer is a client.
        clock: seconds, monotonic.
        wake: called when there is something to write after there was nothing.

    Attributes:
        now_s: when something last came.
        running: calls that have not ended, streams that are gone included; counted by the user.
        is_over: whether the connection is gone.
        is_paused: whether the transport takes no more; the owner sets it, and calls ``resume``.
        flush: lets out at once what would go out at the end of the loop's turn, for whoever knows that nothing will
            join it; the owner sets it.
    """

    def __init__(
        self, limits: Limits, *, is_server: bool, clock: Callable[[], float], wake: Callable[[], None]
    ) -> None:
        self._limits = limits
        self._is_server = is_server
        self.clock = clock
        self._wake = wake
        self.now_s = clock()
        self.running = 0
        self.is_over = False
        self.is_paused = False
        self.flush: Callable[[], None] = _do_nothing
        self._out: list[bytes | memoryview] = []
        self._streams: dict[int, Stream] = {}
        self._blocked: dict[int, Stream] = {}  # held back by the connection's window or the transport, not their own
        self._send_window = DEFAULT_WINDOW
        self._initial_window = DEFAULT_WINDOW
        self._max_frame = MAX_FRAME_BYTES
        self._receive_window = limits.connection_window_bytes
        self._owed = 0
        self._block_prefix = _NO_TABLE

    @property
    def is_idle(self) -> bool:
        """Whether no stream is open."""
        return not self._streams

    @property
    def open_streams(self) -> int:
        """How many are open."""
        return len(self._streams)

    def take_out(self) -> bytes:
        """Return what is to be written, and forget it."""
        out = self._out
        data = b"".join(out)
        out.clear()
        return data

    def resume(self) -> None:
        """Go on sending: the transport takes more again."""
        self.is_paused = False
        self.pump_blocked()

    def send_whole(self, stream: Stream, headers: bytes, body: bytes, trailers: bytes) -> None:
        """Send a whole answer, in one piece when the peer takes it."""
        size = len(body)
        if stream.is_local_closed:
            return
        if size > stream.send_window or size > self._send_window or size > self._max_frame or self.is_paused:
            self.send_headers(stream, headers)
            stream.send_data(body)
            stream.finish(trailers)
            return
        number = stream.id
        headers = self.begin_block(headers)
        stream.send_window -= size
        self._send_window -= size
        self.write(
            b"".join(
                (
                    FRAME_HEADER.pack(len(headers) >> 8, len(headers) & 0xFF, HEADERS, END_HEADERS, number),
                    headers,
                    FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, 0, number),
                    body,
                    FRAME_HEADER.pack(len(trailers) >> 8, len(trailers) & 0xFF, HEADERS, _LAST_HEADERS, number),
                    trailers,
                )
            )
        )
        self._close_local(stream)

    def send_headers(self, stream: Stream, block: bytes, *, is_last: bool = False) -> None:
        """Send a header block."""
        if not stream.is_local_closed:
            flags = END_HEADERS | (END_STREAM if is_last else 0)
            self.write(frame(HEADERS, flags, stream.id, self.begin_block(block)))
            if is_last:
                self._close_local(stream)

    def begin_block(self, block: bytes) -> bytes:
        """Return a header block as it is to be sent.

        The first one gives the table up that it does not use, as a peer whose SETTINGS allow a smaller one insists on.
        """
        prefix, self._block_prefix = self._block_prefix, b""
        return prefix + block if prefix else block

    def pump(self, stream: Stream) -> None:
        """Send as much of what is pending as the peer takes."""
        pending = stream.pending
        before = stream.pending_bytes
        while pending and not self.is_paused:
            room = min(stream.send_window, self._send_window, self._max_frame)
            if room <= 0:
                break
            chunk = pending[0]
            if len(chunk) <= room:
                pending.popleft()
            else:
                pending[0], chunk = chunk[room:], chunk[:room]
            size = len(chunk)
            stream.send_window -= size
            self._send_window -= size
            stream.pending_bytes -= size
            is_last = not pending and stream.trailers == b""
            flags = END_STREAM if is_last else 0
            self.write(FRAME_HEADER.pack(size >> 8, size & 0xFF, DATA, flags, stream.id))
            self._out.append(chunk)
            if is_last:
                self._close_local(stream)
        if stream.pending_bytes < before:
            stream.progress_s = self.clock()
        if pending:
            if stream.send_window > 0:
                self._blocked[stream.id] = stream
            else:
                self._blocked.pop(stream.id, None)
            return
        self._blocked.pop(stream.id, None)
        if stream.trailers is not None and not stream.is_local_closed:
            self._end_sending(stream)
        if before and (on_writable := stream.on_writable) is not None:
            stream.on_writable = None
            on_writable()

    def credit(self, stream: Stream) -> None:
        """Let the peer send again what was taken; told once it is worth a frame."""
        owed, stream.owed = stream.owed, 0
        self.credit_connection(owed)
        if stream.is_remote_closed:
            return
        stream.progress_s = self.now_s
        lacking = self._limits.stream_window_bytes - stream.receive_window
        if lacking * 2 >= self._limits.stream_window_bytes:
            stream.receive_window += lacking
            self.write(window_update_frame(stream.id, lacking))

    def reset(self, stream: Stream, code: ErrorCode) -> None:
        """Tell the peer that a stream has ended, and forget it."""
        if self._streams.pop(stream.id, None) is not None:
            self.write(rst_stream_frame(stream.id, code))
            self.forget(stream)

    def write(self, data: bytes) -> None:
        """Say something; it goes out at the end of the loop's turn."""
        if not self._out:
            self._wake()
        self._out.append(data)

    def _end_sending(self, stream: Stream) -> None:
        if stream.trailers:
            self.write(frame(HEADERS, END_HEADERS | END_STREAM, stream.id, stream.trailers))
        else:
            self.write(frame(DATA, END_STREAM, stream.id))
        self._close_local(stream)

    def _close_local(self, stream: Stream) -> None:
        stream.is_local_closed = True
        if stream.is_remote_closed:
            self._streams.pop(stream.id, None)
            if stream.owed:
                self.forget(stream)
        elif self._is_server:  # an answer before the request has come whole: the rest is not wanted
            self.reset(stream, ErrorCode.NO_ERROR)

    def forget(self, stream: Stream) -> None:
        """Let go of what a closed stream holds."""
        stream.is_local_closed = stream.is_remote_closed = True
        stream.pending.clear()
        stream.pending_bytes = 0
        self._blocked.pop(stream.id, None)
        owed, stream.owed = stream.owed, 0
        self.credit_connection(owed)

    def end(self, stream: Stream, code: ErrorCode) -> None:
        """Reset a stream and tell its receiver."""
        self.reset(stream, code)
        self.tell_abort(stream, code)

    def tell_abort(self, stream: Stream, code: ErrorCode) -> None:
        """Tell the receiver of a stream that it is gone."""
        stream.on_writable = None
        if stream.receiver is not None:
            stream.receiver.abort(code)

    def pump_blocked(self) -> None:
        """Go on with the streams that waited for the connection."""
        for stream in list(self._blocked.values()):
            if self._send_window <= 0 or self.is_paused:
                return
            # To the end of the row, so that one with much to send does not hold up the others.
            self._blocked.pop(stream.id, None)
            self.pump(stream)

    def credit_connection(self, size: int) -> None:
        """Let the peer send so much again, on any stream; told once it is worth a frame."""
        self._owed += size
        if self._owed * 2 >= self._limits.connection_window_bytes:
            self._receive_window += self._owed
            self.write(window_update_frame(0, self._owed))
            self._owed = 0

    def change_windows(self, change: int) -> None:
        """Apply the peer's new initial window to the streams that are open.

        Raises:
            ViolationError: when one would exceed the largest window there is.
        """
        self._initial_window += change
        for stream in list(self._streams.values()):
            stream.send_window += change
            if stream.send_window > MAX_WINDOW:
                raise ViolationError(ErrorCode.FLOW_CONTROL_ERROR, f"the window of stream {stream.id} overflows")
            if stream.pending:
                self.pump(stream)


def _do_nothing() -> None:
    pass
