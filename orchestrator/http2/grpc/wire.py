"""What gRPC writes into HTTP/2: heads, messages, statuses and timeouts; pure.

https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md
"""

from __future__ import annotations

import base64
import binascii
import math
import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, cast
from urllib.parse import quote, unquote_to_bytes

from orchestrator.errors import SlimError
from orchestrator.http2.flow import Buffer
from orchestrator.http2.headers import Field, encode_literals, list_bytes

PREFIX_BYTES: Final = 5
"""Bytes before each message: whether it is compressed, and its length."""
STATUS_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
"""gRPC's statuses in the order of their numbers."""
_STATUS_NUMBERS: Final = {name: str(number).encode() for number, name in enumerate(STATUS_NAMES)}
ENCODINGS: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""Compressions that are understood, with what zlib calls them."""

PIECE_BYTES: Final = 2**18
"""Most of a compressed body that is read, or unpacked, at a time: more takes longer than an event loop can spare."""
_COPIED_BYTES: Final = 2**20
"""A larger message takes longer to copy than an event loop can spare."""
_JOINED_BYTES: Final = 2**14
"""Smaller parts of a message are joined, because each of those that are not is a frame of its own."""
_STATUS_OF: Final = {number: name for name, number in _STATUS_NUMBERS.items()}

RESPONSE_HEADERS: Final = b"\x88" + encode_literals(
    ((b"content-type", b"application/grpc"), (b"grpc-accept-encoding", b"identity,deflate,gzip"))
)
OK_TRAILERS: Final = encode_literals(((b"grpc-status", b"0"),))
MOST_HEADER_BYTES: Final = 16 * 1024
"""Most that gRPC's servers take of a call's headers, by HPACK's count; for several times as much Triton ends the
connection, and with it all that others have under way there."""
_LONGEST_MESSAGE: Final = 1024
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) != "%")
_TIMEOUT: Final = re.compile(rb"(\d{1,8})([HMSmun])")
_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_LENGTH: Final = re.compile(rb"[0-9]{1,19}")
_NAME: Final = re.compile(rb"[0-9a-z_.\-!#$%&'*+^`|~]+")
_CONNECTION_FIELDS: Final = frozenset(
    (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
_PSEUDO: Final = frozenset((b":method", b":path", b":scheme", b":authority"))
_NOT_METADATA: Final = frozenset((b"te", b"content-type", b"content-length"))


Metadata = Sequence[tuple[str, str | bytes]]


class RpcError(SlimError):
    """A call that ends with a status other than OK, by gRPC's name, and a message.

    It may be made again after ``retry_after_s``; None when nothing is said of that.
    """

    def __init__(self, status: str, detail: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class RequestHead:
    """What the headers of a call say.

    Attributes:
        path: ``/service/method``.
        metadata: what the client sends along; what ends in ``-bin`` is bytes.
        timeout_s: how long the client waits; None: any time.
        encoding: how its compressed messages are compressed.
        content_bytes: size of the body as announced; None: it was not.
        problem: an HTTP status to refuse with, because this is no gRPC call; 0: it is one.
        is_malformed: whether the headers break HTTP's own rules.
        is_too_large: whether there are more headers than allowed.
    """

    path: str = ""
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    timeout_s: float | None = None
    encoding: str = "identity"
    content_bytes: int | None = None
    problem: int = 0
    is_malformed: bool = False
    is_too_large: bool = False


MALFORMED: Final = RequestHead(is_malformed=True)
TRAILERS: Final = RequestHead(is_malformed=True)
"""What ends a request; it can't begin one. gRPC has none, so nobody looks at what it says. Compared by identity."""


def read_request_head(fields: list[Field], *, max_list_bytes: int) -> RequestHead:
    """Return what the fields of a request say."""
    pseudo: dict[bytes, bytes] = {}
    regular: list[Field] = []
    for name, value in fields:
        if name.startswith(b":"):
            if regular or name in pseudo or name not in _PSEUDO:
                return MALFORMED
            pseudo[name] = value
        elif _is_malformed(name, value):
            return MALFORMED
        else:
            regular.append((name, value))
    if not pseudo:
        return TRAILERS
    found = dict(regular)
    lengths = {value for name, value in regular if name == b"content-length"} if b"content-length" in found else set()
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        return MALFORMED
    path = pseudo.get(b":path", b"")
    if not path or b":method" not in pseudo or b":scheme" not in pseudo or _has_control(path):
        return MALFORMED
    if pseudo[b":method"] != b"POST":
        return RequestHead(problem=405)
    kind = found.get(b"content-type", b"")
    if not (kind == b"application/grpc" or kind.startswith((b"application/grpc+", b"application/grpc;"))):
        return RequestHead(problem=415)
    timeout = found.get(b"grpc-timeout")
    timeout_s = None if timeout is None else read_timeout_s(timeout)
    if timeout_s is not None and math.isnan(timeout_s):
        return RequestHead(problem=400)
    return RequestHead(
        path=path.decode("latin-1"),
        metadata=_read_metadata(regular),
        timeout_s=timeout_s,
        encoding=found.get(b"grpc-encoding", b"identity").decode("latin-1"),
        content_bytes=int(lengths.pop()) if lengths else None,
        is_too_large=list_bytes(fields) > max_list_bytes,
    )


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """What the headers or trailers of an answer say.

    Attributes:
        http_status: HTTP's own status; 0 in trailers.
        status: gRPC's name of the call's status; None when it does not stand here.
        detail: the message of that status.
    """

    http_status: int = 0
    status: str | None = None
    detail: str = ""


