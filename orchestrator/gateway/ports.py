"""What the gateway needs of the router and of the servers; the real ones and the tests' fakes both fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.protocol.tensors import Array
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.request_options import RequestOptions
from orchestrator.router import Backlog, CallbackSink
from orchestrator.snapshot import ServedModel, ServerName
from orchestrator.triton.discovery import DiscoveredServer

UnaryMethod = Callable[[bytes, Caller], Awaitable[bytes]]
"""Answers one serialised call of somebody."""


class InferenceRouter(Protocol):
    """What the data plane needs of the router; orchestrator.router.Router is the real one."""

    def submit(self, array: Array, options: RequestOptions, sink: CallbackSink) -> None:
        """Take a batch, whose answer goes to the sink; raises SlimError."""
        ...

    def models(self, family: str | None = None) -> tuple[ServedModel, ...]:
        """Return one model for each width; raises ConfigError when the family is not served."""
        ...

    def served_by(self, family: str | None = None) -> Mapping[ServerName, tuple[ServedModel, ...]]:
        """Return the widths that each server may be sent; raises ConfigError as ``models``."""
        ...

    @property
    def backlog(self) -> Backlog:
        """What waits in the queue now."""
        ...

    def close_by(self, until_s: float) -> None:
        """Let closing wait no longer than until then, in seconds on the event loop's clock."""
        ...


class ServerStream(Protocol):
    """A stream to a server; ClientStream is the real one."""

    async def send(self, message: bytes) -> None:
        """Send one request."""
        ...

    async def finish(self) -> None:
        """Say that no more requests come."""
        ...

    def answers(self) -> AsyncIterator[bytes]:
        """Yield the server's answers until it ends the stream."""
        ...

    def abandon(self) -> None:
        """Let the stream end by itself."""
        ...


class Server(DiscoveredServer, Protocol):
    """A server that calls are passed through to; TritonClient is the real one."""

    def open_stream(self, method: str, metadata: Metadata = ()) -> ServerStream:
        """Return a stream to the server that has begun."""
        ...


class FleetStatistics(Protocol):
    """What answers ModelStatistics and RepositoryIndex for the whole fleet."""

    async def statistics(self, message: bytes) -> bytes:
        """Return the serialised answer to a serialised ModelStatisticsRequest; raises SlimError."""
        ...

    async def index(self, message: bytes) -> bytes:
        """Return the serialised answer to a serialised RepositoryIndexRequest; raises SlimError."""
        ...


class Team(Protocol):
    """The gateway's other processes, as a worker knows them; its transports then do not listen by themselves."""

    @property
    def fleet_statistics(self) -> FleetStatistics:
        """What all of them query for the fleet's statistics."""
        ...

    def is_served(self, family: str) -> bool:
        """Return whether all of them can answer a family."""
        ...
