"""RFC 9113 where nothing else tests it: frames and streams, by frames that a library would not send."""

from __future__ import annotations

import h2.events
import hpack
import pytest
from h2.settings import SettingCodes

from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.frames import (
    ACK,
    DATA,
    GOAWAY,
    HEADERS,
    PING,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    goaway_frame,
    rst_stream_frame,
    settings_frame,
)
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS, ResponseHead, read_response_head
from orchestrator.http2.headers import HeaderDecoder
from tests.http2.peer import HEADERS as REQUEST
from tests.http2.peer import Joined, raw_request
from tests.http2.world import BLOCK, World

RESERVED = 0x80000000


def client_end() -> Connection[ResponseHead]:
    """Return our end of a connection to a server."""
    decoder = HeaderDecoder(read_response_head, max_list_bytes=16384)
    connection = Connection(decoder, None, Limits(), clock=lambda: 0.0, wake=lambda: None)
    connection.start()
    connection.take_out()
    return connection


def violation(connection: Connection[ResponseHead], *frames: bytes) -> ErrorCode | None:
    connection.receive(b"".join(frames))
    return None if connection.violation is None else connection.violation.code


def test_the_reserved_bits_mean_nothing() -> None:
    ends = Joined()
    ends.send(frame(HEADERS, 4, RESERVED | 1, BLOCK))
    ends.send(frame(WINDOW_UPDATE, 0, RESERVED, (RESERVED | 5).to_bytes(4, "big")))
    ends.send(frame(DATA, 1, RESERVED | 1, b"question"))
    assert ends.connection.violation is None
    assert ends.connection.send_window == 65540
    assert (ends.calls[0].data, ends.calls[0].is_whole) == (b"question", True)


def test_flags_that_a_frame_does_not_define_mean_nothing() -> None:
    ends = Joined()
    ends.send(frame(HEADERS, 0x5 | 0xD2, 1, BLOCK) + frame(PING, 0xFE, 0, b"12345678"))
    ends.exchange()
    assert ends.connection.violation is None
    assert len(ends.calls) == 1
    assert len(ends.found(h2.events.PingAckReceived)) == 1


@pytest.mark.parametrize("kind", [WINDOW_UPDATE, DATA, RST_STREAM])
def test_nothing_but_headers_and_priority_may_come_on_an_idle_stream(kind: int) -> None:
    ends = Joined()
    ends.send(frame(PRIORITY, 0, 9, bytes(5)))
    assert ends.connection.violation is None
    ends.send(frame(kind, 0, 9, bytes((0, 0, 0, 1))))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize("kind", [HEADERS, DATA])
def test_a_stream_that_its_client_has_ended_takes_no_more_of_it(kind: int) -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK))
    ends.send(frame(kind, 5, 1, BLOCK if kind == HEADERS else b"more"))
    assert rst_stream_frame(1, ErrorCode.STREAM_CLOSED) in ends.connection.take_out()
    assert ends.calls[0].aborted is ErrorCode.STREAM_CLOSED
    assert ends.connection.violation is None


def test_priorities_are_ignored_whatever_they_say() -> None:
    """RFC 7540 had an error for a stream that depends on itself; RFC 9113 has no dependencies any more."""
    ends = Joined()
    itself = (1).to_bytes(4, "big") + b"\x10"
    ends.send(frame(HEADERS, 0x20 | 5, 1, itself + BLOCK) + frame(PRIORITY, 0, 1, itself))
    assert ends.connection.violation is None
    assert len(ends.calls) == 1
    ends.send(frame(PRIORITY, 0, 0, itself))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.PROTOCOL_ERROR


def test_a_priority_of_another_size_ends_the_connection() -> None:
    ends = Joined()
    ends.send(frame(PRIORITY, 0, 1, bytes(4)))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.FRAME_SIZE_ERROR


def test_a_reset_is_never_answered_with_a_reset() -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK, flags=4) + rst_stream_frame(1, ErrorCode.CANCEL) * 3)
    assert frame(RST_STREAM, 0, 1)[3:9] not in ends.connection.take_out()


