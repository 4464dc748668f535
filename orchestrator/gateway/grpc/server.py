"""KServe v2 over gRPC: carries serialised calls to the data plane and its errors back as statuses.

Nothing is parsed before the data plane knows where a request goes, and what is passed on is never parsed at all.
``grpc.health.v1.Health/Check`` tells what ServerReady tells, whatever the service asked for, as Triton does; its two
possible answers are written down as bytes, which saves a dependency.

The transport is ``orchestrator.http2``, because gRPC's own server costs more CPU than all the rest of a request.
"""

from __future__ import annotations

import logging
import socket
import ssl as tls
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

from orchestrator.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
)
from orchestrator.gateway.administration import ClosedError
from orchestrator.gateway.auth.callers import ForbiddenError, UnauthenticatedError
from orchestrator.gateway.dataplane import DataPlane
from orchestrator.gateway.grpc.stream import METHOD as STREAM_METHOD
from orchestrator.gateway.grpc.stream import StreamSession
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.http2.connection import Connection
from orchestrator.http2.grpc.service import Service
from orchestrator.http2.grpc.streaming_call import Send
from orchestrator.http2.grpc.unary_call import UnaryHandler
from orchestrator.http2.grpc.wire import Metadata, RequestHead, RpcError, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.limits import Limits
from orchestrator.http2.listener import Listener
from orchestrator.http2.receive_budget import ReceiveBudget
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.messages import SERVICE

log = logging.getLogger(__name__)

HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

# The first that fits counts, so a class stands before the one it is derived from.
STATUSES: tuple[tuple[type[SlimError], str], ...] = (
    (MalformedMessageError, "INTERNAL"),  # as Triton has it
    (UnauthenticatedError, "UNAUTHENTICATED"),
    (ForbiddenError, "PERMISSION_DENIED"),
    (ClosedError, "PERMISSION_DENIED"),
    (ModelNotFoundError, "NOT_FOUND"),
    (CapacityError, "RESOURCE_EXHAUSTED"),  # not UNAVAILABLE, which KServe's client retries at once
    (DeadlineError, "DEADLINE_EXCEEDED"),
    (ServerUnavailableError, "UNAVAILABLE"),
    (ConfigError, "INVALID_ARGUMENT"),
    (PermanentError, "INVALID_ARGUMENT"),
    (SlimError, "INTERNAL"),
)


def status_of(error: SlimError) -> str:
    """Return gRPC's status for an error; one that a server gave is kept."""
    if isinstance(error, RefusedCallError):
        return error.status
    return next(status for kind, status in STATUSES if isinstance(error, kind))


class GrpcServer:
    """The gRPC endpoint of a gateway.

    Args:
        plane: that answers.
        address: ``host:port`` to listen on; port 0 takes a free one.
        max_message_bytes: of a request.
        stream_window: requests of one stream under way at a time.
        ssl: to speak TLS with; None: plain.
        listens: itself; else another process does, and its connections are adopted.
        limits: of what one client may take.
        held_bytes: of requests that have not come whole, of all clients.
        max_connections: at a time.

    Attributes:
        address: where it listens, once started.
    """

    def __init__(
        self,
        plane: DataPlane,
        address: str,
        *,
        max_message_bytes: int,
        stream_window: int,
        ssl: tls.SSLContext | None = None,
        listens: bool = True,
        limits: Limits | None = None,
        held_bytes: int = 512 * 2**20,
        max_connections: int = 1000,
    ) -> None:
        self.address = address
        self._plane = plane
        self._window = stream_window
        self._ssl = ssl
        self._listens = listens
        self._limits = limits or Limits()
        unary: dict[str, UnaryHandler] = {f"/{SERVICE}/{name}": partial(plane.call, name) for name in plane.methods}
        self._service = Service(
            unary={**unary, HEALTH_METHOD: self._check_health},
            streaming={f"/{SERVICE}/{STREAM_METHOD}": self._stream},
            explain=explain,
            max_message_bytes=max_message_bytes,
            limits=self._limits,
            receive_budget=ReceiveBudget(held_bytes),
            check=self._check_caller if plane.guard.is_on else None,
            quick={f"/{SERVICE}/ModelInfer": plane.begin_infer},
        )
        self._listener = Listener(self._make_connection, self._limits, max_connections=max_connections)

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: when the address can't be listened on.
        """
        if not self._listens:
            self._listener.open()
            return
        host, _, port = self.address.rpartition(":")
        try:
            found = await self._listener.start(host.strip("[]"), int(port), ssl=self._ssl)
        except OSError as exc:
            raise ConfigError(
                f"can't listen on gateway.grpc = {self.address} ({exc.strerror or exc}); give a free address of this "
                "machine"
            ) from exc
        self.address = f"{host}:{found}"

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process has accepted; it belongs to this one from now on."""
        await self._listener.adopt(connection, ssl=self._ssl)

    @property
    def connections(self) -> int:
        """Open now."""
        return self._listener.connections

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, wait for those under way for so long, and cancel the rest."""
        await self._listener.stop(grace_s)

    def _make_connection(self, wake: Callable[[], None]) -> Connection[RequestHead]:
        most_bytes = self._limits.header_list_bytes
        decoder = HeaderDecoder(partial(read_request_head, max_list_bytes=most_bytes), max_list_bytes=most_bytes)
        return Connection(decoder, self._service.accept, self._limits, clock=time.monotonic, wake=wake)

    async def _stream(self, requests: AsyncIterator[bytes], send: Send, metadata: Metadata) -> None:
        caller = self._plane.identify(STREAM_METHOD, metadata)
        await StreamSession(self._plane, send, window=self._window, caller=caller).run(requests)

    def _check_caller(self, path: str, metadata: Metadata) -> None:
        """Refuse who is unknown before a message is taken; the data plane asks again, for who it is."""
        self._plane.identify("ServerReady" if path == HEALTH_METHOD else path.rpartition("/")[2], metadata)

    async def _check_health(self, message: bytes, metadata: Metadata) -> bytes:
        return _SERVING if self._plane.is_ready() else _NOT_SERVING


def explain(error: Exception) -> RpcError:
    """Return how an error is told to a client; what nobody expected is logged and told without its details."""
    if isinstance(error, SlimError):
        retry_after_s = error.retry_after_s if isinstance(error, CapacityError) else None
        return RpcError(status_of(error), str(error), retry_after_s=retry_after_s)
    log.error("a call failed unexpectedly", exc_info=error)
    return RpcError("INTERNAL", f"the gateway failed: {type(error).__name__}; its log says more")
