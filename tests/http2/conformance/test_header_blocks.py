"""RFC 7541 where nothing else tests it, and fields that RFC 9113 forbids; blocks are by hand or by ``hpack``."""

from __future__ import annotations

import hpack
import pytest

from orchestrator.http2.flow import Flow, Limits
from orchestrator.http2.frames import ErrorCode, ViolationError
from orchestrator.http2.grpc.wire import RequestHead, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from tests.http2.peer import HEADERS as REQUEST

Fields = list[tuple[bytes, bytes]]


def decoder() -> HeaderDecoder[Fields]:
    return HeaderDecoder(list, max_list_bytes=4096)


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xbe",
        b"\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x3f\xe2\x1f",
        b"\x82\x20",
        b"\x00\x05abc",
        b"\x00\x01a\x85\xff\xff\xff\xff\xff",
        b"\x00\x01a\x82\x1f\xff",
        b"\x00\x01a\x81\x18",
    ],
    ids=[
        "index 0",
        "index beyond the table",
        "endless integer",
        "table larger than allowed",
        "table resized after a field",
        "string longer than the block",
        "end of string as a symbol",
        "padding of a byte",
        "padding of zeros",
    ],
)
def test_what_hpack_forbids_can_not_be_decoded(block: bytes) -> None:
    with pytest.raises(ViolationError) as caught:
        decoder().decode(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_a_table_may_be_emptied_and_grow_again_in_one_block() -> None:
    ours, said = decoder(), b"\x40\x01a\x01b"
    assert ours.decode(said) == [(b"a", b"b")]
    assert ours.decode(b"\xbe") == [(b"a", b"b")]
    assert ours.decode(b"\x20\x3f\xe1\x1f" + said) == [(b"a", b"b")]
    assert ours.decode(b"\xbe") == [(b"a", b"b")]
    ours.decode(b"\x20")
    with pytest.raises(ViolationError):
        ours.decode(b"\xbe")


def test_an_entry_larger_than_the_table_empties_it() -> None:
    ours = decoder()
    ours.decode(b"\x40\x01a\x01b")
    ours.decode(b"\x40\x01c\x7f\xa1\x1f" + b"d" * 4128)
    with pytest.raises(ViolationError):
        ours.decode(b"\xbe")


def test_a_field_that_is_never_to_be_indexed_is_not() -> None:
    ours = decoder()
    assert ours.decode(b"\x10\x01a\x01b") == [(b"a", b"b")]
    with pytest.raises(ViolationError):
        ours.decode(b"\xbe")


def judge(*changes: tuple[bytes, bytes], without: bytes = b"") -> RequestHead:
    fields = [(name.encode(), value.encode()) for name, value in REQUEST if name.encode() != without]
    return read_request_head([*fields, *changes], max_list_bytes=10_000)


@pytest.mark.parametrize("name", [b"a b", b"a\x00", b"\xc3\xa9", b"a:b", b"a\x7f", b"A", b""])
def test_names_that_are_no_tokens_are_malformed(name: bytes) -> None:
    assert judge((name, b"x")).is_malformed


@pytest.mark.parametrize("name", [b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"])
def test_fields_of_one_connection_are_malformed(name: bytes) -> None:
    assert judge((name, b"x")).is_malformed


def test_blanks_around_a_value_are_taken_because_perf_analyzer_sends_them() -> None:
    assert judge((b"authorization", b" Bearer x")).metadata == (("authorization", " Bearer x"),)


@pytest.mark.parametrize("method", [b"CONNECT", b"GET", b"OPTIONS"])
def test_other_methods_than_post_are_told_in_http(method: bytes) -> None:
    fields = [(name.encode(), value.encode()) for name, value in REQUEST[1:]]
    assert read_request_head([(b":method", method), *fields], max_list_bytes=10_000).problem == 405


def test_a_bare_connect_is_malformed() -> None:
    fields = [(b":method", b"CONNECT"), (b":authority", b"here:443")]
    assert read_request_head(fields, max_list_bytes=10_000).is_malformed


def test_our_first_block_gives_the_table_up() -> None:
    """A peer whose SETTINGS allow a smaller table than 4096 bytes insists on being told."""
    theirs = hpack.Decoder()
    theirs.max_allowed_table_size = 0
    flow = Flow(Limits(), is_server=True, clock=lambda: 0.0, wake=lambda: None)
    assert theirs.decode(flow.begin_block(b"\x88")) == [(":status", "200")]
    assert theirs.header_table_size == 0
