"""gzip and deflate bodies, with a bound on what a small body may grow to."""

from __future__ import annotations

import zlib

from orchestrator.errors import ConfigError

# What zlib.decompressobj takes for the format: 16 more means gzip's header, otherwise zlib's.
_WINDOW_BITS = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
ENCODINGS = tuple(_WINDOW_BITS)
_LEVEL = 1  # tensors hardly compress; more effort costs the event loop's time


class UnsupportedEncodingError(ConfigError):
    """A body is encoded in a way that is not offered."""


class TooLargeError(ConfigError):
    """A body is larger than allowed."""


def decompress(data: bytes, encoding: str, *, limit_bytes: int) -> bytes:
    """Return what a body holds.

    Raises:
        UnsupportedEncodingError: when the encoding is neither gzip nor deflate.
        TooLargeError: when it holds more than allowed.
        ConfigError: when it is damaged.
    """
    if encoding in ("", "identity"):
        return data
    if encoding not in _WINDOW_BITS:
        raise UnsupportedEncodingError("Unsupported compression type")
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        found = unpacker.decompress(data, limit_bytes + 1)
    except zlib.error as exc:
        raise ConfigError(f"the body is no {encoding} data ({exc})") from exc
    if len(found) > limit_bytes:
        raise TooLargeError(f"the body holds more than {limit_bytes} bytes; see gateway.max_message_mib")
    if not unpacker.eof:
        raise ConfigError(f"the body's {encoding} data breaks off")
    return found


def compress(data: bytes, encoding: str) -> bytes:
    """Return a body in one of ENCODINGS."""
    packer = zlib.compressobj(_LEVEL, wbits=_WINDOW_BITS[encoding])
    return packer.compress(data) + packer.flush()


def choose_encoding(accepted: str) -> str | None:
    """Return the encoding to answer in for an Accept-Encoding header, None for none; gzip goes first, as in Triton."""
    wanted = set()
    for part in accepted.lower().split(","):
        name, _, quality = part.strip().partition(";")
        if quality.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000"):
            wanted.add(name.strip())
    return next((encoding for encoding in ENCODINGS if encoding in wanted), None)
