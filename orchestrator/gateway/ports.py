"""What the gateway needs of the router and of the servers; the real ones and the tests' fakes both fit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from orchestrator.gateway.protocol.tensors import Array
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.router import Backlog, Reply
from orchestrator.snapshot import Preference, ServedModel, ServerName, Width


class RoutedAnswer(Protocol):
    """What is told of a decision; the router's Answer has more."""

    @property
    def output(self) -> Array:
        """Scores, [n, classes]."""
        ...

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the classes."""
        ...

    @property
    def server(self) -> str:
        """That ran it."""
        ...

    @property
    def width(self) -> int:
        """It ran at."""
        ...

    @property
    def batch(self) -> int:
        """Items of the group."""
        ...

    @property
    def queue_s(self) -> float:
        """Waited in the router."""
        ...

    @property
    def expected_accuracy(self) -> float:
        """Of the width."""
        ...

    @property
    def decision_id(self) -> str:
        """Names the decision."""
        ...

    @property
    def policy(self) -> str:
        """That decided."""
        ...

    @property
    def energy_j(self) -> float | None:
        """Expected of the request's part of the group; None when unknown."""
        ...


class InferenceRouter(Protocol):
    """What the data plane needs of the router; orchestrator.router.Router is the real one."""

    async def infer(
        self,
        array: Array,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: Width | None = None,
        family: str | None = None,
        priority: int = 0,
        max_joules: float | None = None,
        preference: Preference | None = None,
    ) -> RoutedAnswer:
        """Return the answer for a batch; raises SlimError."""
        ...

    def submit(
        self,
        array: Array,
        reply: Reply,
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: Width | None = None,
        family: str | None = None,
        priority: int = 0,
        max_joules: float | None = None,
        preference: Preference | None = None,
    ) -> None:
        """Take a batch, whose answer is replied; raises SlimError."""
        ...

    def models(self, family: str | None = None) -> tuple[ServedModel, ...]:
        """Return one model a width; raises ConfigError when the family is not served."""
        ...

    def served_by(self, family: str | None = None) -> Mapping[ServerName, tuple[ServedModel, ...]]:
        """Return the widths that each server may be sent; raises ConfigError as ``models``."""
        ...

    @property
    def backlog(self) -> Backlog:
        """What waits now."""
        ...

    def close_by(self, until_s: float) -> None:
        """Let closing it, when that comes, wait no longer than until then."""
        ...


class ServerStream(Protocol):
    """A stream to a server; ClientStream is the real one."""

    async def send(self, message: bytes) -> None:
        """Send one request."""
        ...

    async def finish(self) -> None:
        """Say that no more come."""
        ...

    def answers(self) -> AsyncIterator[bytes]:
        """Yield answers to the end."""
        ...

    def abandon(self) -> None:
        """Leave it to end by itself."""
        ...


class Server(Protocol):
    """A server that calls are passed on to; TritonClient is the real one."""

    @property
    def in_flight(self) -> int:
        """Calls under way."""
        ...

    async def call(self, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the answer to a unary call; raises RefusedCallError."""
        ...

    def open_stream(self, method: str, metadata: Metadata = ()) -> ServerStream:
        """Begin a stream."""
        ...

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Release the connection, after waiting at most so long for what is under way."""
        ...
