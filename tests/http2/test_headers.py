"""Header blocks: the cache must never give another list than the library without it."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.frames import ViolationError
from orchestrator.http2.headers import HeaderDecoder, encode_literals

TOKENS = st.sampled_from([b"a", b"b", b"grpc-timeout", b":path", b"content-type", b"x" * 40])
VALUES = st.sampled_from([b"", b"1", b"2", b"application/grpc", b"v" * 300])
LISTS = st.lists(st.tuples(TOKENS, VALUES), min_size=1, max_size=5)


def decoder(max_list_bytes: int = 4096) -> HeaderDecoder[list[tuple[bytes, bytes]]]:
    return HeaderDecoder(list, max_list_bytes=max_list_bytes)


@given(
    lists=st.lists(LISTS, max_size=12),
    picks=st.lists(
        st.tuples(st.integers(0, 11), st.booleans(), st.sampled_from([None, 0, 64, 200, 4096])), max_size=40
    ),
)
def test_blocks_mean_what_was_encoded_whatever_came_between(
    lists: list[list[tuple[bytes, bytes]]], picks: list[tuple[int, bool, int | None]]
) -> None:
    encoder, ours = hpack.Encoder(), decoder()
    for index, huffman, size in picks:
        if not lists:
            return
        wanted = lists[index % len(lists)]
        if size is not None:
            encoder.header_table_size = size
        assert ours.decode(encoder.encode(wanted, huffman=huffman)) == wanted


def test_equal_blocks_are_interpreted_once() -> None:
    seen: list[object] = []
    ours = HeaderDecoder(lambda fields: seen.append(fields) or fields, max_list_bytes=4096)
    encoder = hpack.Encoder()
    blocks = [encoder.encode([(b"a", b"1"), (b"b", b"2")]) for _ in range(5)]
    assert len({tuple(ours.decode(block)) for block in blocks}) == 1
    assert len(seen) == 2, "the first fills the table, the second is the first that can be kept"


@pytest.mark.parametrize(
    "block", [b"\xff", b"\xbe", b"\x40\x05ab", b"\x80", b"\x3f\xff\xff\xff\x0f", b"\x00\x81\xff\x00"]
)
def test_what_is_no_block_ends_the_connection(block: bytes) -> None:
    with pytest.raises(ViolationError):
        decoder().decode(block)


def test_a_small_block_of_a_huge_list_ends_the_connection() -> None:
    encoder = hpack.Encoder()
    bomb = encoder.encode([(b"a", b"v" * 3000)]) + b"\xbe" * 100
    with pytest.raises(ViolationError, match="far beyond"):
        decoder(max_list_bytes=4096).decode(bomb)


@given(st.lists(st.tuples(st.binary(max_size=300), st.binary(max_size=300)), max_size=4))
def test_literals_are_read_by_the_library(fields: list[tuple[bytes, bytes]]) -> None:
    found = hpack.Decoder().decode(encode_literals(fields), raw=True)
    assert [(bytes(name), bytes(value)) for name, value in found] == fields
