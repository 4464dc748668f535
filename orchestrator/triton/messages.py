"""The messages of KServe's gRPC service and of Triton's model config, for whoever else speaks the protocol.

They come with tritonclient, which generates them and gives them no types. What else is in that package, its clients
above all, stays in here.
"""

from __future__ import annotations

from typing import Any

from tritonclient.grpc import model_config_pb2, service_pb2

pb: Any = service_pb2
"""Messages of ``inference.GRPCInferenceService``."""
config_pb: Any = model_config_pb2
"""Messages of a ModelConfig."""
