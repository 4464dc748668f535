"""Huffman's code, against the decoder of the ``hpack`` library."""

from __future__ import annotations

import hpack
import pytest
from hpack.exceptions import HPACKDecodingError
from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.huffman_table import decode_huffman as decode_by_halves
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.huffman import decode_huffman, first_row
from tests.http2.world import World

ENCODER = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)


@given(st.binary(max_size=50))
def test_what_was_encoded_is_decoded(text: bytes) -> None:
    assert decode_huffman(ENCODER.encode(text)) == text


@given(st.binary(max_size=12), st.binary(max_size=3))
def test_whatever_comes_means_the_same_as_to_the_library(text: bytes, more: bytes) -> None:
    for encoded in (text, ENCODER.encode(text) + more):
        try:
            wanted = decode_by_halves(encoded)
        except HPACKDecodingError:
            with pytest.raises(HPACKDecodingError):
                decode_huffman(encoded)
        else:
            assert decode_huffman(encoded) == wanted


async def test_the_table_is_made_before_anybody_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    first_row.cache_clear()
    World()
    monkeypatch.setattr("orchestrator.http2.huffman.HUFFMAN_TABLE", ())
    assert decode_huffman(ENCODER.encode(b"text")) == b"text"


def test_header_blocks_are_decoded_by_it() -> None:
    assert hpack.hpack.decode_huffman is decode_huffman
    block = hpack.Encoder().encode([("x-name", "what Huffman's code makes shorter")], huffman=True)
    decoder: HeaderDecoder[list[tuple[bytes, bytes]]] = HeaderDecoder(lambda fields: fields, max_list_bytes=1000)
    assert decoder.decode(block) == [(b"x-name", b"what Huffman's code makes shorter")]
