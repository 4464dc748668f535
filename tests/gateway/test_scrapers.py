"""Whoever reads a gateway's metrics may be away, slow, or gone half way; calls are answered all the same."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from tests.gateway.fakes import World, open_world
from tests.gateway.http.test_slow_clients import good_client
from tests.gateway.test_admin import address_of, get

SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: g\r\nAccept: text/plain\r\n\r\n"
SCRAPERS = 50


async def connect(world: World) -> socket.socket:
    """Return a connection that buffers next to nothing of what comes."""
    host, _, port = address_of(world).rpartition(":")
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setblocking(False)
    await asyncio.get_running_loop().sock_connect(connection, (host, int(port)))
    return connection


async def ask_and_take_nothing(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, SCRAPE)


async def say_half(connection: socket.socket) -> None:
    await asyncio.get_running_loop().sock_sendall(connection, SCRAPE[:20])


async def leave_half_way(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, SCRAPE)
    assert (await loop.sock_recv(connection, 100)).startswith(b"HTTP/1.1 200")
    connection.close()


async def ask_often_and_leave(connection: socket.socket) -> None:
    with contextlib.suppress(ConnectionError):
        for _ in range(20):
            await asyncio.get_running_loop().sock_sendall(connection, SCRAPE)
    connection.close()


@pytest.mark.parametrize("scrape", [ask_and_take_nothing, say_half, leave_half_way, ask_often_and_leave])
async def test_calls_are_answered_and_the_next_scrape_is_whole_whatever_scrapers_do(
    scrape: Callable[[socket.socket], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    async with open_world() as world:
        connections = [await connect(world) for _ in range(SCRAPERS)]
        async with good_client(world):
            await asyncio.gather(*map(scrape, connections))
            status, page = await get(address_of(world), "/metrics")
        assert status == 200
        assert {family.name for family in text_string_to_metric_families(page)} == set(MEASURES)
        for connection in connections:
            connection.close()
    assert [record.message for record in caplog.records if record.levelno >= logging.ERROR] == []
