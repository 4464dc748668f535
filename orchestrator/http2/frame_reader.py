"""Frames out of the bytes that come on a connection, header blocks made whole; pure (RFC 9113, 4.1 and 6.10)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from orchestrator.http2.frames import (
    ACK,
    CONTINUATION,
    END_HEADERS,
    FRAME_HEADER,
    HAS_PRIORITY,
    HEADER_BYTES,
    HEADERS,
    MAX_FRAME_BYTES,
    PADDED,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    ViolationError,
    strip_padding,
    strip_priority,
)

_MOST_CONTINUATIONS: Final = 64
_BLOCK_FLAGS: Final = END_HEADERS | PADDED | HAS_PRIORITY
_SIZES: Final = {
    PRIORITY: (5, "PRIORITY"),
    RST_STREAM: (4, "RST_STREAM"),
    PING: (8, "PING"),
    WINDOW_UPDATE: (4, "WINDOW_UPDATE"),
}
"""Payload bytes of the frames that have a fixed size, and their names."""


class FrameReader:
    """Splits what one peer sends, after its preface.

    A header block that comes in several frames may have ``most_block_bytes`` in its encoded form.

    Attributes:
        is_open: whether SETTINGS have come, before which nothing else may.
        block_since_s: when the header block began that has not come whole; None when there is none.
    """

    def __init__(self, preface: bytes, *, most_block_bytes: int) -> None:
        self._preface = preface
        self._most_block_bytes = most_block_bytes
        self._rest = b""
        self._block: tuple[int, int] | None = None  # stream and flags of a header block that goes on
        self._parts: list[bytes] = []
        self.is_open = False
        self.block_since_s: float | None = None

    def read(self, data: bytes, *, now_s: float) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield type, flags, stream and payload of each frame that has come whole.

        A header block comes as one HEADERS frame, without padding and priority, whatever it was sent in.

        Raises:
            ViolationError: when no more can be read from this peer.
        """
        data, self._rest = self._rest + data if self._rest else data, b""
        position, end = self._skip_preface(data) if self._preface else 0, len(data)
        while end - position >= HEADER_BYTES:
            high, low, kind, flags, stream = FRAME_HEADER.unpack_from(data, position)
            size = high << 8 | low
            if size > MAX_FRAME_BYTES:
                raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, f"a frame of {size} bytes")
            begin = position + HEADER_BYTES
            after = begin + size
            if after > end:
                break
            payload, position = data[begin:after], after
            if kind > HEADERS or self._block is not None or not self.is_open:  # DATA and HEADERS come most
                self._check(kind, flags, size)
            number = stream & 0x7FFFFFFF
            # The usual block comes in one frame with nothing but the block in it.
            if kind == CONTINUATION or (kind == HEADERS and (flags & _BLOCK_FLAGS != END_HEADERS or number == 0)):
                take = self._begin_block if kind == HEADERS else self._continue_block
                whole = take(payload, flags, number, now_s)
                if whole is None:
                    continue
                kind, (flags, payload) = HEADERS, whole
            yield kind, flags, number, payload
        self._rest = data[position:]

    def _skip_preface(self, data: bytes) -> int:
        """Return where the first frame begins."""
        size = min(len(data), len(self._preface))
        if data[:size] != self._preface[:size]:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "this is no HTTP/2 with prior knowledge")
        self._preface = self._preface[size:]
        return size

    def _check(self, kind: int, flags: int, size: int) -> None:
        """Raise ViolationError when a frame may not come now, or has the wrong size."""
        if (self._block is not None) is not (kind == CONTINUATION):
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "a header block is interrupted, or goes on from nothing")
        if not self.is_open:
            if kind != SETTINGS:
                raise ViolationError(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
            self.is_open = not flags & ACK
        wanted, name = _SIZES.get(kind, (size, ""))
        if size != wanted:
            raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, f"{name} of {size} bytes, not {wanted}")

    def _begin_block(self, payload: bytes, flags: int, number: int, now_s: float) -> tuple[int, bytes] | None:
        """Return the flags and the block of a HEADERS frame, None when it goes on."""
        if number == 0:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (PADDED | HAS_PRIORITY):
            payload = strip_priority(strip_padding(payload, flags), flags)
        if flags & END_HEADERS:
            return flags, payload
        self._block, self._parts, self.block_since_s = (number, flags), [payload], now_s
        return None

    def _continue_block(self, payload: bytes, flags: int, number: int, now_s: float) -> tuple[int, bytes] | None:
        """Return the flags and the whole of a block, None when it still goes on."""
        assert self._block is not None  # ``read`` lets no other through
        if number != self._block[0]:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, "CONTINUATION of another stream's header block")
        parts = self._parts
        parts.append(payload)
        if len(parts) > _MOST_CONTINUATIONS or sum(map(len, parts)) > self._most_block_bytes:
            raise ViolationError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that does not come to its end")
        if not flags & END_HEADERS:
            return None
        whole = self._block[1], b"".join(parts)
        self._block, self._parts, self.block_since_s = None, [], None
        return whole
