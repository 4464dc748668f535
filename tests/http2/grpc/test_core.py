"""What gRPC's C core does on a connection: pings, deadlines, cancels, large messages and metadata, ages, crowds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    GOAWAY,
    HEADER_BYTES,
    HEADERS,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    rst_stream_frame,
    settings_frame,
)
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import pack_message
from tests.http2.peer import raw_request
from tests.http2.world import BLOCK, failure, open_world, unary, until

LARGE = bytes(range(256)) * (5 * 2**12)  # 5 MiB
UNBOUNDED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
TINY = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.max_frame_size", 16384))


@pytest.mark.parametrize("options", [UNBOUNDED, (*UNBOUNDED, *TINY)], ids=["usual windows", "tiny windows"])
async def test_large_messages_go_both_ways_at_once(options: Any) -> None:
    windows = {"stream_window_bytes": 16384, "connection_window_bytes": 70_000}
    async with (
        open_world(max_message_bytes=2**23, **windows) as world,
        grpc.aio.insecure_channel(world.address, options=options) as channel,
    ):
        answers = await asyncio.gather(*(unary(channel, "Echo")(LARGE) for _ in range(3)))
        assert all(answer == LARGE for answer in answers)
        stream = channel.stream_stream("/s/Stream")(iter([LARGE, b"", LARGE]))
        assert [answer == LARGE async for answer in stream] == [True, False, True]
        assert world.service.receive_budget.total_bytes == 0
        assert world.connections[0].is_idle


async def test_keepalive_pings_keep_a_silent_stream_alive() -> None:
    options = (
        ("grpc.keepalive_time_ms", 20),
        ("grpc.keepalive_timeout_ms", 1000),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.keepalive_permit_without_calls", 1),
    )
    async with open_world() as world, grpc.aio.insecure_channel(world.address, options=options) as channel:
        stream = channel.stream_stream("/s/Stream")()
        await stream.write(b"first")
        assert await stream.read() == b"first"
        await asyncio.sleep(0.5)
        await stream.write(b"second")
        assert await stream.read() == b"second"
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
        assert len(world.connections) == 1


async def test_a_half_closed_stream_is_answered_to_its_end() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        stream = channel.stream_stream("/s/Late")()
        await stream.write(b"only")
        await stream.done_writing()
        await until(lambda: world.connections)
        await asyncio.sleep(0.05)
        world.release.set()
        assert await stream.read() is grpc.aio.EOF
        assert await stream.code() is grpc.StatusCode.OK
        assert world.taken == [b"only"]


async def test_a_stream_that_is_cancelled_or_out_of_time_ends_and_holds_nothing() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        cancelled = channel.stream_stream("/s/Late")()
        for _ in range(50):
            await cancelled.write(bytes(1000))
        cancelled.cancel()
        late = channel.stream_stream("/s/Late")(timeout=0.05)
        await late.write(bytes(1000))
        assert (await failure(late.read()))[0] == "DEADLINE_EXCEEDED"
        await until(lambda: world.connections[0].running == 0)
        assert world.service.receive_budget.total_bytes == 0
        assert await unary(channel, "Echo")(b"still here") == b"still here"


async def test_binary_and_large_metadata_come_through_and_too_much_is_refused() -> None:
    raw = bytes(range(256)) * 30
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        for size in (0, 1, 2, 3, 4, len(raw)):
            sent = (("x-raw-bin", raw[:size]),)
            assert await unary(channel, "Echo")(b"", metadata=sent) == repr(list(sent)).encode()
        many = tuple((f"x-{number:03d}", "v" * 20) for number in range(150))
        assert await unary(channel, "Echo")(b"", metadata=many) == repr(sorted(many)).encode()
        refused = (("x-much", "v" * 17_000),)
        assert (await failure(unary(channel, "Echo")(b"", metadata=refused)))[0] == "RESOURCE_EXHAUSTED"


async def test_a_thousand_streams_of_one_connection_and_many_connections() -> None:
    async with open_world() as world, AsyncExitStack() as stack:
        first = await stack.enter_async_context(grpc.aio.insecure_channel(world.address))
        waiting = [unary(first, "Wait")(b"%d" % number) for number in range(1000)]
        await until(lambda: world.waiting == 1000)
        for number in range(100):
            own = [("grpc.use_local_subchannel_pool", 1), ("slim.number", number)]
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(world.address, options=own))
            assert await unary(channel, "Echo")(b"%d" % number) == b"%d" % number
        assert world.listener.connections == 101
        world.release.set()
        assert await asyncio.gather(*waiting) == [b"%d" % number for number in range(1000)]


async def test_a_server_that_ages_its_connections_loses_no_call_of_ours() -> None:
    """It says GOAWAY again and again, with calls under way."""
    peers: set[str] = set()

    async def echo(message: bytes, context: Any) -> bytes:
        peers.add(context.peer())
        return message

    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    ages = [("grpc.max_connection_age_ms", 100), ("grpc.max_connection_age_grace_ms", 5000)]
    server = grpc.aio.server(options=ages)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    channel = GrpcChannel(f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}")
    await server.start()
    made = 0

    async def ask() -> None:
        nonlocal made
        while len(peers) < 5 or made <= 50:
            assert await channel.call("/s/Echo", b"again") == b"again"
            made += 1

    try:
        async with asyncio.timeout(60):
            await asyncio.gather(*(ask() for _ in range(8)))
    finally:
        await channel.close(drain_s=1.0)
        await server.stop(0)


async def test_empty_messages_of_a_stream_are_all_there() -> None:
    async def nothing() -> AsyncIterator[bytes]:
        for _ in range(2000):
            yield b""

    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        stream = channel.stream_stream("/s/Stream")(nothing())
        assert [answer async for answer in stream] == [b""] * 2000


async def read_frames(reader: asyncio.StreamReader, *last: tuple[int, int]) -> list[tuple[int, int, int]]:
    """Return type, flags and stream of the frames up to one of a type with a flag.

    SETTINGS and windows are left out, and so are pings of the peer's own: grpc's core measures the path with them
    whenever it likes.
    """
    found: list[tuple[int, int, int]] = []
    async with asyncio.timeout(10):
        while not any(kind == found[-1][0] and flag & found[-1][1] for kind, flag in last if found):
            head = await reader.readexactly(HEADER_BYTES)
            await reader.readexactly(int.from_bytes(head[:3], "big"))
            is_probe = head[3] == PING and not head[4] & ACK
            if head[3] not in (SETTINGS, WINDOW_UPDATE) and not is_probe:
                found.append((head[3], head[4], int.from_bytes(head[5:], "big")))
    return found


@asynccontextmanager
async def open_theirs() -> AsyncIterator[str]:
    async def echo(message: bytes, context: Any) -> bytes:
        return message

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("s", {"Echo": grpc.unary_unary_rpc_method_handler(echo)}),)
    )
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@pytest.mark.parametrize("is_ours", [True, False], ids=["ours", "theirs"])
async def test_what_comes_on_a_closed_stream_is_ignored_as_grpcs_own_core_does(is_ours: bool) -> None:
    """RFC 9113 would have STREAM_CLOSED; this is what real Tritons answer with."""
    after = (
        frame(DATA, 0, 1, b"more"),
        frame(DATA, 1, 1, b"more"),
        raw_request(1, BLOCK),
        frame(WINDOW_UPDATE, 0, 1, bytes((0, 0, 0, 5))),
        rst_stream_frame(1, ErrorCode.CANCEL),
    )
    async with AsyncExitStack() as stack:
        if is_ours:
            address = (await stack.enter_async_context(open_world())).address
        else:
            address = await stack.enter_async_context(open_theirs())
        reader, writer = await asyncio.open_connection(*address.split(":"))
        stack.callback(writer.close)
        writer.write(PREFACE + settings_frame([]) + frame(SETTINGS, ACK, 0))
        ends = ((HEADERS, END_STREAM), (GOAWAY, 0xFF), (PING, ACK))
        for number in (1, 3):
            writer.write(raw_request(number, BLOCK, flags=4) + frame(DATA, 1, number, pack_message(b"x")))
            answer = await read_frames(reader, *ends)
            assert answer[-1] == (HEADERS, 5, number)
            for more in after if number == 1 else ():
                writer.write(more + frame(PING, 0, 0, b"12345678"))
                assert await read_frames(reader, *ends) == [(PING, ACK, 0)]
