"""Streams that we open, against gRPC's own server: flow control both ways, orderly ends, and no cancel ever."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from orchestrator.http2.frames import (
    DATA,
    END_HEADERS,
    END_STREAM,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
    frame,
    settings_frame,
)
from orchestrator.http2.grpc.channel import ConnectionPool, GrpcChannel
from orchestrator.http2.grpc.client_call import ClientStream
from orchestrator.http2.grpc.wire import RESPONSE_HEADERS, RpcError, pack_message, trailers
from tests.http2.world import until

LARGE = bytes(range(256)) * (5 * 2**12)  # 5 MiB


class Theirs:
    """A service by grpc.aio whose streams note how they end; ``release`` lets go what waits."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.taken: list[bytes] = []
        self.written = 0
        self.cancelled = 0
        self.ended = 0
        self.connections: set[str] = set()

    async def echo(self, messages: AsyncIterator[bytes], context: Any) -> None:
        self.connections.add(context.peer())
        try:
            async for message in messages:
                self.taken.append(message)
                if message == b"fail":
                    await context.abort(grpc.StatusCode.DATA_LOSS, "é – 100 %")
                if message == b"enough":
                    break
                await context.write(message)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1

    async def late(self, messages: AsyncIterator[bytes], context: Any) -> None:
        await self.release.wait()
        await self.echo(messages, context)

    async def flood(self, messages: AsyncIterator[bytes], context: Any) -> None:
        """Answer the first message a thousand times."""
        message = await anext(messages)
        try:
            for _ in range(1000):
                await context.write(message)
                self.written += 1
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1

    async def unary(self, message: bytes, context: Any) -> bytes:
        self.connections.add(context.peer())
        return message


@asynccontextmanager
async def open_theirs() -> AsyncIterator[tuple[Theirs, str]]:
    theirs = Theirs()
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(theirs.unary),
        **{
            name.capitalize(): grpc.stream_stream_rpc_method_handler(getattr(theirs, name))
            for name in ("echo", "late", "flood")
        },
    }
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield theirs, f"127.0.0.1:{port}"
    finally:
        theirs.release.set()
        await server.stop(None)


@asynccontextmanager
async def open_channel() -> AsyncIterator[tuple[Theirs, GrpcChannel]]:
    async with open_theirs() as (theirs, address):
        channel = GrpcChannel(address)
        try:
            yield theirs, channel
        finally:
            theirs.release.set()
            await channel.close(drain_s=5.0)


def opened(channel: GrpcChannel, method: str = "Echo") -> ClientStream:
    return channel.open_stream(f"/s/{method}", explain=lambda error: error)


async def answers_of(stream: ClientStream) -> list[bytes]:
    async with asyncio.timeout(20):
        return [answer async for answer in stream.answers()]


async def test_messages_of_any_size_go_both_ways_at_once_and_half_closing_ends_in_order() -> None:
    messages = [b"", b"x", LARGE, b"", bytes(100_000), LARGE] + [b"%d" % number for number in range(500)]
    async with open_channel() as (theirs, channel):
        stream = opened(channel)

        async def send() -> None:
            for message in messages:
                await stream.send(message)
            await stream.finish()

        sending = asyncio.create_task(send())
        assert await answers_of(stream) == messages
        await sending
        stream.abandon()
        assert channel.in_flight == 0
        await until(lambda: theirs.ended)
        assert theirs.cancelled == 0


async def test_a_reader_that_takes_nothing_holds_up_its_own_stream_alone() -> None:
    async with open_channel() as (theirs, channel):
        stream, other = opened(channel, "Flood"), opened(channel)
        await stream.send(bytes(100_000))
        await other.send(b"beside")
        answers = stream.answers()
        assert len(await anext(answers)) == 100_000
        await asyncio.sleep(0.5)
        written = theirs.written
        assert written < 200, "a few windows, and not a thousand messages"
        await asyncio.sleep(0.2)
        assert theirs.written == written
        assert await channel.call("/s/Unary", LARGE) == LARGE
        assert await anext(other.answers()) == b"beside"
        assert len([answer async for answer in answers]) == 999
        for one in (stream, other):
            one.abandon()


async def test_sending_waits_for_a_server_that_takes_no_more() -> None:
    async with open_channel() as (theirs, channel):
        stream = opened(channel, "Late")
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(100):
                await stream.send(bytes(1_000_000))
                sent += 1
            await stream.finish()

        sending = asyncio.create_task(send())
        await asyncio.sleep(0.5)
        assert sent < 50
        theirs.release.set()
        assert len(await answers_of(stream)) == 100
        await sending


@pytest.mark.parametrize("method", ["Flood", "Late"])
async def test_a_stream_that_is_left_is_read_to_its_end_and_never_cancelled(method: str) -> None:
    async with open_channel() as (theirs, channel):
        stream = opened(channel, method)
        await stream.send(bytes(100_000))
        reading = asyncio.create_task(anext(stream.answers()))
        sending = asyncio.create_task(stream.send(LARGE))
        await asyncio.sleep(0.1)
        for task in (reading, sending):
            task.cancel()
        await asyncio.gather(reading, sending, return_exceptions=True)
        stream.abandon()
        stream.abandon()
        closing = asyncio.create_task(channel.close(drain_s=10.0))
        await asyncio.sleep(0.1)
        theirs.release.set()
        await closing
        assert channel.in_flight == 0
        assert (theirs.ended, theirs.cancelled) == (1, 0)
        if method == "Late":
            assert [len(message) for message in theirs.taken] == [100_000, len(LARGE)], "what was begun came whole"