def test_error_codes_that_nobody_knows_are_errors_like_others() -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK, flags=4) + frame(RST_STREAM, 0, 1, b"\0\0\xff\xff"))
    assert ends.calls[0].aborted is ErrorCode.INTERNAL_ERROR
    ends.send(frame(GOAWAY, 0, 0, bytes(4) + b"\0\0\xff\xff"))
    assert ends.connection.violation is None
    assert ends.connection.goaway == 0


def test_settings_are_acknowledged_and_an_acknowledgement_is_not() -> None:
    ends = Joined()
    ends.connection.take_out()
    ends.send(settings_frame([(SettingCodes.INITIAL_WINDOW_SIZE, 5), (SettingCodes.INITIAL_WINDOW_SIZE, 7)]))
    assert ends.connection.take_out() == frame(SETTINGS, ACK, 0)
    assert ends.connection.initial_window == 7, "the last of a name counts"
    ends.send(frame(SETTINGS, ACK, 0))
    assert ends.connection.take_out() == b""


def test_an_answer_to_a_ping_is_not_answered() -> None:
    ends = Joined()
    ends.send(frame(PING, ACK, 0, b"12345678"))
    assert ends.connection.take_out() == b""


def test_a_goaway_names_the_last_stream_that_was_taken() -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK) + raw_request(7, BLOCK) + frame(PING, 0, 1, bytes(8)))
    assert goaway_frame(7, ErrorCode.PROTOCOL_ERROR)[9:17] in ends.connection.take_out()


@pytest.mark.parametrize("increment", [0, 2**31 - 1])
def test_a_wrong_increment_of_a_streams_window_is_that_streams_error(increment: int) -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK, flags=4) + frame(WINDOW_UPDATE, 0, 1, increment.to_bytes(4, "big")))
    code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
    assert rst_stream_frame(1, code) in ends.connection.take_out()
    assert ends.connection.violation is None


def test_an_initial_window_that_overflows_a_streams_ends_the_connection() -> None:
    ends = Joined()
    ends.send(raw_request(1, BLOCK, flags=4) + frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
    ends.send(settings_frame([(SettingCodes.INITIAL_WINDOW_SIZE, 2**31 - 1)]))
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.FLOW_CONTROL_ERROR


def test_the_block_of_a_refused_stream_counts_for_the_table() -> None:
    ends = Joined(max_streams=1)
    encoder = hpack.Encoder()
    ends.send(raw_request(1, BLOCK, flags=4))
    ends.send(raw_request(3, encoder.encode([*REQUEST, ("x-said", "once")])))
    assert rst_stream_frame(3, ErrorCode.REFUSED_STREAM) in ends.connection.take_out()
    ends.calls[0].stream.reset(ErrorCode.CANCEL)
    block = encoder.encode([*REQUEST, ("x-said", "once")])
    assert b"once" not in block, "it stands in the table"
    ends.send(raw_request(5, block))
    assert ends.calls[1].head.metadata == (("x-said", "once"),)


def test_an_answer_begins_and_ends_with_a_header_block() -> None:
    ends = Joined()
    number = ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    ends.exchange()
    (begin,) = ends.found(h2.events.ResponseReceived)
    assert begin.headers[0] == (":status", "200")
    assert [event.stream_id for event in ends.found(h2.events.StreamEnded)] == [number]


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (settings_frame([(SettingCodes.ENABLE_PUSH, 1)]), ErrorCode.PROTOCOL_ERROR),
        (settings_frame([]) + frame(5, 4, 1, bytes(4) + b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (settings_frame([]) + raw_request(2, b"\x88"), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
    ],
    ids=["asks for pushes", "pushes", "opens a stream", "begins without settings"],
)
def test_a_server_that_does_what_no_server_may_is_left(frames: bytes, code: ErrorCode) -> None:
    assert violation(client_end(), frames) is code


async def test_a_refusal_says_which_compressions_are_understood() -> None:
    ends = Joined(accept=World().service.accept)
    head = [*REQUEST[:2], (":path", "/s/Echo"), *REQUEST[3:], ("grpc-encoding", "br")]
    ends.client.send_headers(1, head)
    ends.client.send_data(1, b"\x01\0\0\0\1x", end_stream=True)
    ends.exchange()
    (answer,) = ends.found(h2.events.ResponseReceived)
    assert dict(answer.headers)["grpc-status"] == "12"
    assert dict(answer.headers)["grpc-accept-encoding"] == "identity,deflate,gzip"
