"""Triton's protocol in front of a fleet: KServe v2 over gRPC and HTTP, answered by the router or passed on.

One data plane (``dataplane``) answers serialised calls of ``inference.GRPCInferenceService``; two transports
(``grpc_server``, ``http_server``) carry them and turn errors into their own statuses, each by one table. KServe's
protobuf messages are the values between them, because they are what both protocols mean.
"""

from orchestrator.gateway.event_loop import new_event_loop
from orchestrator.gateway.server import Gateway

__all__ = ["Gateway", "new_event_loop"]
