"""Header blocks: decoding by the ``hpack`` library behind a cache, encoding as plain literals.

Decoding a block in Python costs some 60 µs, and a gRPC client sends the same few bytes for every call to one method,
because the fields are in the dynamic table after the first. As long as that table does not change, equal bytes mean
equal fields; so what a block was found to mean is kept until it does.

What we send is constant but for the errors, so it is written as literals that touch no table: a few dozen bytes more
on the wire, and no state.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

import hpack
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

from orchestrator.http2.frames import ErrorCode, ViolationError
from orchestrator.http2.huffman import speed_up_hpack

# At level debug it logs every field that it decodes: clients' tokens among them.
logging.getLogger("hpack").setLevel(logging.INFO)
speed_up_hpack()

T = TypeVar("T")
Field = tuple[bytes, bytes]

_MOST_BLOCKS: Final = 64
_LARGEST_BLOCK: Final = 4096
_SAFETY: Final = 4
"""Lists beyond the announced limit are refused one by one; those so many times larger end the connection."""


class _CountingTable(HeaderTable):
    """A header table that shows whether it was added to."""

    def __init__(self) -> None:
        super().__init__()
        self.additions = 0

    def add(self, name: bytes, value: bytes) -> None:
        self.additions += 1
        super().add(name, value)


class HeaderDecoder(Generic[T]):
    """Turns the header blocks of one connection into what they mean, in the order they come.

    ``interpret`` is a pure function of the fields; it judges lists beyond ``max_list_bytes``, by HPACK's count, up to
    four times as much.
    """

    def __init__(self, interpret: Callable[[list[Field]], T], *, max_list_bytes: int) -> None:
        self._interpret = interpret
        self._table = _CountingTable()
        self._decoder = hpack.Decoder(max_header_list_size=_SAFETY * max_list_bytes)
        self._decoder.header_table = self._table
        self._known: dict[bytes, T] = {}

    def decode(self, block: bytes) -> T:
        """Return what a block means; raises ViolationError when it can't be decoded; then no later one can."""
        known = self._known.get(block)
        if known is not None:
            return known
        additions = self._table.additions
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except hpack.OversizedHeaderListError as exc:
            raise ViolationError(ErrorCode.ENHANCE_YOUR_CALM, "header list far beyond the limit") from exc
        except (hpack.HPACKError, IndexError, ValueError) as exc:
            raise ViolationError(ErrorCode.COMPRESSION_ERROR, f"header block can't be decoded: {exc}") from exc
        meaning = self._interpret(fields)
        resizes = bool(block) and block[0] & 0xE0 == 0x20  # such an instruction stands first
        if resizes or self._table.additions != additions:
            self._known.clear()
        elif len(block) <= _LARGEST_BLOCK:
            if len(self._known) >= _MOST_BLOCKS:
                self._known.clear()
            self._known[block] = meaning
        return meaning


def encode_literals(fields: Iterable[Field]) -> bytes:
    """Return a header block of literals without indexing."""
    return b"".join(b"\x00" + _encode_string(name) + _encode_string(value) for name, value in fields)


def _encode_string(text: bytes) -> bytes:
    length = len(text)
    if length < 127:  # most are, and the library takes longer
        return bytes((length,)) + text
    return bytes(encode_integer(length, 7)) + text


def list_bytes(fields: Iterable[Field]) -> int:
    """Return the size of a header list by HPACK's count, 32 bytes a field beside its text."""
    return sum(len(name) + len(value) + 32 for name, value in fields)
