"""What the gateway needs of the servers and of its other processes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Protocol

from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.peers.leases import Keeper
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.triton.discovery import DiscoveredServer

UnaryMethod = Callable[[bytes, Caller], Awaitable[bytes]]
"""Answers one serialised call of somebody."""


class ServerStream(Protocol):
    """A stream to a server; ClientStream is the real one."""

    async def send(self, message: bytes) -> None:
        """Send one serialised request, waiting while the server takes no more."""

    async def finish(self) -> None:
        """Say that no more requests come."""

    def answers(self) -> AsyncIterator[bytes]:
        """Yield the server's answers until it ends the stream."""

    def abandon(self) -> None:
        """Let the stream end by itself."""

    def when_ended(self, call: Callable[[], object]) -> None:
        """Call back once the server has ended it; at once when it has."""


class Server(DiscoveredServer, Protocol):
    """A server that calls are passed through to; TritonClient is the real one."""

    async def call(self, method: str, message: bytes, metadata: Metadata = (), *, rest: Sequence[Buffer] = ()) -> bytes:
        """Return the answer to a unary call, given in parts where there are more; raises RefusedCallError."""

    def open_stream(self, method: str, metadata: Metadata = ()) -> ServerStream:
        """Return a stream to the server that has begun."""


class Team(Protocol):
    """The gateway's other processes, as a worker knows them; its transports then do not listen by themselves."""

    @property
    def number(self) -> int:
        """Which of them this process is, from 0."""

    @property
    def directory(self) -> str:
        """A directory for sockets between them, which nobody else can enter."""

    def keeper(self, server: str) -> Keeper:
        """Return what keeps the record of who of them drives the server at an address."""

    async def query_fleet(self, method: str, message: bytes) -> bytes:
        """Return the answer to a call about the whole fleet, which one of them gives for all; raises SlimError."""

    def is_served(self, family: str) -> bool:
        """Return whether all of them can answer a family."""
