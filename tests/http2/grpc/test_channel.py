"""Our client against gRPC's own server, and against servers that refuse, break off and go away."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest
import uvloop

from orchestrator.http2.frames import (
    END_HEADERS,
    HEADERS,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
    frame,
    goaway_frame,
    settings_frame,
)
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.client_call import UnaryExchange
from orchestrator.http2.grpc.wire import RESPONSE_HEADERS, RpcError, pack_message, read_request_head, trailers


class Theirs:
    """A server by grpc.aio."""

    def __init__(self) -> None:
        self.release = asyncio.Event()
        self.seen: list[tuple[tuple[str, Any], ...]] = []
        self.waiting = 0
        self.ended = 0

    async def echo(self, message: bytes, context: Any) -> bytes:
        self.seen.append(tuple((key, value) for key, value in context.invocation_metadata()))
        return message

    async def wait(self, message: bytes, context: Any) -> bytes:
        self.waiting += 1
        await self.release.wait()
        self.ended += 1
        return message

    async def fail(self, message: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.DATA_LOSS, "é – 100 %")
        return b""


@asynccontextmanager
async def open_theirs() -> AsyncIterator[tuple[Theirs, GrpcChannel]]:
    theirs = Theirs()
    handlers = {
        name.capitalize(): grpc.unary_unary_rpc_method_handler(getattr(theirs, name))
        for name in ("echo", "wait", "fail")
    }
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    channel = GrpcChannel(f"127.0.0.1:{port}")
    try:
        yield theirs, channel
    finally:
        theirs.release.set()
        await channel.close(drain_s=5.0)
        await server.stop(None)


@asynccontextmanager
async def open_scripted(*scripts: Any) -> AsyncIterator[tuple[list[int], GrpcChannel]]:
    """A server that plays one script a connection: a function of the stream's number, or its last words."""
    served: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = scripts[min(len(served), len(scripts) - 1)]
        served.append(0)
        try:
            await reader.readexactly(len(PREFACE))
            writer.write(settings_frame([]))
            while True:
                head = await reader.readexactly(9)
                await reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == SETTINGS and not head[4]:
                    writer.write(frame(SETTINGS, 1, 0))
                elif head[3] == HEADERS:
                    served[-1] += 1
                    if isinstance(script, bytes):
                        writer.write(script)
                        break
                    writer.write(script(int.from_bytes(head[5:], "big")))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = GrpcChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    try:
        yield served, channel
    finally:
        await channel.close(drain_s=1.0)
        server.close()
        await server.wait_closed()


def answer(number: int) -> bytes:
    return (
        frame(HEADERS, END_HEADERS, number, RESPONSE_HEADERS)
        + frame(0, 0, number, pack_message(b"ok"))
        + frame(HEADERS, END_HEADERS | 1, number, trailers("OK", "", is_only=False))
    )


async def refused(channel: GrpcChannel, path: str = "/s/Echo") -> tuple[str, str]:
    with pytest.raises(RpcError) as caught:
        await channel.call(path, b"")
    return caught.value.status, caught.value.detail


