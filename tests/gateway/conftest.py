"""An open gateway over a fake fleet, and raw calls to it; one over two real Tritons, for all tests that want it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import grpc
import pytest
import pytest_asyncio

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer
from tests.gateway.calls import RawCalls
from tests.gateway.fakes import World, open_world
from tests.gateway.running import Addresses, start_gateway, stop_gateway, write_repository
from tests.tritons import Tritons


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with open_world() as opened:
        yield opened


@pytest_asyncio.fixture
async def raw(world: World) -> AsyncIterator[RawCalls]:
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        yield RawCalls(channel)


@pytest_asyncio.fixture
async def http(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(
        world.http, auto_decompress=False, headers={"Accept-Encoding": "identity"}
    ) as session:
        yield session


@pytest.fixture(scope="package")
def servers(tmp_path_factory: pytest.TempPathFactory, tritons: Tritons) -> Iterator[list[EmbeddedServer]]:
    repository = tmp_path_factory.mktemp("repository")
    write_repository(repository)
    options = EmbeddedOptions(exit_timeout_s=2)
    with tritons.running(repository, options) as first, tritons.running(repository, options) as second:
        yield [first, second]


@pytest.fixture(scope="package")
def gateway(servers: list[EmbeddedServer], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Addresses]:
    process = start_gateway(tmp_path_factory.mktemp("fleet"), servers)
    yield process.addresses
    assert stop_gateway(process) == 0, process.lines


@pytest.fixture(scope="package")
def direct(servers: list[EmbeddedServer]) -> Addresses:
    return Addresses(servers[0].grpc_address, servers[0].http_address)
