"""An open gateway over a fake fleet, and raw calls to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import grpc
import pytest_asyncio

from tests.gateway.calls import RawCalls
from tests.gateway.fakes import World, open_world


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
