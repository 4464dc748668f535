"""gRPC over sockets, called by clients that nobody here wrote: grpcio, blocking and asyncio."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

import grpc
import h2.events
import hpack
import pytest
import trustme
from h2.exceptions import StreamClosedError

from orchestrator.http2.frames import DATA, PREFACE, WINDOW_UPDATE, ErrorCode, frame, settings_frame
from orchestrator.http2.grpc.wire import pack_message
from tests.http2.peer import HEADERS, Joined, raw_request
from tests.http2.world import BLOCK, LIMIT, World, failure, open_world, unary, until


async def run_out_of_time(method: Any, message: bytes, has_begun: Callable[[], object]) -> None:
    """Make a call that ends by its client's time limit after it has begun, with more time if it does not get there."""
    limit_s = 0.05
    while not has_begun():
        assert (await failure(method(message, timeout=limit_s)))[0] == "DEADLINE_EXCEEDED"
        limit_s *= 2


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, 200_000, LIMIT])
@pytest.mark.parametrize("compression", [None, grpc.Compression.Gzip, grpc.Compression.Deflate])
async def test_messages_of_any_size_come_and_go(size: int, compression: Any) -> None:
    message = bytes(range(256)) * (size // 256) + bytes(size % 256)
    async with open_world() as world, grpc.aio.insecure_channel(world.address, compression=compression) as channel:
        answer = await unary(channel, "Echo")(message)
        assert answer == (message or b"[]")
        stream = channel.stream_stream("/s/Stream")(iter([message, b"", message]), compression=compression)
        assert [found async for found in stream] == [message, b"", message]


async def test_a_blocking_client_is_served_too() -> None:
    def work(address: str) -> list[bytes]:
        with grpc.insecure_channel(address) as channel:
            return [unary(channel, "Echo")(b"%d" % number, timeout=10) for number in range(50)]

    async with open_world() as world:
        assert await asyncio.to_thread(work, world.address) == [b"%d" % number for number in range(50)]


async def test_many_calls_at_once_each_get_their_own_answer() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        messages = [b"%d" % number * 300 for number in range(1500)]
        assert await asyncio.gather(*(unary(channel, "Echo")(message) for message in messages)) == messages
        assert world.connections[0].is_idle
        assert world.service.receive_budget.total_bytes == world.connections[0].running == 0


async def test_metadata_comes_through() -> None:
    sent = (("x-text", "two words"), ("x-raw-bin", b"\0\xff"), ("x-text", "again"))
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        for _ in range(3):  # by literals, then from the table, then from the cache
            assert await unary(channel, "Echo")(b"", metadata=sent) == repr(sorted(sent)).encode()


async def test_a_caller_is_identified_once_a_call_and_a_stranger_before_anything_is_taken() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        for method, message in (("Echo", b"a"), ("Quick", b"now"), ("Quick", b"not taken")):
            await unary(channel, method)(message)
        await (channel.stream_stream("/s/Stream"))(iter([b"b"])).read()
        assert world.identified == ["/s/Echo", "/s/Quick", "/s/Quick", "/s/Stream"]
        taken = list(world.taken)
        for method in ("Echo", "Nobody"):
            call = unary(channel, method)(b"c", metadata=(("x-stranger", "yes"),))
            assert await failure(call) == ("DATA_LOSS", "a stranger – 100 %")
        assert world.taken == taken


async def test_failures_have_their_status_and_message() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        assert await failure(unary(channel, "Fail")(b"")) == ("DATA_LOSS", "broken – 100 %")
        assert (await failure(unary(channel, "None")(b"")))[0] == "UNIMPLEMENTED"
        assert (await failure(unary(channel, "Echo")(bytes(LIMIT + 1))))[0] == "RESOURCE_EXHAUSTED"
        more = (("x", "y" * 30_000),)
        assert (await failure(unary(channel, "Echo")(b"", metadata=more)))[0] == "RESOURCE_EXHAUSTED"
        stream = channel.stream_stream("/s/Stream")(iter([b"a", b"fail"]))
        assert await stream.read() == b"a"
        assert await failure(stream.read()) == ("DATA_LOSS", "broken – 100 %")
        assert await unary(channel, "Echo")(b"still here") == b"still here"


async def test_a_client_whose_time_is_up_or_who_cancels_ends_its_call() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        await run_out_of_time(unary(channel, "Wait"), b"", lambda: world.waiting)
        await until(lambda: world.cancelled == world.waiting)
        begun = world.waiting
        call = unary(channel, "Wait")(b"")
        await until(lambda: world.waiting == begun + 1)
        call.cancel()
        await until(lambda: world.cancelled == begun + 1)
        await until(lambda: world.connections[0].running == 0)


async def test_a_client_whose_clock_stands_still_is_told_that_its_time_is_up() -> None:
    # Raw, because a client that watches its own deadline never reads what the server says of it.
    async with open_world() as world:
        reader, writer = await asyncio.open_connection(*world.address.split(":"))
        block = hpack.Encoder().encode([*HEADERS[:2], (":path", "/s/Wait"), *HEADERS[3:], ("grpc-timeout", "50m")])
        writer.write(
            PREFACE + settings_frame([]) + raw_request(1, block, flags=4) + frame(DATA, 1, 1, pack_message(b""))
        )
        async with asyncio.timeout(10):
            await reader.readuntil(b"grpc-status\x014")
        assert world.cancelled == 1
        writer.close()


async def test_a_lost_connection_ends_its_calls() -> None:
    async with open_world() as world:
        channel = grpc.aio.insecure_channel(world.address)
        call = unary(channel, "Wait")(b"")
        await until(lambda: world.waiting)
        await channel.close()
        await until(lambda: world.cancelled == 1)
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_stream_that_is_not_read_holds_its_client_up() -> None:
    async with open_world(stream_window_bytes=100_000) as world, grpc.aio.insecure_channel(world.address) as channel:
        sent = 0

        async def messages() -> AsyncIterator[bytes]:
            nonlocal sent
            for number in range(500):
                yield b"%d" % number + bytes(10_000)
                sent = number + 1

        call = channel.stream_stream("/s/Late")(messages())
        await until(lambda: sent >= 8)
        await asyncio.sleep(0.1)
        assert sent < 100
        world.release.set()
        await call.wait_for_connection()
        assert [answer async for answer in call] == []
        assert [int(message.rstrip(b"\0")) for message in world.taken] == list(range(500))


async def test_who_does_not_read_costs_a_bounded_amount_and_nobody_else() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        with socket.create_connection(world.address.split(":")) as greedy:
            block = hpack.Encoder().encode([*HEADERS[:2], (":path", "/s/Big"), *HEADERS[3:]])
            # It opens every window as far as it goes, asks for 400 MiB, and reads none of it.
            opened = settings_frame([(4, 2**31 - 1)]) + frame(WINDOW_UPDATE, 0, 0, (2**31 - 2**17).to_bytes(4, "big"))
            greedy.sendall(PREFACE + opened)
            for number in range(1, 801, 2):
                greedy.sendall(raw_request(number, block, flags=4) + frame(DATA, 1, number, pack_message(b"")))
            await until(lambda: any(connection.is_paused for connection in world.connections))
            assert await unary(channel, "Echo")(b"me") == b"me"
            (paused,) = [connection for connection in world.connections if connection.is_paused]
            assert len(paused.take_out()) < 4 * LIMIT


@pytest.mark.parametrize(
    "body",
    [b"", b"\0\0\0", pack_message(b"a") + b"b", pack_message(b"a") * 2, pack_message(b"abc")[:-1], b"\1\0\0\0\1a"],
)
async def test_what_is_not_one_message_is_refused(body: bytes) -> None:
    world = World()
    ends = Joined(accept=world.service.accept)
    for split in (len(body), 3):
        number = ends.client.get_next_available_stream_id()
        ends.client.send_headers(number, [*HEADERS[:2], (":path", "/s/Echo"), *HEADERS[3:]])
        ends.client.send_data(number, body[:split])
        ends.exchange()
        with suppress(StreamClosedError):  # it was refused already
            ends.client.send_data(number, body[split:], end_stream=True)
        ends.exchange()
        status = [dict(e.headers)["grpc-status"] for e in ends.found(h2.events.ResponseReceived)]
        assert status[-1] == "13"
    assert world.service.receive_budget.total_bytes == ends.connection.running == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([*HEADERS[:4], ("content-type", "application/json")], "415"),
        ([(":method", "GET"), *HEADERS[1:]], "405"),
    ],
)
async def test_what_is_no_grpc_is_told_in_http(headers: list[tuple[str, str]], status: str) -> None:
    ends = Joined(accept=World().service.accept)
    ends.client.send_headers(1, headers, end_stream=True)
    ends.exchange()
    (response,) = ends.found(h2.events.ResponseReceived)
    assert dict(response.headers)[":status"] == status


