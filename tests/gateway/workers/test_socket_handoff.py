"""Connections on their way to a worker; both ends in one process, sockets real."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from orchestrator.gateway.workers.socket_handoff import Receiver, SocketHandoff


class Side:
    """A worker that says hello on every connection and keeps it."""

    def __init__(self) -> None:
        self.held: list[socket.socket] = []
        self.room = 0
        ours, self.theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.handoff = SocketHandoff(ours, self._note_room)

    def _note_room(self) -> None:
        self.room += 1

    @property
    def connections(self) -> int:
        return len(self.held)

    async def adopt(self, connection: socket.socket) -> None:
        self.held.append(connection)
        await asyncio.get_running_loop().sock_sendall(connection, b"hello")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        receiver = Receiver(self.theirs, {"http": self})
        task = asyncio.create_task(receiver.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            for connection in self.held:
                connection.close()
            self.theirs.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


def client() -> tuple[socket.socket, socket.socket]:
    """Return a client's end, and what a listener would have accepted."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    return ours, theirs


async def test_a_connection_goes_over_and_is_counted_until_it_ends() -> None:
    side = Side()
    async with side.running():
        ours, theirs = client()
        with ours:
            assert side.handoff.give("http", theirs)
            assert side.handoff.count("http") == side.handoff.total == 1, "counted at once"
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(ours, 100) == b"hello"
            await until(lambda: theirs.fileno() == -1)
            assert (side.handoff.count("http"), side.room) == (1, 1)
            side.held.pop().close()
            await until(lambda: side.handoff.count("http") == 0)
            async with asyncio.timeout(10):
                assert await asyncio.get_running_loop().sock_recv(ours, 100) == b"", "no copy was left open"
    assert side.handoff.close() == []


async def test_what_a_worker_never_took_comes_back_usable() -> None:
    side = Side()
    pairs = [client() for _ in range(3)]
    for _, theirs in pairs:
        assert side.handoff.give("http", theirs)
    side.theirs.close()  # it died before it looked
    ours, theirs = client()
    assert not side.handoff.give("http", theirs), "a worker that is gone takes nothing"
    left = side.handoff.close()
    assert [connection for _, connection in left] == [their_end for _, their_end in pairs]
    for (our_end, _), (_, connection) in zip(pairs, left, strict=True):
        connection.send(b"x")
        assert our_end.recv(1) == b"x"
    for end in (ours, theirs, *(end for both in pairs for end in both)):
        end.close()


async def test_a_worker_that_does_not_read_refuses_at_some_point_instead_of_blocking() -> None:
    side = Side()
    ends: list[socket.socket] = []
    try:
        for _ in range(20_000):
            ours, theirs = client()
            ends += [ours, theirs]
            if not side.handoff.give("http", theirs):
                break
        else:
            raise AssertionError("it took everything")
    finally:
        side.handoff.close()
        side.theirs.close()
        for end in ends:
            end.close()
