"""Our end of a connection against the ``h2`` library, and against frames that no library would send."""

from __future__ import annotations

from collections.abc import Callable

import h2.events
import h2.settings
import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    HEADERS,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    goaway_frame,
    settings_frame,
)
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS
from tests.http2.peer import HEADERS as REQUEST
from tests.http2.peer import Joined, OurEnd, raw_request

BLOCK = hpack.Encoder().encode(REQUEST)
Settings = h2.settings.SettingCodes


def test_a_call_is_answered_in_one_piece() -> None:
    ends = Joined()
    number = ends.request(b"question")
    (call,) = ends.calls
    assert (call.data, call.is_whole, call.head.path) == (b"question", True, "/s/m")
    wakes = ends.wakes
    call.stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    assert ends.wakes == wakes + 1
    ends.exchange()
    assert ends.received(number) == b"answer"
    (trailers,) = ends.found(h2.events.TrailersReceived)
    assert dict(trailers.headers) == {"grpc-status": "0"}
    assert ends.connection.is_idle


@pytest.mark.parametrize("window", [1, 100, 65535])
def test_an_answer_larger_than_the_windows_comes_as_they_open(window: int) -> None:
    ends = Joined(settings={Settings.INITIAL_WINDOW_SIZE: window})
    numbers = [ends.request(b"q") for _ in range(3)]
    bodies = [bytes([n]) * 150_000 if window > 1 else bytes([n]) * 20 for n in numbers]
    for call, body in zip(ends.calls, bodies, strict=True):
        call.stream.respond(RESPONSE_HEADERS, body, OK_TRAILERS)
    acknowledged = 0
    for _ in range(10_000):
        ends.exchange()
        fresh = ends.found(h2.events.DataReceived)[acknowledged:]
        if not fresh:
            break
        acknowledged += len(fresh)
        for event in fresh:
            ends.client.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
    assert [ends.received(number) for number in numbers] == bodies
    assert len(ends.found(h2.events.TrailersReceived)) == 3
    assert ends.connection.is_idle


def test_streams_take_turns_at_the_connections_window() -> None:
    ends = Joined(settings={Settings.INITIAL_WINDOW_SIZE: 10**7})
    large, small = ends.request(b"q"), ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(10**6), OK_TRAILERS)
    ends.calls[1].stream.respond(RESPONSE_HEADERS, b"small", OK_TRAILERS)
    ends.exchange()
    assert len(ends.received(large)) == 65535
    for _ in range(2):
        ends.client.increment_flow_control_window(20)
        ends.exchange()
    assert ends.received(small) == b"small"


def test_a_shrunk_window_goes_below_zero_and_comes_back() -> None:
    ends = Joined(settings={Settings.INITIAL_WINDOW_SIZE: 100})
    number = ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(150), OK_TRAILERS)
    ends.exchange()
    for size in (0, 120, 150):
        ends.client.update_settings({Settings.INITIAL_WINDOW_SIZE: size})
        ends.exchange()
    assert ends.received(number) == bytes(150)
    assert ends.connection.is_idle


def test_a_request_larger_than_the_windows_comes_whole_when_it_is_credited() -> None:
    ends = Joined(stream_window_bytes=70_000, connection_window_bytes=100_000)
    number = ends.client.get_next_available_stream_id()
    ends.client.send_headers(number, REQUEST)
    body = bytes(range(250)) * 2000
    sent = 0
    while sent < len(body):
        ends.exchange()
        room = min(ends.client.local_flow_control_window(number), 16384, len(body) - sent)
        assert room > 0
        ends.client.send_data(number, body[sent : sent + room], end_stream=sent + room == len(body))
        sent += room
    ends.exchange()
    assert ends.calls[0].data == body
    assert ends.calls[0].is_whole


def test_what_is_not_taken_holds_the_client_up() -> None:
    ends = Joined(credits=False, stream_window_bytes=70_000)
    number = ends.client.get_next_available_stream_id()
    ends.client.send_headers(number, REQUEST)
    ends.exchange()
    for _ in range(7):
        ends.client.send_data(number, bytes(10_000))
    ends.exchange()
    assert ends.client.local_flow_control_window(number) == 0
    ends.calls[0].stream.credit()
    ends.exchange()
    assert ends.client.local_flow_control_window(number) == 70_000