def read_response_head(fields: list[Field]) -> ResponseHead:
    """Return what the fields of an answer say; what is no number or unknown is taken for no success."""
    found = dict(fields)
    http = found.get(b":status", b"0")
    number = found.get(b"grpc-status")
    status = None if number is None else _STATUS_OF.get(number, "UNKNOWN")
    detail = unquote_to_bytes(found.get(b"grpc-message", b"")).decode(errors="replace")
    return ResponseHead(int(http) if http.isdigit() else 500, status, detail)


def request_headers(path: str, authority: str, metadata: Metadata) -> bytes:
    """Return the header block of a call; raises RpcError when it is more than servers take."""
    fields = [
        (b":path", path.encode()),
        (b":authority", authority.encode()),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"user-agent", b"slim-scheduler"),
    ]
    for name, value in metadata:
        raw = base64.b64encode(value).rstrip(b"=") if isinstance(value, bytes) else value.encode("latin-1", "replace")
        fields.append((name.encode(), raw))
    if (size := list_bytes(fields)) > MOST_HEADER_BYTES:
        raise RpcError(
            "RESOURCE_EXHAUSTED",
            f"the metadata takes {size} bytes, 32 of them for each value, and servers take {MOST_HEADER_BYTES}; "
            "send less",
        )
    return b"\x83\x86" + encode_literals(fields)  # POST and http, from the static table


def _is_malformed(name: bytes, value: bytes) -> bool:
    if not _NAME.fullmatch(name) or name in _CONNECTION_FIELDS:
        return True
    return _has_control(value) or (name == b"te" and value != b"trailers")


def _has_control(value: bytes) -> bool:
    return b"\0" in value or b"\r" in value or b"\n" in value


def _read_metadata(fields: list[Field]) -> tuple[tuple[str, str | bytes], ...]:
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name in _NOT_METADATA or name.startswith(b"grpc-"):
            continue
        key = name.decode("ascii")
        if name.endswith(b"-bin"):
            found += ((key, part) for part in map(_from_base64, value.split(b",")) if part is not None)
        else:
            found.append((key, value.decode("latin-1")))
    return tuple(found)


def _from_base64(text: bytes) -> bytes | None:
    try:
        return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        return None


def read_timeout_s(text: bytes) -> float:
    """Return what a ``grpc-timeout`` says, NaN when it says nothing."""
    found = _TIMEOUT.fullmatch(text)
    return math.nan if found is None else int(found[1]) * _UNITS_S[found[2]]


def trailers(status: str, detail: str, *, is_only: bool, retry_after_s: float | None = None) -> bytes:
    """Return the header block that ends a call with a status; ``is_only`` when no headers went before.

    A very long detail is cut, because gRPC's clients take 8 KiB of headers. ``retry_after_s`` is sent as
    ``grpc-retry-pushback-ms``, by which gRPC's own retries wait (gRFC A6).
    """
    fields = [(b"grpc-status", _STATUS_NUMBERS[status])]
    if detail:
        text = detail.encode(errors="replace")[:_LONGEST_MESSAGE].decode(errors="ignore")
        fields.append((b"grpc-message", quote(text, safe=_PLAIN).encode()))
    if retry_after_s is not None:
        fields.append((b"grpc-retry-pushback-ms", b"%d" % math.ceil(retry_after_s * 1e3)))
    return (RESPONSE_HEADERS if is_only else b"") + encode_literals(fields)


def http_refusal(status: int) -> bytes:
    """Return the header block of an answer in plain HTTP to what is no gRPC call."""
    return encode_literals(((b":status", str(status).encode()),))


def pack_message(message: bytes) -> bytes:
    """Return a message with its prefix, not compressed."""
    return b"\0" + len(message).to_bytes(4, "big") + message


