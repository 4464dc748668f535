"""Where the other gateways that share a fleet ask: how this one is, and inferences that they have admitted.

It is an address of its own because whoever reaches it may ask without a token, and what comes there is never passed
on. It has to be reached by gateways alone, as Tritons have. Between workers of one machine it is a Unix socket.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Final

from orchestrator.config import GatewaySettings
from orchestrator.gateway.auth.callers import Caller
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.grpc.server import MOST_OPEN_CALLS, explain, make_listener
from orchestrator.gateway.listening import Endpoint
from orchestrator.gateway.peers.clients import REPORT
from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.flow import Limits
from orchestrator.http2.grpc.open_calls import OpenCalls
from orchestrator.http2.grpc.service import Service, UnaryHandler
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.triton.messages import SERVICE

_MIB: Final = 2**20
_MOST_STREAMS: Final = 2**16
_HEADER_BYTES: Final = 2**14
_TOLD: Final = ("traceparent", "tracestate")
"""The metadata that gateways tell each other."""


class PeerEndpoint(Endpoint):
    """Answers other gateways.

    ``exchange_reports`` takes a gateway's report and returns this one's, both as JSON; ``given`` as in Endpoint.
    """

    def __init__(
        self,
        data_plane: DataPlane,
        settings: GatewaySettings,
        exchange_reports: Callable[[bytes], bytes],
        address: str,
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        clients = settings.limits
        limits = Limits(
            max_streams=_MOST_STREAMS,
            header_list_bytes=_HEADER_BYTES,
            handshake_s=clients.header_timeout_s,
            stall_s=clients.stall_timeout_s,
        )

        async def answer_report(message: bytes, caller: Caller) -> bytes:
            return exchange_reports(message)

        infer = f"/{SERVICE}/ModelInfer"
        unary: dict[str, UnaryHandler[Caller]] = {REPORT: answer_report, infer: data_plane.inference.call}
        service = Service(
            unary=unary,
            streaming={},
            explain=explain,
            max_message_bytes=int(settings.max_message_mib * _MIB) + _HEADER_BYTES,
            limits=limits,
            receive_budget=HeldBudget(int(clients.max_held_mib * _MIB)),
            open_calls=OpenCalls(MOST_OPEN_CALLS),
            identify=_identify,
            owner_of=attrgetter("address"),
            quick={infer: data_plane.inference.begin},
        )
        listener = make_listener(service, clients, data_plane.inference.lag)
        super().__init__("gateway.peers.listen", address, listener, ssl=None, listens=True, given=given)


def _identify(path: str, metadata: Metadata, address: str) -> Caller:
    told = tuple(each for each in metadata if each[0] in _TOLD)
    return Caller(address=address, is_peer=True, metadata=told)
