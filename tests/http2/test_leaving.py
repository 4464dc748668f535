"""How a server takes leave of its clients, second by second, on a clock that jumps."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import hpack
import pytest

from orchestrator.http2.frames import (
    ACK,
    DATA,
    END_STREAM,
    FRAME_HEADER,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    frame,
    settings_frame,
)
from orchestrator.http2.grpc.wire import pack_message
from tests.http2.peer import HEADERS as REQUEST
from tests.http2.world import World

pytestmark = pytest.mark.virtual_time

EVERY_STREAM = 2**31 - 1
PROBED = frame(PING, ACK, 0, b"draining")
Frame = tuple[int, int, bytes]


class Peer:
    """A client that says what it is told to, and reads what comes frame by frame."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._encoder = hpack.Encoder()
        self.say(PREFACE + settings_frame([]))

    def say(self, data: bytes) -> None:
        self._writer.write(data)

    def ask(self, number: int, method: str, message: bytes) -> None:
        block = self._encoder.encode([(name, f"/s/{method}" if name == ":path" else value) for name, value in REQUEST])
        self.say(frame(HEADERS, 0x4, number, block) + frame(DATA, END_STREAM, number, pack_message(message)))

    async def read(self) -> Frame:
        head = await self._reader.readexactly(FRAME_HEADER.size)
        payload = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        return head[3], int.from_bytes(head[5:9], "big"), payload

    async def read_goaway(self) -> int:
        """Return the last stream of the next GOAWAY; what comes before it is left out."""
        while (found := await self.read())[0] != GOAWAY:
            pass
        return int.from_bytes(found[2][:4], "big")

    async def read_answer(self, number: int) -> bytes:
        while (found := await self.read())[:2] != (DATA, number):
            pass
        return found[2]

    async def read_end(self) -> float:
        """Return when the other side has closed."""
        try:
            while True:
                await self.read()
        except (asyncio.IncompleteReadError, OSError):
            return asyncio.get_running_loop().time()

    def close(self) -> None:
        self._writer.close()


@asynccontextmanager
async def leaving() -> AsyncIterator[tuple[World, Peer]]:
    """Open a connection with a call that waits."""
    world = World()
    theirs, ours = socket.socketpair()
    for end in (theirs, ours):
        end.setblocking(False)
    world.listener.open()
    peer = Peer(*await asyncio.open_connection(sock=theirs))
    await world.listener.adopt(ours)
    peer.ask(1, "Wait", b"first")
    while not world.waiting:
        await asyncio.sleep(0.001)
    try:
        yield world, peer
    finally:
        world.listener.stop()
        peer.close()


async def test_calls_are_taken_until_the_ping_is_answered_and_the_last_is_told_then() -> None:
    async with leaving() as (world, peer):
        draining = asyncio.create_task(world.listener.drain())
        assert await peer.read_goaway() == EVERY_STREAM
        assert (await peer.read()) == (PING, 0, b"draining")
        peer.ask(3, "Echo", b"on its way")  # before the peer has read that it is to open no more
        assert b"on its way" in await peer.read_answer(3)
        peer.say(PROBED)
        assert await peer.read_goaway() == 3
        peer.ask(5, "Echo", b"too late")  # which the peer knows is not served, and may send elsewhere
        await asyncio.sleep(60)
        assert not draining.done(), "what is open is answered, however long it takes"
        world.release.set()
        assert b"first" in await peer.read_answer(1)
        peer.close()
        await draining
        assert world.taken == [b"on its way"]


async def test_a_ping_that_is_not_answered_is_waited_for_a_second() -> None:
    async with leaving() as (world, peer):
        began_s = asyncio.get_running_loop().time()
        draining = asyncio.create_task(world.listener.drain())
        assert await peer.read_goaway() == EVERY_STREAM
        assert await peer.read_goaway() == 1
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(1.0, abs=0.05)
        world.release.set()
        await draining


async def test_what_comes_after_the_end_is_read_for_half_a_second_so_that_it_resets_nothing() -> None:
    async with leaving() as (world, peer):
        draining = asyncio.create_task(world.listener.drain())
        await peer.read_goaway()
        peer.say(PROBED)
        await peer.read_goaway()
        world.release.set()
        ended_s = await peer.read_end()
        peer.ask(3, "Echo", b"too late")
        await draining
        assert asyncio.get_running_loop().time() - ended_s == pytest.approx(0.5, abs=0.05)


async def test_a_connection_that_comes_meanwhile_is_served_and_sent_elsewhere_too() -> None:
    async with leaving() as (world, peer):
        draining = asyncio.create_task(world.listener.drain())
        theirs, ours = socket.socketpair()
        theirs.setblocking(False)
        ours.setblocking(False)
        late = Peer(*await asyncio.open_connection(sock=theirs))
        late.ask(1, "Echo", b"late")
        await world.listener.adopt(ours)
        assert b"late" in await late.read_answer(1)
        assert await late.read_goaway() == EVERY_STREAM
        world.release.set()
        late.close()
        peer.close()
        await draining
