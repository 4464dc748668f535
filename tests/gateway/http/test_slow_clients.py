"""Clients that are slow, broken or far too many, on real sockets, while a good one goes on being answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import numpy as np
import pytest
import pytest_asyncio

from tests.gateway.calls import RawCalls, item_request
from tests.gateway.fakes import World, open_world

INFER = "/v2/models/fashion/infer"
HEAD = f"POST {INFER} HTTP/1.1\r\nHost: g\r\n"


def content(items: int = 1) -> bytes:
    data = np.ones((items, 1, 2, 2)).tolist()
    tensor = {"name": "pixels", "shape": [items, 1, 2, 2], "datatype": "FP32", "data": data}
    return json.dumps({"inputs": [tensor]}).encode()


async def hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


class Peer:
    """A client on a bare socket."""

    def __init__(self, world: World) -> None:
        self._place = world.http.removeprefix("http://").split(":")

    async def __aenter__(self) -> Peer:
        self.reader, self.writer = await asyncio.open_connection(*self._place)
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await hang_up(self.writer)

    async def say(self, data: bytes | str) -> None:
        self.writer.write(data.encode() if isinstance(data, str) else data)
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def hear_all(self) -> bytes:
        """Return what comes until the other side closes."""
        try:
            return await self.reader.read()
        except ConnectionError:
            return b""

    async def hear_status(self) -> bytes:
        return (await self.reader.readline()).split(b" ")[1]


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    limits = {"header_timeout_s": 0.3, "stall_timeout_s": 0.3, "idle_timeout_s": 0.6, "max_connections": 20}
    async with open_world(limits=limits) as opened:
        yield opened


async def be_good_over_http(world: World, over: asyncio.Event) -> int:
    """Ask again and again; return how often, all of it answered."""
    count = 0
    async with aiohttp.ClientSession(world.http) as session:
        while not over.is_set() or count < 5:
            async with session.post(INFER, data=content()) as response:
                assert response.status == 200, await response.text()
            count += 1
    return count


async def be_good_over_grpc(world: World, over: asyncio.Event) -> int:
    count = 0
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        while not over.is_set() or count < 5:
            assert (await RawCalls(channel).infer(item_request())).outputs
            count += 1
    return count


@contextlib.asynccontextmanager
async def good_client(world: World) -> AsyncIterator[None]:
    """Have a good client of each transport beside, never idle; they must be answered until the end."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        good = [tasks.create_task(be_good(world, over)) for be_good in (be_good_over_http, be_good_over_grpc)]
        yield
        over.set()
    assert all(task.result() >= 5 for task in good)


@pytest.mark.parametrize("begin", ["", "P", HEAD, HEAD + "Content-Length: 5", HEAD + "X: " + "y" * 5000])
async def test_half_a_header_is_waited_for_and_then_closed(world: World, begin: str) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say(begin)
        assert await peer.hear_all() == b""


async def test_headers_that_drip_do_not_buy_time(world: World) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say(HEAD)

        async def drip() -> None:
            while True:
                await peer.say("X: y\r\n")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await peer.hear_all() == b""
        dripping.cancel()


@pytest.mark.parametrize("parts", [2, 3])
async def test_a_body_that_came_while_the_gateway_stood_still_is_read(world: World, parts: int) -> None:
    body = content()
    place = world.http.removeprefix("http://").split(":")
    with socket.create_connection((place[0], int(place[1]))) as peer:
        peer.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body[:9])
        await asyncio.sleep(0.1)
        for number in range(1, parts):
            time.sleep(0.5)
            peer.sendall(body[9 * number : len(body) if number == parts - 1 else 9 * number + 9])
            time.sleep(0.5)  # the gateway, in this thread, has not read it
            await asyncio.sleep(0.1)
        peer.setblocking(False)
        async with asyncio.timeout(5):
            answer = await asyncio.get_running_loop().sock_recv(peer, 2**16)
    assert answer.split(b" ")[1] == b"200"


