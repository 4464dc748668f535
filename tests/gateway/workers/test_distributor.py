"""Which worker gets a connection; the workers are the other ends of their handoffs, in this process."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from orchestrator.errors import ConfigError
from orchestrator.gateway.workers.socket_handoff import ConnectionDistributor, Receiver, SocketHandoff
from tests.ports import choose_free_ports


class Worker:
    """Keeps every connection that it is given, while it takes any."""

    def __init__(self, number: int, distributor: ConnectionDistributor) -> None:
        ours, self._end = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self.held: list[socket.socket] = []
        self._number, self._distributor = number, distributor
        self._handoff = SocketHandoff(ours, distributor.resume)
        self._task: asyncio.Task[None] | None = None

    @property
    def connections(self) -> int:
        return len(self.held)

    async def adopt(self, connection: socket.socket) -> None:
        self.held.append(connection)

    def come_up(self, *, takes: bool = True) -> None:
        if takes:
            self._task = asyncio.create_task(Receiver(self._end, {"http": self, "grpc": self}).run())
        self._distributor.add(self._number, self._handoff)

    async def end(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._end.close()
        for connection in self.held:
            connection.close()
        self._distributor.remove(self._number, self._handoff)


@asynccontextmanager
async def distributor() -> AsyncIterator[tuple[ConnectionDistributor, Callable[[int], list[socket.socket]]]]:
    """Yield one that has bound a port, and what makes clients of that."""
    (port,) = choose_free_ports(1)
    made, clients = ConnectionDistributor(), []
    made.bind("http", f"127.0.0.1:{port}")

    def connect(count: int) -> list[socket.socket]:
        found = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
        clients.extend(found)
        return found

    try:
        yield made, connect
    finally:
        made.close()
        for client in clients:
            client.close()


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


async def test_nobody_gets_in_before_it_listens() -> None:
    async with distributor() as (_, connect):
        with pytest.raises(ConnectionRefusedError):
            connect(1)


async def test_an_address_that_is_taken_is_named() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"can't listen on gateway.http = {address} \(Address already in use\)"):
            ConnectionDistributor().bind("http", address)


async def test_eight_connections_are_four_a_worker() -> None:
    async with distributor() as (handed, connect):
        workers = [Worker(number, handed) for number in range(2)]
        handed.listen()
        for worker in workers:
            worker.come_up()
        connect(8)
        await until(lambda: sum(worker.connections for worker in workers) == 8)
        assert [worker.connections for worker in workers] == [4, 4]
        for worker in workers:
            await worker.end()


async def test_what_comes_while_no_worker_is_there_waits_for_the_first() -> None:
    async with distributor() as (handed, connect):
        handed.listen()
        connect(3)
        await asyncio.sleep(0.05)
        worker = Worker(0, handed)
        worker.come_up()
        await until(lambda: worker.connections == 3)
        await worker.end()


async def test_what_a_worker_that_ended_never_took_goes_to_another() -> None:
    async with distributor() as (handed, connect):
        deaf, other = Worker(0, handed), Worker(1, handed)
        handed.listen()
        deaf.come_up(takes=False)
        clients = connect(2)
        await asyncio.sleep(0.05)
        other.come_up()
        await deaf.end()
        await until(lambda: other.connections == 2)
        for connection in other.held:
            connection.send(b"x")
        assert [client.recv(1) for client in clients] == [b"x", b"x"]
        await other.end()


async def test_what_waits_to_be_accepted_is_handed_out_before_it_listens_no_more() -> None:
    async with distributor() as (handed, connect):
        worker = Worker(0, handed)
        handed.listen()
        worker.come_up()
        connect(5)  # nothing has been accepted yet: the event loop has had no turn
        handed.close()
        await until(lambda: worker.connections == 5)
        await worker.end()