async def test_too_much_that_is_not_whole_is_refused() -> None:
    world = World(held_bytes=100_000)
    ends = Joined(accept=world.service.accept)
    piece = pack_message(bytes(LIMIT))[:16000]
    for number in range(1, 21, 2):
        ends.connection.receive(raw_request(number, BLOCK, flags=4) + frame(DATA, 0, number, piece))
    assert world.service.receive_budget.total_bytes <= 100_000
    assert ends.connection.take_out().count(b"grpc-status\x018") == 4
    for number in range(1, 21, 2):
        ends.connection.receive(frame(3, 0, number, ErrorCode.CANCEL.to_bytes(4, "big")))
    assert world.service.receive_budget.total_bytes == 0


async def test_draining_lets_calls_end_and_turns_new_ones_away() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        call = unary(channel, "Wait")(b"answer")
        await until(lambda: world.waiting)
        stopping = asyncio.create_task(world.listener.drain())
        await asyncio.sleep(0.05)
        assert (await failure(unary(channel, "Echo")(b"")))[0] == "UNAVAILABLE"
        assert not stopping.done()
        world.release.set()
        assert await call == b"answer"
        async with asyncio.timeout(5):
            await stopping


async def test_stopping_does_not_wait_for_ever() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        call = unary(channel, "Wait")(b"")
        await until(lambda: world.waiting)
        world.listener.stop()
        assert (await failure(call))[0] == "UNAVAILABLE"
        await until(lambda: world.cancelled)


