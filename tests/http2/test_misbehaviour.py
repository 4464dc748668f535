"""What clients that misbehave may take of us: memory in proportion to what they send, and no more work than others."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import h2.settings
import hpack
import pytest
import uvloop

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.frames import (
    ACK,
    DATA,
    HEADERS,
    RST_STREAM,
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
from tests.http2.world import BLOCK, LIMIT, World, until


def block(path: str, *more: tuple[str, str]) -> bytes:
    """Return a header block that uses no table, so that it means the same wherever it stands."""
    fields = [*REQUEST[:2], (":path", path), *REQUEST[3:], *more]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode([hpack.NeverIndexedHeaderTuple(*field) for field in fields])


STREAM, LATE = block("/s/Stream"), block("/s/Late")


class Growth:
    """What has been allocated since."""

    def __call__(self) -> int:
        """Return how many bytes are held now."""
        return tracemalloc.get_traced_memory()[0]

    def most(self) -> int:
        """Return how many bytes were held at most."""
        return tracemalloc.get_traced_memory()[1]


@contextmanager
def growth() -> Iterator[Growth]:
    gc.collect()
    tracemalloc.start()
    try:
        yield Growth()
    finally:
        tracemalloc.stop()


async def test_a_message_in_single_bytes_takes_no_more_than_its_bytes() -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    ends.send(raw_request(1, BLOCK, flags=4) + frame(DATA, 0, 1, pack_message(bytes(LIMIT))[:5]))
    small_pieces = frame(DATA, 0, 1, b"ab") * 250
    with growth() as grown:
        for _ in range(100):
            ends.send(small_pieces)
            ends.connection.take_out()
        assert world.service.receive_budget.total_bytes == 50_005
        assert grown() < 150_000


async def test_messages_that_are_not_read_take_no_more_than_their_bytes() -> None:
    ends = Joined(accept=World().service.accept)
    ends.send(raw_request(1, LATE, flags=4))
    empty = frame(DATA, 0, 1, pack_message(b"") * 3000)
    with growth() as grown:
        for _ in range(20):
            ends.send(empty)
        assert grown() < 700_000
    await asyncio.sleep(0)


async def test_a_large_message_of_a_stream_is_held_once() -> None:
    world = World(max_message_bytes=16 * LIMIT)
    ends = Joined(accept=world.service.accept)
    body = pack_message(bytes(16 * LIMIT))
    with growth() as grown:
        ends.send(raw_request(1, STREAM, flags=4))
        for begin in range(0, len(body), 16_000):
            ends.send(frame(DATA, 0, 1, body[begin : begin + 16_000]))
            ends.connection.take_out()
            await asyncio.sleep(0)
        await until(lambda: world.taken)
        assert len(world.taken[0]) == 16 * LIMIT
        assert grown.most() < 20 * LIMIT
    ends.connection.abort(ErrorCode.CANCEL)
    await asyncio.sleep(0)


async def test_parts_of_streamed_messages_count_as_held() -> None:
    world = World(held_bytes=100_000)
    ends = Joined(accept=world.service.accept)
    for number in range(1, 21, 2):
        ends.send(raw_request(number, STREAM, flags=4) + frame(DATA, 0, number, pack_message(bytes(LIMIT))[:16_000]))
    for _ in range(3):
        await asyncio.sleep(0)
    assert world.service.receive_budget.total_bytes <= 100_000
    assert ends.connection.take_out().count(b"grpc-status\x018") == 4
    for number in range(1, 21, 2):
        ends.send(frame(RST_STREAM, 0, number, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert world.service.receive_budget.total_bytes == 0
    await asyncio.sleep(0)


async def test_who_holds_the_most_loses_it_and_not_who_sends_next() -> None:
    world = World(held_bytes=100_000)
    greedy, modest = (Joined(accept=world.service.accept) for _ in range(2))
    part = pack_message(bytes(LIMIT))[:16_000]
    for number in (1, 3, 5):
        greedy.send(raw_request(number, BLOCK, flags=4) + frame(DATA, 0, number, part))
    for _ in range(2):
        greedy.send(frame(DATA, 0, 3, part))
        modest.send(raw_request(1, BLOCK, flags=4) if modest.connection.is_idle else frame(DATA, 0, 1, part))
    assert world.service.receive_budget.total_bytes == 96_000
    message = pack_message(bytes(30_000))
    modest.send(raw_request(3, BLOCK, flags=4) + frame(DATA, 0, 3, message[:15_000]))
    assert greedy.connection.take_out().count(b"grpc-status\x018") == 1, "its largest, of 48,000 bytes"
    assert world.service.receive_budget.total_bytes == 96_000 - 48_000 + 15_000
    modest.send(frame(DATA, 1, 3, message[15_000:]))
    await asyncio.sleep(0.01)
    assert world.taken == [bytes(30_000)]
    for ends in (greedy, modest):
        ends.connection.abort(ErrorCode.CANCEL)
    assert world.service.receive_budget.total_bytes == 0


@pytest.mark.parametrize("call", [BLOCK, STREAM], ids=["unary", "stream"])
@pytest.mark.parametrize(("piece_bytes", "is_kept"), [(1, False), (200, False), (12_000, True)])
async def test_the_more_is_held_of_a_message_the_faster_it_has_to_come(
    call: bytes, piece_bytes: int, is_kept: bool
) -> None:
    ends = Joined(accept=World().service.accept, stall_s=30.0)
    message = pack_message(bytes(LIMIT))
    ends.send(raw_request(1, call, flags=4) + b"".join(frame(DATA, 0, 1, message[:16_000]) for _ in range(4)))
    await asyncio.sleep(0)
    for number in range(20):
        ends.now_s += 10.0
        ends.send(frame(DATA, 0, 1, bytes(piece_bytes)))
        ends.connection.check()
        if not ends.connection.streams:
            assert number > 1, "its client has thirty seconds"
            break
    assert bool(ends.connection.streams) == is_kept
    ends.connection.abort(ErrorCode.CANCEL)
    await asyncio.sleep(0)


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


@pytest.mark.parametrize("path", ["/s/Echo", "/s/Stream"])
async def test_what_grows_when_it_is_unpacked_does_so_beside_the_event_loop(path: str) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(bytes(LIMIT)) + packer.flush()
    assert len(packed) < 2000
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    ends.send(raw_request(1, block(path, ("grpc-encoding", "gzip")), flags=4) + frame(DATA, 1, 1, body))
    await until(lambda: world.taken)
    assert [len(message) for message in world.taken] == [LIMIT]
    assert any(thread.name.startswith("asyncio_") for thread in threading.enumerate())


async def test_what_small_messages_grow_to_counts_until_they_are_answered() -> None:
    world = World(held_bytes=2**20)
    ends = Joined(accept=world.service.accept)
    packer = zlib.compressobj(wbits=31)
    packed = packer.compress(bytes(200_000)) + packer.flush()
    body = b"\1" + len(packed).to_bytes(4, "big") + packed
    assert len(body) < 300
    for number in range(1, 41, 2):
        ends.send(
            raw_request(number, block("/s/Wait", ("grpc-encoding", "gzip")), flags=4) + frame(DATA, 1, number, body)
        )
        assert world.service.receive_budget.total_bytes <= 2**20
    assert ends.connection.take_out().count(b"grpc-status\x018") == 15
    world.release.set()
    await until(lambda: ends.connection.running == 0)
    assert world.service.receive_budget.total_bytes == 0


async def test_a_small_message_that_a_quick_handler_takes_counts_no_longer_than_the_call() -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    for number, message in enumerate((b"now", b"later", b"fail", b"else", b"later")):
        packed = zlib.compress(message)
        body = b"\1" + len(packed).to_bytes(4, "big") + packed
        head = block("/s/Quick", ("grpc-encoding", "deflate"))
        ends.send(raw_request(2 * number + 1, head, flags=4) + frame(DATA, 1, 2 * number + 1, body))
    await until(lambda: world.taken)
    await asyncio.sleep(0)
    assert world.service.receive_budget.total_bytes == 2 * len(b"later")
    world.held[0].answer(b"answer")
    ends.send(frame(RST_STREAM, 0, 9, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert world.service.receive_budget.total_bytes == 0


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


def test_answers_that_nobody_takes_are_held_up_to_a_bound_over_all_connections() -> None:
    budget = HeldBudget(1_000_000, spares_one=True)
    closed = {h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: 0}
    greedy, modest = (Joined(settings=closed, send_budget=budget) for _ in range(2))
    modest.send(raw_request(1, BLOCK))
    modest.calls[0].stream.respond(RESPONSE_HEADERS, bytes(100_000), OK_TRAILERS)
    for number in range(1, 201, 2):
        greedy.send(raw_request(number, BLOCK))
        greedy.calls[-1].stream.respond(RESPONSE_HEADERS, bytes(200_000), OK_TRAILERS)
        assert budget.total_bytes <= 1_000_000
    assert [call.aborted for call in greedy.calls].count(ErrorCode.ENHANCE_YOUR_CALM) == 96
    assert greedy.connection.take_out().count(ErrorCode.ENHANCE_YOUR_CALM.to_bytes(4, "big")) >= 96
    assert modest.calls[0].aborted is None
    modest.send(window_update_frame(0, 100_000) + window_update_frame(1, 100_000))
    assert modest.connection.is_idle
    assert budget.total_bytes == 4 * 200_000
    greedy.connection.abort(ErrorCode.CANCEL)
    assert budget.total_bytes == 0


def test_an_answer_that_is_larger_than_all_that_may_be_held_is_taken_alone() -> None:
    ends = Joined(send_budget=HeldBudget(1000, spares_one=True))
    number = ends.request(b"q")
    ends.calls[0].stream.respond(RESPONSE_HEADERS, bytes(100_000), OK_TRAILERS)
    ends.exchange()
    ends.send(window_update_frame(0, 100_000) + window_update_frame(number, 100_000))
    assert ends.connection.is_idle
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
