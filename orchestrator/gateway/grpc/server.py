"""KServe v2 over gRPC: carries serialised calls to the data plane and its errors back as statuses.

Nothing is parsed before the data plane knows where a request goes, and what is passed through is never parsed at all.
``grpc.health.v1.Health/Check`` answers what ServerReady answers, whatever service is named, as Triton does; its two
possible answers are written down as bytes, which saves a dependency.

The transport is ``orchestrator.http2``, because gRPC's own server costs more CPU than all the rest of a request.
"""

from __future__ import annotations

import logging
import socket
import ssl as tls
import time
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from operator import attrgetter

from orchestrator.config import ClientLimitSettings, GatewaySettings
from orchestrator.errors import CapacityError, SlimError
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.passthrough import STREAM_METHOD
from orchestrator.gateway.dataplane.streaming import StreamSession
from orchestrator.gateway.listening import Endpoint
from orchestrator.gateway.statuses import status_of
from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.grpc.open_calls import OpenCalls
from orchestrator.http2.grpc.service import Send, Service, UnaryHandler
from orchestrator.http2.grpc.wire import Metadata, RequestHead, RpcError, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.loop_lag import LoopLag
from orchestrator.http2.protocol import Http2Listener
from orchestrator.triton.messages import SERVICE

log = logging.getLogger(__name__)

_MIB = 2**20
MOST_OPEN_CALLS = 8192
"""Most calls that have not come whole, some 25 MB; idle streams are among them."""
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_SERVING, _NOT_SERVING = b"\x08\x01", b"\x08\x02"


class GrpcServer(Endpoint):
    """The gRPC endpoint of a gateway, answered by a data plane; ``ssl``, ``listens`` and ``given`` as in Endpoint."""

    def __init__(
        self,
        data_plane: DataPlane,
        settings: GatewaySettings,
        *,
        ssl: tls.SSLContext | None = None,
        listens: bool = True,
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        self._data_plane = data_plane
        self._window = settings.stream_window
        clients = settings.limits
        self._limits = Limits(
            max_streams=clients.max_concurrent_streams,
            header_list_bytes=int(clients.max_header_kib * 1024),
            handshake_s=clients.header_timeout_s,
            stall_s=clients.stall_timeout_s,
        )
        unary: dict[str, UnaryHandler[Caller]] = {
            f"/{SERVICE}/{name}": partial(data_plane.call, name) for name in data_plane.methods
        }
        service = Service(
            unary={**unary, HEALTH_METHOD: self._check_health},
            streaming={f"/{SERVICE}/{STREAM_METHOD}": self._stream},
            explain=explain,
            max_message_bytes=int(settings.max_message_mib * _MIB),
            limits=self._limits,
            receive_budget=HeldBudget(int(clients.max_held_mib * _MIB)),
            open_calls=OpenCalls(MOST_OPEN_CALLS),
            identify=self._identify,
            owner_of=attrgetter("owner"),
            quick={f"/{SERVICE}/ModelInfer": data_plane.inference.begin},
            limit_s=self._limit_stranger_s if data_plane.guard.is_on else None,
        )
        self._http2 = make_listener(service, clients, data_plane.inference.lag)
        super().__init__("gateway.grpc", settings.grpc or "", self._http2, ssl=ssl, listens=listens, given=given)

    @property
    def unread_bytes(self) -> int:
        """About how many bytes of requests have come that were not read yet."""
        return self._http2.backlog.unread_bytes

    def _identify(self, path: str, metadata: Metadata, address: str) -> Caller:
        method = "ServerReady" if path == HEALTH_METHOD else path.rpartition("/")[2]
        return self._data_plane.identify(method, metadata, address)

    def _limit_stranger_s(self, caller: Caller) -> float | None:
        """Return how long a call may take that nobody answers for, a probe of health; None for a tenant's."""
        return self._limits.handshake_s if caller.tenant is None else None

    async def _stream(self, requests: AsyncIterator[bytes], send: Send, caller: Caller) -> None:
        await StreamSession(self._data_plane, send, window=self._window, caller=caller).run(requests)

    async def _check_health(self, message: bytes, caller: Caller) -> bytes:
        return _SERVING if self._data_plane.health.is_ready() else _NOT_SERVING


def make_listener(service: Service[Caller], clients: ClientLimitSettings, lag: LoopLag) -> Http2Listener:
    """Return what accepts the connections of a service and answers them."""
    limits, most_bytes = service.limits, service.limits.header_list_bytes
    send_budget = HeldBudget(int(clients.max_held_mib * _MIB), spares_one=True)

    def connect(wake: Callable[[], None]) -> Connection[RequestHead]:
        decoder = HeaderDecoder(partial(read_request_head, max_list_bytes=most_bytes), max_list_bytes=most_bytes)
        return Connection(decoder, service.accept, limits, clock=time.monotonic, wake=wake, send_budget=send_budget)

    return Http2Listener(connect, limits, max_connections=clients.max_connections, lag=lag)


def explain(error: Exception) -> RpcError:
    """Return a client's status for an error; what nobody expected is logged, and its details are not sent."""
    if isinstance(error, SlimError):
        retry_after_s = error.retry_after_s if isinstance(error, CapacityError) else None
        return RpcError(status_of(error), str(error), retry_after_s=retry_after_s)
    log.error("a call failed unexpectedly", exc_info=error)
    return RpcError("INTERNAL", f"the gateway failed: {type(error).__name__}; its log says more")