@pytest.mark.parametrize("size", [0, 1, 16_384, 65_536, 3_000_000])
async def test_messages_of_any_size_come_and_go(size: int) -> None:
    async with open_theirs() as (_, channel):
        message = bytes(range(256)) * (size // 256) + bytes(size % 256)
        assert await channel.call("/s/Echo", message) == message


async def test_what_was_answered_is_not_left_to_the_collector() -> None:
    """An answer may have megabytes."""
    async with open_theirs() as (_, channel):
        gc.collect()
        gc.disable()
        try:
            assert await channel.call("/s/Echo", b"message") == b"message"
            await asyncio.sleep(0)
            assert not [found for found in gc.get_objects() if type(found) is UnaryExchange]
        finally:
            gc.enable()


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async with open_theirs() as (_, channel):
        messages = [b"%d" % number * 500 for number in range(500)]
        assert await asyncio.gather(*(channel.call("/s/Echo", message) for message in messages)) == messages
        assert channel.in_flight == 0


async def test_metadata_and_statuses_come_through() -> None:
    async with open_theirs() as (theirs, channel):
        await channel.call("/s/Echo", b"", (("x-key", "v"), ("x-bin", b"\0\xff\1")))
        assert {("x-key", "v"), ("x-bin", b"\0\xff\1")} <= set(theirs.seen[0])
        assert await refused(channel, "/s/Fail") == ("DATA_LOSS", "é – 100 %")
        assert (await refused(channel, "/s/None"))[0] == "UNIMPLEMENTED"


async def test_more_metadata_than_servers_take_is_not_sent_to_them() -> None:
    """A client's few bytes may be many values of one key; Triton would end the connection, with all others' calls."""
    many = (b"x" * 100 + b"-bin", b",".join([b"AA"] * 5000))
    fields = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/"), (b"content-type", b"application/grpc")]
    head = read_request_head([*fields, many], max_list_bytes=2**14)
    assert not head.is_too_large
    assert len(head.metadata) == 5000
    async with open_scripted(answer) as (served, channel):
        assert await channel.call("/s/Echo", b"", (("x-key", "v" * 16_000),)) == b"ok"
        with pytest.raises(RpcError, match="and servers take 16384; send less") as caught:
            await channel.call("/s/Echo", b"", head.metadata)
        assert caught.value.status == "RESOURCE_EXHAUSTED"
        stream = channel.open_stream("/s/Echo", head.metadata, explain=lambda error: error)
        with pytest.raises(RpcError, match="and servers take 16384; send less"):
            await stream.send(b"")
        assert served == [1]
        assert channel.in_flight == 0


async def test_who_gives_up_leaves_the_call_to_end_by_itself() -> None:
    async with open_theirs() as (theirs, channel):
        call = asyncio.create_task(channel.call("/s/Wait", b""))
        while not theirs.waiting:
            await asyncio.sleep(0.005)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert channel.in_flight == 1
        closing = asyncio.create_task(channel.close(drain_s=5.0))
        await asyncio.sleep(0.05)
        assert not closing.done()
        theirs.release.set()
        await closing
        assert theirs.ended == 1


async def test_a_connection_that_is_set_aside_takes_no_new_call_and_answers_what_is_under_way() -> None:
    async with open_scripted(lambda number: b"", lambda number: b"", lambda number: b"", answer) as (served, channel):
        calls = []
        for _ in range(4):
            calls.append(asyncio.create_task(channel.call("/s/Echo", b"")))
            await asyncio.sleep(0.05)
            channel.set_aside()
        assert served == [1, 1, 2], "a third was not set aside, as two have not ended"
        for call in calls:
            call.cancel()
    async with open_theirs() as (theirs, channel):
        waiting = asyncio.create_task(channel.call("/s/Wait", b"first"))
        while not theirs.waiting:
            await asyncio.sleep(0.005)
        channel.set_aside()
        assert await channel.call("/s/Echo", b"second") == b"second"
        theirs.release.set()
        assert await waiting == b"first"


@pytest.mark.parametrize("turns", range(1, 8))
def test_a_channel_whose_connection_was_given_up_at_any_moment_can_be_closed(turns: int) -> None:
    """On uvloop, which does not tell a protocol that was made just before."""

    async def give_up() -> None:
        async with open_scripted(answer) as (_, channel):
            before = asyncio.all_tasks()
            call = asyncio.create_task(channel.call("/s/Echo", b""))
            await asyncio.sleep(0)
            (connecting,) = asyncio.all_tasks() - before - {call}
            for _ in range(turns - 1):
                await asyncio.sleep(0)
            connecting.cancel()
            (ended,) = await asyncio.gather(call, return_exceptions=True)
            assert ended == b"ok" or isinstance(ended, asyncio.CancelledError)
            async with asyncio.timeout(5):
                await channel.close(drain_s=1.0)
            assert channel.in_flight == 0

    uvloop.run(give_up())


async def test_a_server_that_is_not_there_is_told_at_once_and_found_when_it_comes() -> None:
    async with open_scripted(answer) as (_, channel):
        absent = GrpcChannel("127.0.0.1:1")
        for _ in range(20):
            status, detail = await refused(absent)
            assert status == "UNAVAILABLE"
            assert detail == "failed to connect: Connection refused"
        await absent.close(drain_s=0.0)
        assert await channel.call("/s/Echo", b"") == b"ok"


async def test_a_connection_that_is_lost_is_told_and_made_anew() -> None:
    async with open_scripted(b"", answer) as (served, channel):
        status, detail = await refused(channel)
        assert status == "UNAVAILABLE"
        assert "Connection reset" in detail
        assert await channel.call("/s/Echo", b"") == b"ok"
        assert served == [1, 1]


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_connection_that_is_lost_as_it_is_made_is_told(loop_factory: Any) -> None:
    """A call that was made on it had no answer for ever."""

    async def dial(host: str, port: int) -> socket.socket:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.close()
        return ours

    async def ask() -> None:
        channel = GrpcChannel("h:1", dial=dial)
        for _ in range(3):
            async with asyncio.timeout(5):
                assert (await refused(channel))[0] == "UNAVAILABLE"
        assert channel.in_flight == 0
        await channel.close(drain_s=0)

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(ask())


async def test_a_server_that_ends_each_connection_at_once_is_not_asked_by_every_call() -> None:
    dialled = 0

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        channel = GrpcChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
        told = {await refused(channel) for _ in range(200)}
        assert {status for status, _ in told} == {"UNAVAILABLE"}
        assert dialled < 100
        await channel.close(drain_s=0)


@pytest.mark.parametrize(
    "script",
    [
        lambda number: frame(RST_STREAM, 0, number, ErrorCode.REFUSED_STREAM.to_bytes(4, "big")),
        lambda number: goaway_frame(0, ErrorCode.NO_ERROR),
    ],
)
async def test_what_a_server_has_not_begun_is_sent_once_more(script: Any) -> None:
    calls = 0

    def play(number: int) -> bytes:
        nonlocal calls
        calls += 1
        return bytes(script(number)) if calls == 1 else answer(number)

    async with open_scripted(play) as (_, channel):
        assert await channel.call("/s/Echo", b"") == b"ok"
        assert calls == 2
    async with open_scripted(script) as (_, channel):
        assert (await refused(channel))[0] == "UNAVAILABLE"


async def test_what_was_begun_before_the_server_goes_away_is_answered() -> None:
    async with open_scripted(lambda number: goaway_frame(number, ErrorCode.NO_ERROR) + answer(number)) as (
        served,
        channel,
    ):
        for _ in range(3):
            assert await channel.call("/s/Echo", b"") == b"ok"
        assert served == [1, 1, 1]


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (lambda n: frame(RST_STREAM, 0, n, ErrorCode.CANCEL.to_bytes(4, "big")), "CANCELLED"),
        (lambda n: frame(RST_STREAM, 0, n, ErrorCode.INTERNAL_ERROR.to_bytes(4, "big")), "INTERNAL"),
        (lambda n: frame(HEADERS, END_HEADERS | 1, n, b"\x88"), "UNKNOWN"),
        (lambda n: frame(HEADERS, END_HEADERS | 1, n, b"\x08\x03503"), "UNAVAILABLE"),
        (lambda n: frame(HEADERS, END_HEADERS, n, RESPONSE_HEADERS) + frame(0, 1, n, pack_message(b"")), "INTERNAL"),
        (lambda n: frame(HEADERS, END_HEADERS | 1, n, trailers("OK", "", is_only=True)), "INTERNAL"),
        (lambda n: frame(HEADERS, END_HEADERS | 1, n, trailers("NOT_FOUND", "gone", is_only=True)), "NOT_FOUND"),
        (lambda n: frame(HEADERS, END_HEADERS, 2, RESPONSE_HEADERS), "UNAVAILABLE"),
        (lambda n: b"HTTP/1.1 400 Bad Request\r\n\r\n", "UNAVAILABLE"),
    ],
)
async def test_answers_that_are_none_are_errors(reply: Any, status: str) -> None:
    async with open_scripted(reply) as (_, channel):
        async with asyncio.timeout(5):
            assert (await refused(channel))[0] == status
        assert channel.in_flight == 0


