"""Huffman's code in header blocks (RFC 7541 section 5.2), decoded a byte at a step.

The ``hpack`` library steps by half bytes, 5 MB a second: whoever sends such blocks fills a core before anybody has
asked for a token. This takes a fifth of that, from a table that is made of the library's before anybody calls.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Final

import hpack.hpack
from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import HUFFMAN_COMPLETE, HUFFMAN_EMIT_SYMBOL, HUFFMAN_FAIL, HUFFMAN_TABLE

_Row = list[Any]
"""For each byte the next row and the text that is complete with it; last, whether text may end here."""
_ENDS: Final = 256


@cache
def first_row() -> _Row:
    """Return the row to begin with; the others hang on it.

    The first call takes some 50 ms, so it is to be made before anybody waits.
    """
    count = len(HUFFMAN_TABLE) // 16
    rows: list[_Row] = [[] for _ in range(count)]
    nowhere: _Row = []
    nowhere += [(nowhere, b"")] * _ENDS + [False]
    may_end = [False] * count
    may_end[0] = True
    for state, row in enumerate(rows):
        for byte in range(_ENDS):
            text, flags, following = b"", 0, state
            for half in (byte >> 4, byte & 15):
                following, flags, symbol = HUFFMAN_TABLE[following * 16 + half]
                if flags & HUFFMAN_FAIL:
                    break
                if flags & HUFFMAN_EMIT_SYMBOL:
                    text += bytes((symbol,))
            if flags & HUFFMAN_FAIL:
                row.append((nowhere, b""))
            else:
                row.append((rows[following], text))
                may_end[following] = bool(flags & HUFFMAN_COMPLETE)
    for row, is_end in zip(rows, may_end, strict=True):
        row.append(is_end)
    return rows[0]


def decode_huffman(encoded: bytes | bytearray | memoryview | None) -> bytes:
    """Return the text of a string in Huffman's code; raises HPACKDecodingError when it is none."""
    row = first_row()
    parts = []
    for byte in encoded or b"":
        row, text = row[byte]
        parts.append(text)
    if not row[_ENDS]:
        raise HPACKDecodingError("Invalid Huffman string")
    return b"".join(parts)


def speed_up_hpack() -> None:
    """Let the library decode by this; it has no other way to be told."""
    setattr(hpack.hpack, "decode_huffman", decode_huffman)  # noqa: B010
