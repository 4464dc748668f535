"""HTTP/2 frames as bytes, and out of the bytes that come on a connection (RFC 9113 sections 4 and 6); pure.

Plain integers instead of enums and objects: a frame is read for every request, and an ``IntEnum`` member costs as much
as the whole header. What a peer may get wrong raises ``ViolationError``, which ends its connection.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Iterator
from enum import IntEnum
from typing import Final

from orchestrator.errors import PermanentError

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_BYTES: Final = 9
MAX_FRAME_BYTES: Final = 16384
"""The least that every peer takes, and the most that we take: larger frames gain nothing on small messages."""
MAX_WINDOW: Final = 2**31 - 1
DEFAULT_WINDOW: Final = 65535

DATA: Final = 0
HEADERS: Final = 1
PRIORITY: Final = 2
RST_STREAM: Final = 3
SETTINGS: Final = 4
PUSH_PROMISE: Final = 5
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
CONTINUATION: Final = 9

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
HAS_PRIORITY: Final = 0x20

HEADER_TABLE_SIZE: Final = 1
ENABLE_PUSH: Final = 2
MAX_CONCURRENT_STREAMS: Final = 3
INITIAL_WINDOW_SIZE: Final = 4
MAX_FRAME_SIZE: Final = 5
MAX_HEADER_LIST_SIZE: Final = 6

FRAME_HEADER: Final = struct.Struct(">HBBBL")
"""Length in two parts, type, flags, stream."""
_SETTING = struct.Struct(">HL")
_MOST_CONTINUATIONS: Final = 64
_BLOCK_FLAGS: Final = END_HEADERS | PADDED | HAS_PRIORITY
_SIZES: Final = {
    PRIORITY: (5, "PRIORITY"),
    RST_STREAM: (4, "RST_STREAM"),
    PING: (8, "PING"),
    WINDOW_UPDATE: (4, "WINDOW_UPDATE"),
}
"""Payload bytes of the frames that have a fixed size, and their names."""


class ErrorCode(IntEnum):
    """Why a stream or a connection ends; the names are the RFC's."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ViolationError(PermanentError):
    """A peer broke the protocol in a way that its connection can't survive; ``code`` is the reason that it gets."""

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; the caller keeps ``payload`` within the peer's frame size."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame of names and values."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the settings of a frame that are known; raises ViolationError when a value is out of its range."""
    if len(payload) % _SETTING.size:
        raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, no multiple of 6")
    for name, value in _SETTING.iter_unpack(payload):
        if name == INITIAL_WINDOW_SIZE and value > MAX_WINDOW:
            raise ViolationError(ErrorCode.FLOW_CONTROL_ERROR, f"SETTINGS_INITIAL_WINDOW_SIZE is {value}")
        if name == MAX_FRAME_SIZE and not MAX_FRAME_BYTES <= value < 2**24:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_MAX_FRAME_SIZE is {value}")
        if name == ENABLE_PUSH and value > 1:
            raise ViolationError(ErrorCode.PROTOCOL_ERROR, f"SETTINGS_ENABLE_PUSH is {value}")
        if HEADER_TABLE_SIZE <= name <= MAX_HEADER_LIST_SIZE:
            yield name, value


def rst_stream_frame(stream: int, code: ErrorCode) -> bytes:
    """Return a RST_STREAM frame that ends a stream for a reason."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update_frame(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway_frame(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY frame with a reason for whoever debugs it."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + reason.encode()[:200])


def strip_padding(payload: bytes, flags: int) -> bytes:
    """Return a DATA or HEADERS payload without its padding; raises ViolationError when that is more than the frame."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ViolationError(ErrorCode.PROTOCOL_ERROR, "more padding than the frame holds")
    return payload[1 : len(payload) - payload[0]]


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

    @property
    def unread_bytes(self) -> int:
        """The bytes that have come and were not taken."""
        return len(self._rest)

    def read(self, data: bytes, *, now_s: float) -> Generator[tuple[int, int, int, bytes], None, None]:
        """Yield type, flags, stream and payload of each frame that has come whole.

        A header block comes as one HEADERS frame, without padding and priority, whatever it was sent in. A reader that
        stops early closes this, and what it left comes first the next time.

        Raises:
            ViolationError: when no more can be read from this peer.
        """
        data, self._rest = self._rest + data if self._rest else data, b""
        position, end = self._skip_preface(data) if self._preface else 0, len(data)
        try:
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
        finally:
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
        payload = strip_padding(payload, flags)
        if flags & HAS_PRIORITY:  # deprecated and ignored
            if len(payload) < 5:
                raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
            payload = payload[5:]
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