async def test_tls_is_spoken_with_those_who_ask_for_http2() -> None:
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    credentials = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    async with open_world(tls=context) as world:
        target = world.address.replace("127.0.0.1", "localhost")
        async with grpc.aio.secure_channel(target, credentials) as channel:
            assert await unary(channel, "Echo")(bytes(300_000)) == bytes(300_000)
        client = ssl.create_default_context()
        authority.configure_trust(client)
        client.set_alpn_protocols(["http/1.1"])
        host, port = target.split(":")
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            reader, writer = await asyncio.open_connection(host, int(port), ssl=client)
            try:
                writer.write(PREFACE)
                await reader.readexactly(1)
            finally:
                writer.close()


async def test_a_quick_handler_answers_at_once_or_later_or_leaves_a_call_to_the_other() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        call = unary(channel, "Quick")
        assert await call(b"now") == b"at once"
        assert await call(b"something else") == b"something else"
        assert await failure(call(b"fail")) == ("DATA_LOSS", "broken – 100 %")
        later = [asyncio.ensure_future(call(b"later")) for _ in range(2)]
        await until(lambda: len(world.held) == 2)
        assert world.connections[0].running == 2
        world.held[0].answer(b"at last")
        world.held[1].refuse(ValueError("after all"))
        assert await later[0] == b"at last"
        assert await failure(later[1]) == ("DATA_LOSS", "after all – 100 %")
        world.held[0].answer(b"again")  # which nobody hears
        assert await call(b"now") == b"at once"
        assert (world.connections[0].running, world.aborted) == (0, 0)


async def test_a_client_that_gives_up_lets_go_of_a_quick_call_once() -> None:
    async with open_world() as world, grpc.aio.insecure_channel(world.address) as channel:
        await run_out_of_time(unary(channel, "Quick"), b"later", lambda: world.held)
        await until(lambda: world.aborted == len(world.held))
        begun = world.aborted
        call = unary(channel, "Quick")(b"later")
        await until(lambda: len(world.held) == begun + 1)
        call.cancel()
        await until(lambda: world.aborted == begun + 1)
        assert world.connections[0].running == 0
        for held in world.held:
            held.answer(b"too late")
            held.refuse(ValueError("too late"))
        assert await unary(channel, "Quick")(b"now") == b"at once"
        assert world.aborted == begun + 1
