"""A gRPC service of a few methods on our transport, listening, for clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
import hpack
import pytest

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.grpc.open_calls import OpenCalls
from orchestrator.http2.grpc.service import Send, Service, UnaryCall
from orchestrator.http2.grpc.wire import Metadata, RequestHead, RpcError, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.protocol import Http2Listener
from tests.http2.peer import HEADERS

BLOCK = hpack.Encoder().encode([*HEADERS[:2], (":path", "/s/Echo"), *HEADERS[3:]])
LIMIT = 2**20


class World:
    """A service of a few methods, listening; ``release`` lets go what waits."""

    def __init__(
        self, *, max_message_bytes: int = LIMIT, held_bytes: int = 2**28, most_open_calls: int = 8192, **limits: Any
    ) -> None:
        self.limits = Limits(**limits)
        self.release = asyncio.Event()
        self.waiting = 0
        self.cancelled = 0
        self.taken: list[bytes] = []
        self.identified: list[str] = []
        self.connections: list[Connection[RequestHead]] = []
        self.service = Service(
            unary={
                "/s/Echo": self.echo,
                "/s/Wait": self.wait,
                "/s/Fail": self.fail,
                "/s/Big": self.big,
                "/s/Drop": self.drop,
                "/s/Quick": self.echo,
            },
            streaming={"/s/Stream": self.stream, "/s/Late": self.late},
            explain=lambda error: RpcError("DATA_LOSS", f"{error} – 100 %"),
            max_message_bytes=max_message_bytes,
            limits=self.limits,
            receive_budget=HeldBudget(held_bytes),
            open_calls=OpenCalls(most_open_calls),
            identify=self.identify,
            owner_of=lambda metadata: dict(metadata).get("x-owner"),
            quick={"/s/Quick": self.take},
        )
        self.held: list[UnaryCall[Metadata]] = []
        self.aborted = 0
        self.listener = Http2Listener(self.make, self.limits)
        self.address = ""

    def make(self, wake: Callable[[], None]) -> Connection[RequestHead]:
        decoder = HeaderDecoder(partial(read_request_head, max_list_bytes=16384), max_list_bytes=16384)
        connection = Connection(decoder, self.service.accept, self.limits, clock=time.monotonic, wake=wake)
        self.connections.append(connection)
        return connection

    def identify(self, path: str, metadata: Metadata, address: str) -> Metadata:
        """Take metadata for who calls; refuse who says so."""
        self.identified.append(path)
        if ("x-stranger", "yes") in metadata:
            raise ValueError("a stranger")
        return metadata

    async def echo(self, message: bytes, metadata: Metadata) -> bytes:
        self.taken.append(message)
        return message or repr(sorted(item for item in metadata if item[0].startswith("x-"))).encode()

    async def big(self, message: bytes, metadata: Metadata) -> bytes:
        return bytes(LIMIT)

    async def fail(self, message: bytes, metadata: Metadata) -> bytes:
        raise ValueError("broken")

    async def drop(self, message: bytes, metadata: Metadata) -> bytes:
        raise asyncio.CancelledError  # as when what a handler waits for is cancelled, and not the handler

    async def wait(self, message: bytes, metadata: Metadata) -> bytes:
        self.waiting += 1
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return message

    def take(self, message: bytes, metadata: Metadata, call: UnaryCall[Metadata]) -> bool:
        """Answer at once, later, never or not at all, as the message says."""
        call.on_abort = self.note_abort
        if message == b"fail":
            raise ValueError("broken")
        if message == b"now":
            call.answer(b"at once")
        elif message == b"later":
            self.held.append(call)
        else:
            return False
        return True

    def note_abort(self) -> None:
        self.aborted += 1

    async def stream(self, messages: AsyncIterator[bytes], send: Send, metadata: Metadata) -> None:
        async for message in messages:
            self.taken.append(message)
            if message == b"fail":
                raise ValueError("broken")
            await send(message)

    async def late(self, messages: AsyncIterator[bytes], send: Send, metadata: Metadata) -> None:
        await self.release.wait()
        async for message in messages:
            self.taken.append(message)


@asynccontextmanager
async def open_world(tls: ssl.SSLContext | None = None, **limits: Any) -> AsyncIterator[World]:
    world = World(**limits)
    world.address = f"127.0.0.1:{await world.listener.start('127.0.0.1', 0, ssl=tls)}"
    try:
        yield world
    finally:
        world.listener.stop()


async def until(is_so: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.005)


async def failure(call: Awaitable[object]) -> tuple[str, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().name, caught.value.details() or ""


def unary(channel: Any, method: str) -> Any:
    return channel.unary_unary(f"/s/{method}")