def message_parts(message: Buffer, *more: Buffer) -> tuple[Buffer, ...]:
    """Return a message, given whole or in parts, with its prefix; a large part stays where it is.

    Copying it would take too long.
    """
    size = len(message) + sum(map(len, more))
    small = b"\0" + size.to_bytes(4, "big")
    if size <= _COPIED_BYTES:
        return (b"".join((small, message, *more)),)
    parts: list[Buffer] = []
    for part in (message, *more):
        if len(part) <= _JOINED_BYTES:
            small += part
        else:
            parts += (small, part)
            small = b""
    return tuple(filter(None, (*parts, small)))


def collect(found: bytes | bytearray, piece: bytes) -> bytes | bytearray:
    """Return what was found of a body with one more piece; from the second on it grows in place."""
    if not found:
        return piece
    found = found if isinstance(found, bytearray) else bytearray(found)
    found += piece
    return found


def strip_prefix(body: bytes | bytearray) -> bytes:
    """Return the message of a body without its prefix; a large one stays where it is, and its owner must let go."""
    if isinstance(body, bytearray) and len(body) > _COPIED_BYTES:
        del body[:PREFIX_BYTES]  # moves nothing
        return cast(bytes, body)
    return bytes(memoryview(body)[PREFIX_BYTES:])


def message_bytes(prefix: bytes | bytearray, max_bytes: int) -> int:
    """Return the length that a message's prefix says; raises RpcError when it is more than allowed."""
    size = int.from_bytes(prefix[1:PREFIX_BYTES], "big")
    if size > max_bytes:
        raise RpcError("RESOURCE_EXHAUSTED", f"the message has {size} bytes, at most {max_bytes} are taken")
    return size


def next_message_bytes(buffer: bytearray, max_bytes: int) -> int | None:
    """Return the bytes of the message that a buffer begins with, or None while it is not whole; raises RpcError."""
    if len(buffer) < PREFIX_BYTES:
        return None
    size = PREFIX_BYTES + message_bytes(buffer, max_bytes)
    return size if size <= len(buffer) else None


def split_message(buffer: bytearray, size: int) -> tuple[int, bytes, bytearray]:
    """Return the compression flag and the payload of the first message in a buffer, and what is left after it.

    The message has ``size`` bytes with its prefix. A large one stays where it is, so its buffer is its own from now on.
    """
    flag = buffer[0]
    if size > _COPIED_BYTES:
        rest = buffer[size:]
        del buffer[size:]
        return flag, strip_prefix(buffer), rest
    payload = bytes(memoryview(buffer)[PREFIX_BYTES:size])
    del buffer[:size]
    return flag, payload, buffer


def inflate(data: Buffer, encoding: str) -> Iterator[bytes]:
    """Yield what compressed data holds, which may be a thousand times as much, by pieces of at most ``PIECE_BYTES``.

    Raises zlib.error when it is damaged, and EOFError when it breaks off.
    """
    unpacker = zlib.decompressobj(ENCODINGS[encoding])
    left = memoryview(data)
    while not unpacker.eof:
        feed: Buffer = unpacker.unconsumed_tail
        if not feed:  # no more at a time, because what is left of it is copied each time
            feed, left = left[:PIECE_BYTES], left[PIECE_BYTES:]
        piece = unpacker.decompress(feed, PIECE_BYTES)
        if piece:
            yield piece
        elif not feed and not unpacker.eof:
            raise EOFError


def unpack(flag: int, payload: bytes, encoding: str, max_bytes: int) -> Iterator[bytes]:
    """Yield a compressed message piece by piece, as ``inflate`` does.

    ``flag`` is what its prefix began with, ``encoding`` what ``grpc-encoding`` says. Raises RpcError when it is not
    compressed, in a way that is not understood, damaged, or larger than allowed.
    """
    if flag != 1 or encoding == "identity":
        raise RpcError("INTERNAL", f"a message has the compression flag {flag}, with encoding '{encoding}'")
    if encoding not in ENCODINGS:
        known = ", ".join(ENCODINGS)
        raise RpcError("UNIMPLEMENTED", f"compression '{encoding}' is not understood; take one of {known}")
    left_bytes = max_bytes
    try:
        for piece in inflate(payload, encoding):
            left_bytes -= len(piece)
            if left_bytes < 0:
                raise RpcError("RESOURCE_EXHAUSTED", f"the message holds more than {max_bytes} bytes")
            yield piece
    except zlib.error as exc:
        raise RpcError("INTERNAL", f"a message is no {encoding} data ({exc})") from exc
    except EOFError:
        raise RpcError("INTERNAL", f"a message's {encoding} data breaks off") from None


def unpack_message(flag: int, payload: bytes, encoding: str, max_bytes: int) -> bytes:
    """Return a message whose prefix began with ``flag``; raises RpcError when it can't be unpacked or is too large."""
    if flag == 0:
        return payload
    return b"".join(unpack(flag, payload, encoding, max_bytes))
