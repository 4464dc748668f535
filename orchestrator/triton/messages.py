"""Triton's messages: the only import of ``tritonclient``, of which nothing but the generated code is used.

Importing any of its modules runs ``tritonclient.grpc``, which imports grpcio; the generated code itself imports that
package, so it can't be had without. But nothing of grpcio is ever called: calls go over orchestrator.http2, and no
channel or thread of grpcio's exists in a process of ours.

The generated code has no types, so what comes from here is ``Any`` to a type checker.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.errors import TransientError

__all__ = ["SERVICE", "Message", "ModelConfig", "data_type_name", "parse_answer", "pb"]

pb: Any = service_pb2
Message = Any
"""One of KServe's messages."""
SERVICE = "inference.GRPCInferenceService"


def parse_answer(kind: Any, answer: bytes) -> Message:
    """Return the message of a kind that a server's answer holds; raises TransientError when it holds none."""
    try:
        return kind.FromString(answer)
    except DecodeError as exc:
        raise TransientError(f"the server's answer is no {kind.DESCRIPTOR.name}") from exc


def data_type_name(number: int) -> str:
    """Return the protocol's name of a datatype of ModelConfig, such as ``FP32``; ``INVALID`` for one unknown."""
    if number not in model_config_pb2.DataType.values():
        return "INVALID"
    name: str = model_config_pb2.DataType.Name(number).removeprefix("TYPE_")
    return "BYTES" if name == "STRING" else name
