"""HTTP/2 frames as bytes (RFC 9113 sections 4 and 6); pure.

Plain integers instead of enums and objects: a frame is read for every request, and an ``IntEnum`` member costs as much
as the whole header. What a peer may get wrong is told by ``ViolationError``, which ends its connection.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
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
    """A peer broke the protocol in a way that its connection can't survive.

    Attributes:
        code: what the peer is told.
    """

    def __init__(self, code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return one frame; the caller keeps ``payload`` within the peer's frame size."""
    size = len(payload)
    return FRAME_HEADER.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings_frame(settings: Iterable[tuple[int, int]]) -> bytes:
    """Return a SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*setting) for setting in settings))


def read_settings(payload: bytes) -> Iterator[tuple[int, int]]:
    """Yield the settings of a frame, checked; unknown ones are left out.

    Raises:
        ViolationError: when a value is out of its range.
    """
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
    """Return a RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update_frame(stream: int, increment: int) -> bytes:
    """Return a WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway_frame(last_stream: int, code: ErrorCode, reason: str = "") -> bytes:
    """Return a GOAWAY frame with a reason for whoever debugs it."""
    return frame(GOAWAY, 0, 0, struct.pack(">LL", last_stream, code) + reason.encode()[:200])


def strip_padding(payload: bytes, flags: int) -> bytes:
    """Return what a DATA or HEADERS frame carries without its padding.

    Raises:
        ViolationError: when there is more padding than frame.
    """
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ViolationError(ErrorCode.PROTOCOL_ERROR, "more padding than the frame holds")
    return payload[1 : len(payload) - payload[0]]


def strip_priority(payload: bytes, flags: int) -> bytes:
    """Return a HEADERS payload without its priority, which is deprecated and ignored.

    Raises:
        ViolationError: when it is too short to hold one.
    """
    if not flags & HAS_PRIORITY:
        return payload
    if len(payload) < 5:
        raise ViolationError(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
    return payload[5:]