async def test_a_connection_that_goes_away_is_looked_at_once_however_often_no_other_can_be_made() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(PREFACE))
        writer.write(settings_frame([]) + goaway_frame(1, ErrorCode.NO_ERROR))
        await reader.read()  # the call is not answered before the client has left
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    channel = GrpcChannel(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    waiting = asyncio.create_task(channel.call("/s/Wait", b""))
    await asyncio.sleep(0.1)
    server.close()
    for _ in range(3):
        assert (await refused(channel))[0] == "UNAVAILABLE"
        await asyncio.sleep(0.25)
    timers = getattr(asyncio.get_running_loop(), "_scheduled")  # noqa: B009
    assert sum("close_when_idle" in repr(timer) for timer in timers) == 1
    assert not waiting.done()
    waiting.cancel()
    await channel.close(drain_s=0.0)


async def test_a_channel_that_was_closed_makes_no_new_connection() -> None:
    """Nobody would close it; who still probes a server that has left does not know that it has."""
    async with open_scripted(answer) as (served, channel):
        assert await channel.call("/s/Echo", b"") == b"ok"
        await channel.close(drain_s=1.0)
        assert (await refused(channel))[1] == "failed to connect: the connection is closed"
        assert served == [1]


async def test_who_waits_for_a_connection_as_it_is_closed_is_told_and_not_cancelled() -> None:
    async def dial(host: str, port: int) -> socket.socket:
        await asyncio.sleep(60)
        raise OSError

    channel = GrpcChannel("nowhere:1", dial=dial)
    call = asyncio.create_task(channel.call("/s/Echo", b""))
    await asyncio.sleep(0.05)
    await channel.close(drain_s=0.1)
    with pytest.raises(RpcError):
        await call


async def test_a_connection_that_fails_when_nobody_waits_for_it_any_more_is_no_error_of_asyncios() -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: told.append(context))
    release = asyncio.Event()

    async def dial(host: str, port: int) -> socket.socket:
        await release.wait()
        raise ConnectionRefusedError

    channel = GrpcChannel("nowhere:1", dial=dial)
    call = asyncio.create_task(channel.call("/s/Echo", b""))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    release.set()
    await asyncio.sleep(0.05)
    await channel.close(drain_s=0.1)
    gc.collect()
    assert told == []
