"""What is held of clients' messages, of their answers, and of both for all of them: no more than came, and bounded."""

from __future__ import annotations

import asyncio
import gc
import threading
import tracemalloc
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import h2.settings
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.http2.budget import HeldBudget, time_bought_s
from orchestrator.http2.frames import (
    DATA,
    RST_STREAM,
    ErrorCode,
    frame,
    window_update_frame,
)
from orchestrator.http2.grpc.wire import OK_TRAILERS, RESPONSE_HEADERS, pack_message
from tests.http2.peer import Joined, raw_request
from tests.http2.test_misbehaviour import LATE, STREAM, block
from tests.http2.world import BLOCK, LIMIT, World, until


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


@pytest.mark.parametrize(
    ("size_bytes", "held_bytes", "stall_s", "bought_s"),
    [
        (1024, 0, 30.0, 1.0),
        (2048, 2**20, 30.0, 2.0),
        (2**20, 2**26, 30.0, 30.0),
        (1024, 2**26, 30.0, 30.0 / 1024),
        (0, 2**20, 30.0, 0.0),
    ],
)
def test_a_piece_buys_time_and_less_where_much_is_held(
    size_bytes: int, held_bytes: int, stall_s: float, bought_s: float
) -> None:
    assert time_bought_s(size_bytes, held_bytes, stall_s) == pytest.approx(bought_s)


@given(st.integers(1, 10**8), st.integers(0, 10**8), st.floats(0.1, 100.0), st.integers(1, 8))
def test_no_way_to_cut_a_piece_buys_more(size_bytes: int, held_bytes: int, stall_s: float, parts: int) -> None:
    whole_s = time_bought_s(size_bytes * parts, held_bytes, stall_s)
    assert parts * time_bought_s(size_bytes, held_bytes, stall_s) == pytest.approx(whole_s)