async def test_how_the_server_ends_a_stream_is_told() -> None:
    async with open_channel() as (_, channel):
        failing = opened(channel)
        await failing.send(b"fail")
        with pytest.raises(RpcError, match="é – 100 %") as caught:
            await answers_of(failing)
        assert caught.value.status == "DATA_LOSS"
        with pytest.raises(RpcError, match="é – 100 %"):
            await failing.send(b"more")
        nowhere = opened(channel, "None")
        await nowhere.send(b"")
        with pytest.raises(RpcError) as caught:
            await answers_of(nowhere)
        assert caught.value.status == "UNIMPLEMENTED"
        ended = opened(channel)
        await ended.send(b"enough")
        assert await answers_of(ended) == []
        with pytest.raises(RpcError, match="has ended"):
            await ended.send(b"more")
        assert channel.in_flight == 0


async def test_a_server_that_ends_a_stream_early_lets_go_who_is_sending() -> None:
    async with open_channel() as (theirs, channel):
        stream = opened(channel, "Late")
        sending = asyncio.create_task(stream.send(b"enough"))
        await sending
        sending = asyncio.create_task(stream.send(bytes(50_000_000)))
        await asyncio.sleep(0.1)
        assert not sending.done()
        theirs.release.set()
        await asyncio.wait([sending], timeout=10)
        assert sending.done()
        assert await answers_of(stream) == []
        assert await channel.call("/s/Unary", b"goes on") == b"goes on"


async def test_a_stream_on_which_nothing_was_sent_is_none() -> None:
    async with open_channel() as (theirs, channel):
        left, finished = opened(channel), opened(channel)
        assert channel.in_flight == 2
        left.abandon()
        await finished.finish()
        assert await answers_of(finished) == []
        assert channel.in_flight == 0
        assert not theirs.connections
    absent = GrpcChannel("127.0.0.1:1")
    stream = opened(absent)
    with pytest.raises(RpcError, match="failed to connect"):
        await stream.send(b"")
    with pytest.raises(RpcError, match="failed to connect"):
        await answers_of(stream)
    await absent.close(drain_s=0.0)


async def test_channels_of_a_pool_share_one_connection_and_count_their_own_calls() -> None:
    async with open_theirs() as (theirs, address):
        pool = ConnectionPool()
        first, second = GrpcChannel(address, pool), GrpcChannel(address, pool)
        stream = opened(first)
        await stream.send(b"x")
        assert await second.call("/s/Unary", b"y") == b"y"
        assert await asyncio.gather(*(channel.call("/s/Unary", b"z") for channel in (first, second))) == [b"z", b"z"]
        assert len(theirs.connections) == 1
        assert (first.in_flight, second.in_flight) == (1, 0)
        await second.close(drain_s=1.0)
        await second.close(drain_s=1.0)
        assert await anext(stream.answers()) == b"x", "the connection is the other one's too"
        stream.abandon()
        await first.close(drain_s=1.0)
        third = GrpcChannel(address, pool)
        assert await third.call("/s/Unary", b"new") == b"new"
        assert len(theirs.connections) == 2
        await third.close(drain_s=1.0)


async def test_what_is_sent_for_a_stream_holds_no_reset_and_one_end() -> None:
    """A server that answers in the middle of everything, and ends the stream before we have."""
    seen: list[tuple[int, int]] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(settings_frame([]))
        try:
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                number = int.from_bytes(head[5:], "big")
                if head[3] == SETTINGS and not head[4]:
                    writer.write(frame(SETTINGS, 1, 0))
                elif number:
                    seen.append((head[3], head[4]))
                    if head[3] == HEADERS:
                        writer.write(
                            frame(HEADERS, END_HEADERS, number, RESPONSE_HEADERS)
                            + frame(DATA, 0, number, pack_message(b"a") + pack_message(b"b")[:3])
                            + frame(DATA, 0, number, pack_message(b"b")[3:])
                            + frame(HEADERS, END_HEADERS | 1, number, trailers("OK", "", is_only=False))
                            + frame(RST_STREAM, 0, number, ErrorCode.NO_ERROR.to_bytes(4, "big"))
                        )
        except asyncio.IncompleteReadError:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = GrpcChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    stream = opened(channel)
    await stream.send(bytes(200_000))  # more than its window
    assert await answers_of(stream) == [b"a", b"b"]
    stream.abandon()
    await until(lambda: any(flags & END_STREAM for _, flags in seen))
    await channel.close(drain_s=1.0)
    server.close()
    await server.wait_closed()
    assert RST_STREAM not in {kind for kind, _ in seen}
    assert [pair for pair in seen if pair[1] & END_STREAM] == [(DATA, END_STREAM)]


@pytest.mark.parametrize("value", ["a\tb", "café", "\x7f", b"\x00\xff"])
async def test_metadata_of_any_kind_goes_along(value: str | bytes) -> None:
    """gRPC's own client refuses to send some of it, with INTERNAL."""
    async with open_channel() as (_, channel):
        key = "x-note" if isinstance(value, str) else "x-note-bin"
        stream = channel.open_stream("/s/Echo", ((key, value),), explain=lambda error: error)
        await stream.send(b"message")
        await stream.finish()
        assert [message async for message in stream.answers()] == [b"message"]
        assert await channel.call("/s/Unary", b"message", ((key, value),)) == b"message"