def test_a_client_that_ignores_the_window_is_told() -> None:
    ends = Joined(credits=False, stream_window_bytes=1000)
    number = ends.client.get_next_available_stream_id()
    ends.client.send_headers(number, REQUEST)
    ends.exchange()
    ends.send(frame(DATA, 0, number, bytes(1001)))
    ends.exchange()
    (reset,) = ends.found(h2.events.StreamReset)
    assert reset.error_code == ErrorCode.FLOW_CONTROL_ERROR
    assert ends.calls[0].aborted is ErrorCode.FLOW_CONTROL_ERROR
    assert ends.connection.violation is None


def test_a_reset_reaches_the_call_and_the_rest_of_the_connection_goes_on() -> None:
    ends = Joined()
    first = ends.request(b"q")
    second = ends.request(b"q")
    ends.client.reset_stream(first, error_code=8)
    ends.exchange()
    assert ends.calls[0].aborted is ErrorCode.CANCEL
    for call in ends.calls:
        call.stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    ends.exchange()
    assert (ends.received(first), ends.received(second)) == (b"", b"answer")


def test_an_answer_before_the_request_is_whole_stops_the_request() -> None:
    ends = Joined()
    number = ends.client.get_next_available_stream_id()
    ends.client.send_headers(number, REQUEST)
    ends.exchange()
    ends.calls[0].stream.send_headers(RESPONSE_HEADERS, is_last=True)
    ends.exchange()
    (reset,) = ends.found(h2.events.StreamReset)
    assert reset.error_code == ErrorCode.NO_ERROR
    # What was on its way is taken for what it is, and does not use the connection's window up.
    for _ in range(100):
        ends.send(frame(DATA, 0, number, bytes(16384)) + frame(WINDOW_UPDATE, 0, number, b"\0\0\0\1"))
        ends.connection.take_out()
    assert ends.connection.violation is None


def test_padding_priority_and_continuation_are_read_over() -> None:
    ends = Joined()
    block = hpack.Encoder().encode([*REQUEST, ("x", "y" * 40)])
    ends.send(
        frame(HEADERS, 0x8 | 0x20, 1, b"\x03" + b"\0\0\0\0\x10" + block[:10] + bytes(3))
        + frame(CONTINUATION, 0, 1, block[10:20])
        + frame(CONTINUATION, 0x4, 1, block[20:])
        + frame(PRIORITY, 0, 1, b"\0\0\0\0\x10")
        + frame(77, 0, 1, b"unknown")
        + frame(DATA, 0x8 | 0x1, 1, b"\x02" + b"question" + bytes(2))
    )
    (call,) = ends.calls
    assert (call.data, call.is_whole, call.head.metadata) == (b"question", True, (("x", "y" * 40),))


def test_pings_are_answered_and_unknown_settings_ignored() -> None:
    ends = Joined()
    ends.client.ping(b"12345678")
    ends.send(settings_frame([(99, 1)]))
    ends.exchange()
    (answer,) = ends.found(h2.events.PingAckReceived)
    assert answer.ping_data == b"12345678"


def test_more_streams_than_allowed_are_refused_one_by_one() -> None:
    ends = Joined(max_streams=2)
    ends.send(b"".join(raw_request(number, BLOCK) for number in (1, 3, 5)))
    assert len(ends.calls) == 2
    assert b"\x00\x00\x04\x03\x00\x00\x00\x00\x05\x00\x00\x00\x07" in ends.connection.take_out()
    assert ends.connection.violation is None


def test_calls_that_were_reset_count_until_they_have_ended() -> None:
    ends = Joined(max_streams=2)
    for number in (1, 3):
        ends.send(raw_request(number, BLOCK))
        ends.connection.running += 1
        ends.send(frame(RST_STREAM, 0, number, b"\0\0\0\x08"))
    ends.send(raw_request(5, BLOCK))
    assert len(ends.calls) == 2
    ends.connection.running -= 1
    ends.send(raw_request(7, BLOCK))
    assert len(ends.calls) == 3