@pytest.mark.parametrize("begin", [HEAD, "GET /v2 HTTP/1.1\r\nHost: g\r\n\r\n"], ids=["half a header", "idle"])
async def test_time_in_which_the_gateway_stood_still_is_held_against_nobody(world: World, begin: str) -> None:
    body = content()
    async with Peer(world) as peer:
        await peer.say(begin)
        if begin != HEAD:
            assert await peer.hear_status() == b"200"
            await peer.reader.readuntil(b"}")
        await asyncio.sleep(0.1)
        time.sleep(0.8)  # more than a client may take; the one process stands still, client and gateway
        await asyncio.sleep(0.1)
        await peer.say(f"{'' if begin == HEAD else HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        assert await peer.hear_status() == b"200"


async def test_a_request_that_is_not_gone_on_with_makes_room_before_an_idle_connection_does() -> None:
    live = b"GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n"
    async with open_world(limits={"max_connections": 2}) as world, Peer(world) as idle, Peer(world) as begun:
        for peer in (idle, begun):
            await peer.say(live)
            await peer.reader.readuntil(b"\r\n\r\n")
        await begun.say(HEAD)
        for _ in range(20):  # for the gateway, which runs in the same loop
            await asyncio.sleep(0)
        async with Peer(world) as new:
            for peer in (new, idle):
                await peer.say(live)
                assert await peer.hear_status() == b"200"
            assert await begun.hear_all() == b""


async def test_an_idle_connection_is_closed(world: World) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say("GET /v2/health/live HTTP/1.1\r\nHost: g\r\n\r\n")
        assert (await peer.hear_all()).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("framing", ["Content-Length: 100\r\n\r\n{", "Transfer-Encoding: chunked\r\n\r\n5\r\n{    "])
async def test_half_a_body_is_told_of_and_closed(world: World, framing: str) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say(HEAD + framing)
        answer = await peer.hear_all()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"nothing of the body has come" in answer


async def test_a_body_that_comes_slowly_but_comes_is_taken(world: World) -> None:
    body = content().ljust(40_000)
    async with good_client(world), Peer(world) as peer:
        await peer.say(HEAD + f"Content-Length: {len(body)}\r\n\r\n")
        for start in range(0, len(body), 2000):  # beside others it may take twice as long, and is above the least rate
            await peer.say(body[start : start + 2000])
            await asyncio.sleep(0.06)  # more in all than the limit, less for each piece
        assert await peer.hear_status() == b"200"


async def test_who_takes_no_answer_is_closed(world: World) -> None:
    """Answers beyond what the kernel buffers are left untaken."""
    body = json.dumps({"inputs": [{"name": "x", "shape": [2, 100_000], "datatype": "FP32", "data": [0] * 200_000}]})
    request = f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: g\r\nContent-Length: {len(body)}\r\n\r\n{body}"
    async with good_client(world):
        before = world.gateway.http.connections if world.gateway.http else 0
        place = world.http.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(sock, (place[0], int(place[1])))
        with contextlib.suppress(ConnectionError):
            for _ in range(30):
                await loop.sock_sendall(sock, request.encode())  # fails once the gateway has had enough
            raise AssertionError("thirty answers of 800 kB were written to nobody")
        sock.close()
        assert world.gateway.http is not None
        while world.gateway.http.connections > max(before, 1):
            await asyncio.sleep(0.02)


async def test_hundreds_of_connections_cost_nobody_else(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(good_client(world))
        for number in range(200):
            peer = await stack.enter_async_context(Peer(world))
            await peer.say(("", HEAD, HEAD + "Content-Length: 100\r\n\r\n{")[number % 3])


async def test_no_more_connections_are_kept_than_allowed(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(world)) for _ in range(60)]
        for peer in peers:
            await peer.say(HEAD)
        heard = await asyncio.gather(*(peer.hear_all() for peer in peers[:40]))
        assert heard == [b""] * 40, "the oldest made room"
    async with aiohttp.ClientSession(world.http) as session, session.post(INFER, data=content()) as response:
        assert response.status == 200


HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"


async def test_idle_grpc_connections_make_room_too(world: World) -> None:
    async with good_client(world), contextlib.AsyncExitStack() as stack:
        for _ in range(60):
            _, writer = await asyncio.open_connection(*world.grpc.split(":"))
            stack.push_async_callback(hang_up, writer)
            writer.write(HELLO)
        assert world.gateway.grpc is not None
        assert world.gateway.grpc.connections <= 20


async def test_the_oldest_grpc_connection_stays_while_others_are_idle_for_longer(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:

        async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            reader, writer = await asyncio.open_connection(*world.grpc.split(":"))
            stack.push_async_callback(hang_up, writer)
            writer.write(HELLO)
            return reader, writer

        reader, writer = await connect()
        for number in range(6):
            payload = f"ping {number:3}".encode()
            writer.write(b"\0\0\x08\6\0\0\0\0\0" + payload)
            await reader.readuntil(b"\6\1\0\0\0\0" + payload)  # acknowledged
            for _ in range(10):
                await connect()


@pytest.mark.parametrize("piece_bytes", [1, 50])
async def test_a_large_body_that_hardly_comes_is_given_up(world: World, piece_bytes: int) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say(HEAD + f"Content-Length: {2**20}\r\n\r\n".ljust(20))
        await peer.say(bytes(2**19))

        async def drip() -> None:
            while True:
                await peer.say(bytes(piece_bytes))
                await asyncio.sleep(0.02)  # of which each piece buys less

        dripping = asyncio.create_task(drip())
        assert await peer.hear_status() == b"408"
        dripping.cancel()


async def test_a_small_body_in_drops_does_not_buy_time(world: World) -> None:
    async with good_client(world), Peer(world) as peer:
        await peer.say(HEAD + "Content-Length: 60\r\n\r\n")

        async def drip() -> None:
            while True:
                await peer.say(b" ")
                await asyncio.sleep(0.02)

        dripping = asyncio.create_task(drip())
        assert await peer.hear_status() == b"408"
        dripping.cancel()


async def test_slow_bodies_that_fill_what_may_be_held_lose_it_to_good_ones() -> None:
    async with open_world(max_message_mib=0.5, limits={"max_held_mib": 1}) as world:
        await _fill_with_slow_bodies(world)
        async with Peer(world) as one, Peer(world) as other:  # what the slow ones held is free again
            for peer in (one, other):
                await peer.say(HEAD + f"Content-Length: {2**19}\r\n\r\n")
                await peer.say(bytes(2**19 - 1))
            for peer in (one, other):
                await peer.say(b"0")
                assert await peer.hear_status() == b"400", "whole, and no JSON"


async def _fill_with_slow_bodies(world: World) -> None:
    async with contextlib.AsyncExitStack() as stack:
        peers = [await stack.enter_async_context(Peer(world)) for _ in range(9)]
        for peer in peers:
            await peer.say(HEAD + f"Content-Length: {2**19}\r\n\r\n".ljust(20))
            await peer.say(bytes(2**19 - 1))
        large = content(items=4) + b" " * 200_000
        async with aiohttp.ClientSession(world.http) as session:
            for _ in range(20):
                async with session.post(INFER, data=large) as response:
                    assert response.status == 200, await response.text()
        hearing = [asyncio.create_task(peer.hear_status()) for peer in peers]
        while len(done := [task for task in hearing if task.done()]) < 7:  # two of nine fit
            await asyncio.sleep(0.02)
        assert {task.result() for task in done} == {b"429"}
        for task in hearing:
            task.cancel()


async def test_headers_are_bounded_one_by_one_and_all_together(world: World) -> None:
    async with aiohttp.ClientSession(world.http) as session:
        async with session.get("/v2", headers={"X": "y" * 15_000}) as response:
            assert response.status == 200
        async with session.get("/v2", headers={"X": "y" * 17_000}) as response:
            assert response.status == 400
        async with session.get("/v2", headers={f"X-{n}": "y" * 1000 for n in range(20)}) as response:
            assert response.status == 431
        async with session.get("/v2/models/" + "y" * 20_000) as response:
            assert response.status == 400
        async with session.get("/v2") as response:
            assert response.status == 200


async def test_a_client_that_asks_first_is_told_to_go_on(world: World) -> None:
    body = content()
    async with Peer(world) as peer:
        await peer.say(HEAD + f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n")
        assert await peer.hear_status() == b"100"
        await peer.reader.readline()
        await peer.say(body)
        assert await peer.hear_status() == b"200"
