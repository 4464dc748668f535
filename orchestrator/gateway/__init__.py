"""Triton's protocol in front of a fleet: KServe v2 over gRPC and HTTP, answered by the router or passed through.

One data plane (``dataplane``) answers serialised calls of ``inference.GRPCInferenceService``; two transports
(``grpc``, ``http``) carry them and turn errors into their own statuses, each by one table. KServe's
protobuf messages are the values between them, because they are what both protocols mean. Several processes can share
one gateway: a ``Supervisor`` with workers, each of them a ``Gateway`` with a ``WorkerTeam``.
"""

from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.listening import Sockets
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.workers.event_loop import freeze_heap, go_first, new_event_loop
from orchestrator.gateway.workers.fleet_updates import FollowedFleet, open_gateway
from orchestrator.gateway.workers.supervisor import Supervisor
from orchestrator.gateway.workers.takeover import Succession, inherited_sockets
from orchestrator.gateway.workers.worker import WorkerLaunch, WorkerTeam, read_init_message

__all__ = [
    "AdminEndpoint",
    "FollowedFleet",
    "Gateway",
    "Sockets",
    "Succession",
    "Supervisor",
    "WorkerLaunch",
    "WorkerTeam",
    "freeze_heap",
    "go_first",
    "inherited_sockets",
    "new_event_loop",
    "open_gateway",
    "read_init_message",
]
