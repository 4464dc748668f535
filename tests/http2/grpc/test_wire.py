"""gRPC's heads, messages and statuses as bytes."""

from __future__ import annotations

import gzip
import math
import random
import zlib
from typing import Any
from urllib.parse import unquote

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.grpc.wire import (
    PIECE_BYTES,
    PREFIX_BYTES,
    RequestHead,
    RpcError,
    message_bytes,
    message_parts,
    pack_message,
    read_request_head,
    read_timeout_s,
    split_message,
    trailers,
    unpack,
    unpack_message,
)

FIELDS = {b":method": b"POST", b":scheme": b"http", b":path": b"/s/m", b"content-type": b"application/grpc"}

REAL_UNPACKER = zlib.decompressobj


def head(*more: tuple[bytes, bytes], **changes: bytes | None) -> RequestHead:
    fields = {**FIELDS, **{key.replace("_", "-").encode(): value for key, value in changes.items()}}
    listed = [(name, value) for name, value in fields.items() if value is not None]
    return read_request_head([*listed, *more], max_list_bytes=1000)


@pytest.mark.parametrize(
    ("found", "wanted"),
    [
        (head(), {}),
        (head(content_type=b"application/grpc+proto"), {}),
        (head(content_type=b"application/json"), {"problem": 415, "path": ""}),
        (head(content_type=b"application/grpc-web"), {"problem": 415, "path": ""}),
        (head(content_type=None), {"problem": 415, "path": ""}),
        (head(**{":method": b"GET"}), {"problem": 405, "path": ""}),
        (head(**{":path": None}), {"is_malformed": True, "path": ""}),
        (head(**{":odd": b"1"}), {"is_malformed": True, "path": ""}),
        (head((b":path", b"/")), {"is_malformed": True, "path": ""}),
        (head((b"Upper", b"1")), {"is_malformed": True, "path": ""}),
        (head((b"x", b"a\nb")), {"is_malformed": True, "path": ""}),
        (head(connection=b"close"), {"is_malformed": True, "path": ""}),
        (head(x=b"y" * 1000), {"is_too_large": True, "metadata": (("x", "y" * 1000),)}),
        (head(grpc_timeout=b"5m"), {"timeout_s": 0.005}),
        (head(grpc_timeout=b"5x"), {"problem": 400, "path": ""}),
        (head(grpc_encoding=b"gzip"), {"encoding": "gzip"}),
        (head(x=b"1", te=b"trailers"), {"metadata": (("x", "1"),)}),
        (head((b"k-bin", b"AAE,Ag=="), (b"k-bin", b"!")), {"metadata": (("k-bin", b"\0\1"), ("k-bin", b"\2"))}),
    ],
)
def test_a_head_says_what_its_fields_say(found: RequestHead, wanted: dict[str, Any]) -> None:
    assert found == RequestHead(**{"path": "/s/m", **wanted})


def test_a_timeout_is_read_in_each_unit_and_a_malformed_one_is_no_number() -> None:
    assert [read_timeout_s(text) for text in (b"2H", b"3M", b"4S", b"250m", b"7u", b"9n")] == pytest.approx(
        [7200, 180, 4, 0.25, 7e-6, 9e-9]
    )
    assert all(math.isnan(read_timeout_s(text)) for text in (b"", b"S", b"123456789S", b"-1S", b"1.5S", b"1"))


@given(st.text(max_size=50))
def test_a_message_of_any_text_comes_through(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    fields = dict(hpack.Decoder().decode(trailers("INTERNAL", text, is_only=False)))
    assert fields["grpc-status"] == "13"
    message = fields.get("grpc-message", "")
    assert message.isascii()
    assert message.isprintable()
    assert unquote(message) == text


def test_a_very_long_message_is_cut() -> None:
    assert len(trailers("INTERNAL", "é" * 10**6, is_only=True)) < 8000


@pytest.mark.parametrize(("encoding", "bits"), [("gzip", 31), ("deflate", 15)])
def test_compressed_messages_within_the_limit_are_unpacked(encoding: str, bits: int) -> None:
    packer = zlib.compressobj(wbits=bits)
    packed = packer.compress(b"m" * 1000) + packer.flush()
    assert unpack_message(1, packed, encoding, 1000) == b"m" * 1000
    for data, limit, status in (
        (packed, 999, "RESOURCE_EXHAUSTED"),
        (packed[:-3], 1000, "INTERNAL"),
        (b"x", 9, "INTERNAL"),
    ):
        with pytest.raises(RpcError) as caught:
            unpack_message(1, data, encoding, limit)
        assert caught.value.status == status


@pytest.mark.parametrize(
    ("flag", "encoding", "status"),
    [(1, "identity", "INTERNAL"), (2, "gzip", "INTERNAL"), (1, "snappy", "UNIMPLEMENTED")],
)
def test_what_can_not_be_unpacked_is_refused(flag: int, encoding: str, status: str) -> None:
    with pytest.raises(RpcError) as caught:
        unpack_message(flag, b"x", encoding, 100)
    assert caught.value.status == status


def test_compressed_data_is_read_and_unpacked_by_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of a piece is copied each time, so all of a message would be copied as often as it has pieces."""
    fed: list[int] = []

    class Counting:
        def __init__(self, wbits: int) -> None:
            self._real = REAL_UNPACKER(wbits)

        def decompress(self, data: Any, most_bytes: int) -> bytes:
            fed.append(len(data))
            return self._real.decompress(data, most_bytes)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

    monkeypatch.setattr(zlib, "decompressobj", Counting)
    data = random.Random(1).randbytes(4 * 2**20)
    pieces = list(unpack(1, gzip.compress(data, 1), "gzip", len(data)))
    assert b"".join(pieces) == data
    assert max(*map(len, pieces), *fed) <= PIECE_BYTES
    assert sum(fed) < 3 * len(data)


@pytest.mark.parametrize("rest", [b"", pack_message(b"next")[:7], 2 * pack_message(b"next")])
@pytest.mark.parametrize("size", [0, 1000, 2**21])
def test_a_message_is_taken_off_what_came_and_a_large_one_stays_where_it_is(size: int, rest: bytes) -> None:
    message = bytes(range(250)) * (size // 250)
    buffer = bytearray(pack_message(message) + rest)
    flag, payload, left = split_message(buffer, PREFIX_BYTES + len(message))
    assert (flag, payload, left) == (0, message, rest)
    assert (payload is buffer) == (size > 2**20)


def test_large_parts_of_a_message_stay_where_they_are_and_small_ones_are_joined() -> None:
    large = bytes(2**21)
    parts = message_parts(b"head", b"key", large, b"key", b"ab")
    assert b"".join(parts) == pack_message(b"headkey" + large + b"keyab")
    assert len(parts) == 3
    assert parts[1] is large
    assert message_parts(b"head", b"rest") == (pack_message(b"headrest"),)


def test_the_length_of_a_message_is_read_and_one_above_the_limit_is_refused() -> None:
    assert message_bytes(pack_message(b"12345"), 5) == 5
    with pytest.raises(RpcError, match="at most 4"):
        message_bytes(pack_message(b"12345"), 4)
