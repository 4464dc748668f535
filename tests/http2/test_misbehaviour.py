"""What clients that misbehave may take of us: memory in proportion to what they send, and no more work than others."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

import h2.settings
import hpack
import pytest
import uvloop

from orchestrator.http2.frames import (
    ACK,
    DATA,
    HEADERS,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    rst_stream_frame,
    settings_frame,
    window_update_frame,
)
from orchestrator.http2.grpc.service import UnaryCall
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS, pack_message
from tests.http2.peer import HEADERS as REQUEST
from tests.http2.peer import Joined, raw_request
from tests.http2.world import BLOCK, World


def block(path: str, *more: tuple[str, str]) -> bytes:
    """Return a header block that uses no table, so that it means the same wherever it stands."""
    fields = [*REQUEST[:2], (":path", path), *REQUEST[3:], *more]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


STREAM, LATE = block("/s/Stream"), block("/s/Late")


def whole(length: str, body: bytes, *, pieces: int = 1) -> bytes:
    size = -(-len(body) // pieces)
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    frames = (frame(DATA, number == len(parts) - 1, 1, part) for number, part in enumerate(parts))
    return raw_request(1, block("/s/Echo", ("content-length", length)), flags=4) + b"".join(frames)


@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_content_length_that_is_true_is_no_fault(pieces: int) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    message = pack_message(b"message")
    ends.send(whole(str(len(message)), message, pieces=pieces))
    await asyncio.sleep(0.01)
    assert message in ends.connection.take_out()


@pytest.mark.parametrize("length", ["0", "11", "13", "9999999999", "-12", "12.0", "+12", "", "1" * 20])
@pytest.mark.parametrize("pieces", [1, 3])
async def test_a_content_length_that_lies_resets_the_stream(length: str, pieces: int) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    ends.connection.take_out()
    ends.send(whole(length, pack_message(b"message"), pieces=pieces))  # of 12 bytes
    await asyncio.sleep(0.01)
    assert ends.connection.take_out() == rst_stream_frame(1, ErrorCode.PROTOCOL_ERROR)
    assert ends.connection.is_idle
    assert world.service.receive_budget.total_bytes == 0
    assert world.taken == []


async def test_two_lengths_are_a_lie_and_a_length_of_a_stream_counts_all_of_it() -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    ends.connection.take_out()
    twice = block("/s/Echo", ("content-length", "12"), ("content-length", "13"))
    ends.send(raw_request(1, twice, flags=4))
    message = pack_message(b"message")
    ends.send(raw_request(3, block("/s/Stream", ("content-length", "30")), flags=4) + frame(DATA, 0, 3, 2 * message))
    await asyncio.sleep(0.01)
    ends.send(frame(DATA, 0, 3, message))
    await asyncio.sleep(0.01)
    out = ends.connection.take_out()
    assert out.startswith(rst_stream_frame(1, ErrorCode.PROTOCOL_ERROR))
    assert out.endswith(rst_stream_frame(3, ErrorCode.PROTOCOL_ERROR))
    assert ends.connection.is_idle


async def test_a_stream_may_be_silent_between_messages_but_not_within_one() -> None:
    ends = Joined(accept=World().service.accept)
    whole = pack_message(b"whole")
    for number in (1, 3):
        ends.send(raw_request(number, STREAM, flags=4) + frame(DATA, 0, number, whole))
    ends.send(frame(DATA, 0, 3, whole[:7]))
    for _ in range(3):
        await asyncio.sleep(0)
    ends.now_s = 50.0
    ends.connection.check()
    out = ends.connection.take_out()
    assert rst_stream_frame(3, ErrorCode.CANCEL) in out
    assert rst_stream_frame(1, ErrorCode.CANCEL) not in out
    await asyncio.sleep(0)


def second_of_reset(ends: Joined, each_second: bytes) -> float:
    """Return when stream 1 is reset of a client that sends so little each second."""
    while rst_stream_frame(1, ErrorCode.CANCEL) not in ends.connection.take_out():
        ends.now_s += 1.0
        ends.send(each_second)
        ends.connection.check()
    return ends.now_s


@pytest.mark.parametrize("path", [BLOCK, STREAM])
async def test_a_message_in_drops_does_not_buy_time(path: bytes) -> None:
    ends = Joined(accept=World().service.accept)
    ends.send(raw_request(1, path, flags=4) + frame(DATA, 0, 1, pack_message(bytes(1000))[:9]))
    assert second_of_reset(ends, frame(DATA, 0, 1, b"x")) == 31.0
    await asyncio.sleep(0)


def test_a_window_that_opens_in_drops_does_not_buy_time() -> None:
    ends = Joined(settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    ends.send(raw_request(1, BLOCK))
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(100_000), OK_TRAILERS)
    assert second_of_reset(ends, window_update_frame(1, 16)) == 31.0


def test_who_takes_an_answer_slowly_has_the_time_that_it_needs() -> None:
    ends = Joined(settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    ends.send(raw_request(1, BLOCK))
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(200_000), OK_TRAILERS)
    while not ends.connection.is_idle:
        ends.now_s += 20.0
        ends.connection.check()
        ends.send(frame(WINDOW_UPDATE, 0, 1, (40_000).to_bytes(4, "big")))
        ends.send(frame(WINDOW_UPDATE, 0, 0, (40_000).to_bytes(4, "big")))
    assert ends.now_s == 100.0
    assert ends.calls[0].aborted is None


async def test_a_call_that_was_refused_is_forgotten_before_its_time_is_up() -> None:
    ends = Joined(accept=World().service.accept)
    patient = block("/s/Echo", ("grpc-timeout", "1H"))
    for number in range(1, 200, 2):
        ends.send(raw_request(number, patient, flags=4) + frame(DATA, 1, number, b""))
    assert ends.connection.take_out().count(b"grpc-status\x0213") == 100
    gc.collect()
    # By type: to ask an object for its class wakes the lazy ones of other libraries.
    assert not [found for found in gc.get_objects() if type(found) is UnaryCall]


ENDS = {
    "answered": raw_request(1, BLOCK, flags=4) + frame(DATA, 1, 1, pack_message(b"x")),
    "refused": raw_request(1, BLOCK, flags=4) + frame(DATA, 1, 1, b"no message"),
    "reset": raw_request(1, BLOCK, flags=4) + rst_stream_frame(1, ErrorCode.CANCEL),
    "a lie": raw_request(1, block("/s/Echo", ("content-length", "9")), flags=4) + frame(DATA, 1, 1, b"x"),
    "too much": raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, pack_message(b"x") + b"more"),
    "lost": raw_request(1, BLOCK, flags=4) + frame(2, 0, 0, b"lost!"),
}


@pytest.mark.parametrize("name", ENDS)
async def test_a_call_that_has_ended_is_gone_without_the_garbage_collector(name: str) -> None:
    """Which stops everything for as long as it takes to look at all calls there are."""
    ends = Joined(accept=World().service.accept)
    gc.collect()
    gc.disable()
    try:
        ends.send(ENDS[name])
        for _ in range(4):
            await asyncio.sleep(0)
        assert ends.connection.is_idle
        assert not [found for found in gc.get_objects() if type(found) is UnaryCall]
    finally:
        gc.enable()


@pytest.mark.parametrize("factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_the_longest_time_limit_there_is(factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    async def call() -> bytes:
        ends = Joined(accept=World().service.accept)
        patient = block("/s/Echo", ("grpc-timeout", "99999999H"))
        ends.send(raw_request(1, patient, flags=4) + frame(DATA, 1, 1, pack_message(b"answer")))
        await asyncio.sleep(0.01)
        return ends.connection.take_out()

    with asyncio.Runner(loop_factory=factory) as runner:
        assert b"answer" in runner.run(call())


@pytest.mark.parametrize(
    "fault",
    [
        lambda number: frame(WINDOW_UPDATE, 0, number, bytes(4)),
        lambda number: frame(WINDOW_UPDATE, 0, number, b"\x7f\xff\xff\xff"),
        lambda number: frame(DATA, 0, number, b"more"),
        lambda number: frame(HEADERS, 0x5, number, BLOCK),
    ],
)
def test_who_makes_us_reset_streams_is_sent_away_as_who_resets_them(fault: Callable[[int], bytes]) -> None:
    """Else the allowance for resets is worth nothing (CVE-2025-8671)."""
    ends = Joined()
    for number in range(1, 6001, 2):
        ends.send(raw_request(number, BLOCK) + fault(number))
        ends.connection.take_out()
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.ENHANCE_YOUR_CALM


def test_acknowledgements_of_nothing_are_a_flood_too() -> None:
    ends = Joined()
    ends.send(frame(SETTINGS, ACK, 0) * 3000)
    assert ends.connection.violation is not None
    assert ends.connection.violation.code is ErrorCode.ENHANCE_YOUR_CALM


def test_settings_are_applied_once_a_frame() -> None:
    """Each walks over all streams, and thousands fit into a frame."""
    ends = Joined(settings={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0})
    number = ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(5000), OK_TRAILERS)
    ends.connection.take_out()
    ends.send(settings_frame([(4, 1000), (4, 0)] * 1000 + [(4, 7)]))
    assert frame(DATA, 0, number, bytes(7)) in ends.connection.take_out()
    assert ends.connection.violation is None


async def test_a_handler_that_is_cancelled_from_within_is_answered_all_the_same() -> None:
    ends = Joined(accept=World().service.accept)
    ends.send(raw_request(1, block("/s/Drop"), flags=4) + frame(DATA, 1, 1, pack_message(b"")))
    for _ in range(4):
        await asyncio.sleep(0)
    assert b"grpc-status\x011" in ends.connection.take_out()
    assert ends.connection.is_idle
    assert ends.connection.running == 0
