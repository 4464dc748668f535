"""The gateway's HTTP endpoint on one connection: aiohttp's parser, and all of ours above it, before fake servers."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress

from orchestrator.config import GatewaySettings, RouterSettings
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.http.server import HttpServer
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer
from tests.gateway.fakes import FakeTriton

_SERVER = ServerName("a")
_SETTINGS = GatewaySettings(max_message_mib=1 / 16)
"""No body is large enough for a thread, so that a request ends within some turns of the event loop."""
_ROUTING = RouterSettings(policy="lert", warm_up=False, guard=NO_TIME_LIMITS)
_TURNS = 40
_FAILED = b"HTTP/1.1 500 Internal Server Error\r\n"


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append(self.format(record))


async def serve_bytes(*pieces: bytes) -> bytes:
    """Return what a client is answered that sends these pieces and leaves.

    Raises AssertionError when anything failed unexpectedly, or is still under way once the client has gone.
    """
    server = FakeServer(per_item_s=0.0, fixed_s=0.0)
    discovery = ModelDiscovery({_SERVER: FakeTriton(server.models, ("echo",))}, timeout_s=1.0)
    index = ModelIndex(discovery)
    await discovery.refresh()
    errors = _Errors()
    logging.getLogger().addHandler(errors)
    try:
        async with Router(_ROUTING, {_SERVER: server}) as router:
            data_plane = DataPlane(router, index, GatewayMetrics())
            answer = await _exchange(HttpServer(data_plane, _SETTINGS, listens=False), pieces)
            assert data_plane.metrics.in_flight == 0
    finally:
        logging.getLogger().removeHandler(errors)
    assert not errors.found, errors.found[0]
    assert _FAILED not in answer
    return answer


async def _exchange(endpoint: HttpServer, pieces: tuple[bytes, ...]) -> bytes:
    here, there = socket.socketpair()
    answer = b""
    with here:
        for end in (here, there):
            end.setblocking(False)
        await endpoint.adopt(there)
        for piece in pieces:
            with suppress(ConnectionError):  # it has closed already
                here.sendall(piece)
            for _ in range(_TURNS):
                await asyncio.sleep(0)
            with suppress(BlockingIOError, ConnectionError):
                answer += here.recv(2**20)
    async with asyncio.timeout(5.0):
        while endpoint.connections:
            await asyncio.sleep(0)
    return answer
