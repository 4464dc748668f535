"""What RFC 9113 and RFC 7541 ask of a server beyond what gRPC's clients do; ``h2`` and ``hpack`` are the peer."""

from __future__ import annotations

import h2.events
import hpack
import pytest
from h2.settings import SettingCodes

from orchestrator.http2.frames import CONTINUATION, DATA, HEADERS, WINDOW_UPDATE, ErrorCode, frame, rst_stream_frame
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS, RequestHead, read_request_head, trailers
from tests.http2.peer import HEADERS as REQUEST
from tests.http2.peer import Joined, raw_request
from tests.http2.world import World

BLOCK = hpack.Encoder().encode(REQUEST)


@pytest.mark.parametrize("table_bytes", [0, 100, 4096, 65536])
def test_a_peer_with_a_small_header_table_reads_our_answers(table_bytes: int) -> None:
    ends = Joined(settings={SettingCodes.HEADER_TABLE_SIZE: table_bytes})
    for _ in range(3):
        number = ends.request(b"q")
        ends.calls[-1].stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
        ends.exchange()
        assert ends.received(number) == b"answer"
    assert len(ends.found(h2.events.TrailersReceived)) == 3


def test_a_header_table_that_shrinks_on_the_way_is_followed() -> None:
    ends = Joined()
    for table_bytes in (4096, 10, 4096, 0):
        ends.client.update_settings({SettingCodes.HEADER_TABLE_SIZE: table_bytes})
        ends.exchange()
        number = ends.request(b"q")
        ends.calls[-1].stream.send_headers(trailers("INTERNAL", "no", is_only=True), is_last=True)
        ends.exchange()
    assert [event.stream_id for event in ends.found(h2.events.StreamEnded)][-1] == number


def test_an_empty_increment_of_the_connections_window_is_an_error_of_protocol() -> None:
    ends = Joined()
    ends.send(frame(WINDOW_UPDATE, 0, 0, bytes(4)))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "fields",
    [
        [(b"te", b"gzip")],
        [(b"connection", b"close")],
        [(b"X-Upper", b"x")],
        [(b":path", b"/again")],
        [(b":status", b"200")],
        [(b"x", b"a\r\nb")],
        [(b"", b"x")],
    ],
)
def test_malformed_requests_are_reset(fields: list[tuple[bytes, bytes]]) -> None:
    request = [(name.encode(), value.encode()) for name, value in REQUEST]
    assert not read_request_head(request, max_list_bytes=10_000).is_malformed
    if fields[0][0] == b"te":
        request = [field for field in request if field[0] != b"te"]
    assert read_request_head(request + fields, max_list_bytes=10_000).is_malformed


@pytest.mark.parametrize("missing", [":method", ":scheme", ":path"])
def test_a_request_without_its_first_fields_is_malformed(missing: str) -> None:
    request = [(name.encode(), value.encode()) for name, value in REQUEST if name != missing]
    assert read_request_head(request, max_list_bytes=10_000) == RequestHead(is_malformed=True)


@pytest.mark.parametrize(
    "end",
    [
        [(":path", "/s/Echo")],
        [(":status", "200")],
        list(REQUEST),
        [("x-end", "1"), ("Upper", "1")],
    ],
)
async def test_trailers_with_fields_of_a_request_are_malformed(end: list[tuple[str, str]]) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    encoder = hpack.Encoder()
    first = encoder.encode([*REQUEST[:2], (":path", "/s/Late"), *REQUEST[3:]])
    ends.send(frame(HEADERS, 4, 1, first) + frame(HEADERS, 5, 1, encoder.encode(end)))
    assert rst_stream_frame(1, ErrorCode.PROTOCOL_ERROR) in ends.connection.take_out()


async def test_trailers_end_a_request() -> None:
    ends = Joined(accept=World().service.accept)
    encoder = hpack.Encoder()
    first = encoder.encode([*REQUEST[:2], (":path", "/s/Late"), *REQUEST[3:]])
    ends.send(frame(HEADERS, 4, 1, first) + frame(HEADERS, 1, 1, encoder.encode([("x", "1")])))
    ends.send(frame(CONTINUATION, 4, 1, encoder.encode([("y", "1")])))
    assert ends.connection.take_out() == b""
    assert not ends.connection.is_idle


@pytest.mark.parametrize("text", ["x" * 5000, "é" * 5000, "\U0001f680" * 5000, "%" * 5000, "\0\n" * 5000])
def test_a_long_message_of_a_status_stays_below_what_clients_take(text: str) -> None:
    """gRPC's clients refuse more than 8 KiB of metadata."""
    fields = hpack.Decoder(max_header_list_size=8192).decode(trailers("INTERNAL", text, is_only=True))
    assert dict(fields)["grpc-status"] == "13"


def test_padding_counts_for_the_windows() -> None:
    ends = Joined(stream_window_bytes=1000, credits=False)
    ends.send(raw_request(1, BLOCK, flags=4) + frame(DATA, 0x8, 1, b"\xc8" + bytes(10) + bytes(200)) * 4)
    assert not ends.calls[0].aborted
    ends.send(frame(DATA, 0x8, 1, b"\xc8" + bytes(10) + bytes(200)))
    assert ends.calls[0].aborted is ErrorCode.FLOW_CONTROL_ERROR
