"""KServe v2 over gRPC: carries serialised calls to the data plane and its errors back as statuses.

A generic handler on raw bytes: nothing is parsed before the data plane knows where a request goes, and what is passed
on is never parsed at all. ``grpc.health.v1.Health/Check`` tells what ServerReady tells, whatever the service asked for,
as Triton does; its two possible answers are written down as bytes, which saves a dependency.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

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
from orchestrator.gateway.dataplane import DataPlane
from orchestrator.gateway.stream import METHOD as STREAM_METHOD
from orchestrator.gateway.stream import StreamSession
from orchestrator.gateway.wire import MalformedMessageError
from orchestrator.triton.passthrough import SERVICE, RefusedCallError

log = logging.getLogger(__name__)

HEALTH_SERVICE = "grpc.health.v1.Health"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"

# The first that fits counts, so a class stands before the one it is derived from.
STATUSES: tuple[tuple[type[SlimError], str], ...] = (
    (MalformedMessageError, "INTERNAL"),  # as Triton has it
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

    Attributes:
        address: where it listens, once started.
    """

    def __init__(self, plane: DataPlane, address: str, *, max_message_bytes: int, stream_window: int) -> None:
        self.address = address
        self._plane = plane
        self._max_message_bytes = max_message_bytes
        self._window = stream_window
        self._server: Any = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: when the address can't be listened on.
        """
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", self._max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a second gateway is told, instead of taking half of the connections
            ]
        )
        handlers = {name: grpc.unary_unary_rpc_method_handler(self._unary(name)) for name in self._plane.methods}
        handlers[STREAM_METHOD] = grpc.stream_stream_rpc_method_handler(self._stream)
        health = {"Check": grpc.unary_unary_rpc_method_handler(self._check_health)}
        self._server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler(SERVICE, handlers),
                grpc.method_handlers_generic_handler(HEALTH_SERVICE, health),
            )
        )
        host = self.address.rpartition(":")[0]
        try:
            port = self._server.add_insecure_port(self.address)
        except RuntimeError as exc:
            raise ConfigError(
                f"can't listen on gateway.grpc = {self.address}: it is in use or not of this machine"
            ) from exc
        self.address = f"{host}:{port}"
        await self._server.start()

    async def stop(self, grace_s: float) -> None:
        """Take no more calls, wait for those under way for so long, and cancel the rest."""
        if self._server is not None:
            await self._server.stop(grace_s)

    def _unary(self, method: str) -> Callable[[bytes, Any], Awaitable[bytes]]:
        async def answer(message: bytes, context: Any) -> bytes:
            try:
                return await self._plane.call(method, message, context.invocation_metadata() or ())
            except SlimError as exc:
                return await _abort(context, exc)
            except Exception as exc:
                log.exception("%s failed unexpectedly", method)
                return await _abort(context, SlimError(f"the gateway failed: {type(exc).__name__}; its log says more"))

        return answer

    async def _stream(self, requests: AsyncIterator[bytes], context: Any) -> None:
        metadata = context.invocation_metadata() or ()
        session = StreamSession(self._plane, context.write, window=self._window, metadata=metadata)
        try:
            await session.run(requests)
        except SlimError as exc:
            await _abort(context, exc)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except Exception as exc:
            log.exception("a stream failed unexpectedly")
            await _abort(context, SlimError(f"the gateway failed: {type(exc).__name__}; its log says more"))

    async def _check_health(self, message: bytes, context: Any) -> bytes:
        return _SERVING if self._plane.is_ready() else _NOT_SERVING


async def _abort(context: Any, error: SlimError) -> bytes:
    """End a call with the status of an error; never returns, because gRPC raises."""
    await context.abort(grpc.StatusCode[status_of(error)], str(error))
    raise AssertionError("abort always raises")