def test_draining_takes_what_was_on_its_way_and_no_more() -> None:
    ours = OurEnd()  # by hand: the library takes no difference between the two GOAWAYs of a graceful end
    ours.connection.receive(PREFACE + settings_frame([]) + raw_request(1, BLOCK))
    ours.connection.take_out()
    ours.connection.drain()
    assert ours.connection.take_out() == goaway_frame(2**31 - 1, ErrorCode.NO_ERROR) + frame(PING, 0, 0, b"draining")
    ours.connection.receive(raw_request(3, BLOCK) + frame(PING, ACK, 0, b"draining"))
    assert ours.connection.take_out() == goaway_frame(3, ErrorCode.NO_ERROR)
    ours.connection.receive(raw_request(5, BLOCK))
    assert [call.stream.id for call in ours.calls] == [1, 3]
    assert not ours.connection.is_idle
    for call in ours.calls:
        call.stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    assert ours.connection.is_idle


def flood(one: Callable[[int], bytes], times: int = 3000) -> bytes:
    return b"".join(one(number) for number in range(times))


@pytest.mark.parametrize(
    ("attack", "code"),
    [
        (flood(lambda n: frame(PING, 0, 0, bytes(8))), ErrorCode.ENHANCE_YOUR_CALM),
        (flood(lambda n: settings_frame([])), ErrorCode.ENHANCE_YOUR_CALM),
        (flood(lambda n: frame(PRIORITY, 0, 1, bytes(5))), ErrorCode.ENHANCE_YOUR_CALM),
        (flood(lambda n: frame(200, 0, 0)), ErrorCode.ENHANCE_YOUR_CALM),
        (raw_request(1, BLOCK, flags=4) + flood(lambda n: frame(DATA, 0, 1)), ErrorCode.ENHANCE_YOUR_CALM),
        (
            flood(lambda n: raw_request(2 * n + 1, BLOCK) + frame(RST_STREAM, 0, 2 * n + 1, bytes(4))),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (frame(HEADERS, 0, 1, BLOCK) + flood(lambda n: frame(CONTINUATION, 0, 1)), ErrorCode.ENHANCE_YOUR_CALM),
        (
            frame(HEADERS, 0, 1) + flood(lambda n: frame(CONTINUATION, 0, 1, bytes(9000)), 20),
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (frame(HEADERS, 0, 1, BLOCK) + frame(PING, 0, 0, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0, 1, BLOCK) + frame(CONTINUATION, 4, 3), ErrorCode.PROTOCOL_ERROR),
        (frame(CONTINUATION, 4, 1, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (raw_request(2, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (raw_request(0, BLOCK), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 4, 1, b"\xff\xff"), ErrorCode.COMPRESSION_ERROR),
        (frame(HEADERS, 0x8 | 4, 1, b"\x09abc"), ErrorCode.PROTOCOL_ERROR),
        (frame(HEADERS, 0x20 | 4, 1, b"abc"), ErrorCode.FRAME_SIZE_ERROR),
        (frame(DATA, 0, 1, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(DATA, 0, 0, b"x"), ErrorCode.PROTOCOL_ERROR),
        (frame(5, 4, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(PING, 0, 0, bytes(7)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(PING, 0, 1, bytes(8)), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, 0, 0, bytes(5)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(SETTINGS, 0, 1), ErrorCode.PROTOCOL_ERROR),
        (frame(SETTINGS, 1, 0, bytes(6)), ErrorCode.FRAME_SIZE_ERROR),
        (settings_frame([(4, 2**31)]), ErrorCode.FLOW_CONTROL_ERROR),
        (settings_frame([(5, 100)]), ErrorCode.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(RST_STREAM, 0, 1, bytes(3)), ErrorCode.FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") * 2, ErrorCode.FLOW_CONTROL_ERROR),
        (frame(WINDOW_UPDATE, 0, 9, b"\0\0\0\1"), ErrorCode.PROTOCOL_ERROR),
        (frame(7, 0, 0, bytes(4)), ErrorCode.PROTOCOL_ERROR),
        (b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", ErrorCode.FRAME_SIZE_ERROR),
    ],
)
def test_who_floods_or_breaks_the_protocol_is_sent_away(attack: bytes, code: ErrorCode) -> None:
    ends = Joined()
    ends.send(attack)
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is code
    assert all(call.aborted is not None or call.stream.is_local_closed for call in ends.calls)
    goaway = ends.connection.take_out()
    assert goaway.rindex(b"\x07\x00\x00\x00\x00\x00") >= 0
    ends.connection.receive(raw_request(1001, BLOCK))
    assert not ends.connection.take_out()


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(PING, 0, 0, bytes(8))]
)
def test_what_is_no_http2_is_sent_away(first: bytes) -> None:
    ours = OurEnd()
    ours.connection.receive(first)
    assert ours.connection.violation is not None


def test_pings_and_resets_at_a_human_pace_are_no_flood() -> None:
    ends = Joined()
    for number in range(5000):
        ends.now_s += 0.01
        ends.send(raw_request(2 * number + 1, BLOCK) + frame(RST_STREAM, 0, 2 * number + 1, bytes(4)))
        ends.send(frame(PING, 0, 0, bytes(8)))
        ends.connection.take_out()
    assert ends.connection.violation is None


def test_headers_beyond_the_limit_are_told_and_far_beyond_end_the_connection() -> None:
    ends = Joined(header_list_bytes=1000)
    ends.client.remote_settings[Settings.MAX_HEADER_LIST_SIZE] = 100_000
    ends.send(raw_request(1, hpack.Encoder().encode([*REQUEST, ("x", "y" * 2000)])))
    assert ends.calls[0].head.is_too_large
    ends.send(raw_request(3, hpack.Encoder().encode([*REQUEST, ("x", "y" * 5000)])))
    assert ends.connection.violation is not None


def test_no_progress_ends_streams_and_connections() -> None:
    ours = OurEnd()
    ours.now_s = 11.0
    ours.connection.check()
    assert ours.connection.violation is not None

    ends = Joined(settings={Settings.INITIAL_WINDOW_SIZE: 10})
    blocked = ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(100), OK_TRAILERS)
    half = ends.client.get_next_available_stream_id()
    ends.client.send_headers(half, REQUEST)
    ends.exchange()
    answering = ends.request(b"q")
    ends.now_s = 29.0
    ends.connection.check()
    ends.client.send_data(half, bytes(4096))
    ends.exchange()
    ends.now_s = 31.0
    ends.connection.check()
    ends.exchange()
    assert [e.stream_id for e in ends.found(h2.events.StreamReset)] == [blocked]
    ends.now_s = 60.0
    ends.connection.check()
    ends.exchange()
    assert [e.stream_id for e in ends.found(h2.events.StreamReset)] == [blocked, half]
    assert [call.aborted for call in ends.calls] == [ErrorCode.CANCEL, ErrorCode.CANCEL, None]
    assert not ends.connection.is_idle, f"stream {answering} waits for us, which is no fault of the client's"


def test_a_silent_client_is_pinged_and_a_dead_one_given_up() -> None:
    ends = Joined()
    ends.now_s = 61.0
    ends.connection.check()
    ends.exchange()
    assert len(ends.found(h2.events.PingReceived)) == 1
    ends.now_s = 130.0
    ends.connection.check()
    ends.connection.take_out()
    ends.now_s = 151.0
    ends.connection.check()
    assert ends.connection.violation is not None


def test_a_paused_transport_holds_answers_back() -> None:
    ends = Joined()
    numbers = [ends.request(b"q") for _ in range(3)]
    ends.connection.is_paused = True
    for call in ends.calls:
        call.stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    ends.exchange()
    assert [ends.received(number) for number in numbers] == [b""] * 3
    ends.connection.resume()
    ends.exchange()
    assert [ends.received(number) for number in numbers] == [b"answer"] * 3


FRAMES = st.builds(
    frame,
    st.integers(0, 11),
    st.integers(0, 255),
    st.integers(0, 7),
    st.one_of(st.binary(max_size=40), st.just(BLOCK), st.sampled_from([bytes(n) for n in (4, 5, 6, 8)])),
)


@given(
    frames=st.lists(FRAMES, max_size=30), noise=st.binary(max_size=30), cut=st.integers(1, 50), answers=st.booleans()
)
@settings(max_examples=400, deadline=None)
def test_no_bytes_make_it_fail(frames: list[bytes], noise: bytes, cut: int, answers: bool) -> None:
    ends = Joined()
    data = b"".join(frames) + noise
    for position in range(0, len(data), cut):
        ends.connection.receive(data[position : position + cut])
        if answers and ends.calls:
            ends.calls[-1].stream.respond(RESPONSE_HEADERS, b"answer", OK_TRAILERS)
    ends.connection.check()
    ends.connection.take_out()
    if ends.connection.violation is not None:
        assert ends.connection.is_idle
