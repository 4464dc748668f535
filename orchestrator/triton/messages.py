"""Triton's messages: the only import of ``tritonclient``, of which nothing but the generated code is used.

A model's config says whether it is a width of a slimmable family, and which: the exporter writes ``slim.*`` parameters
into every config.pbtxt, so a router needs no file and no registry beside the servers' addresses.

Importing any of its modules runs ``tritonclient.grpc``, which imports grpcio; the generated code itself imports that
package, so it can't be had without. But nothing of grpcio is ever called: calls go over orchestrator.http2, and no
channel or thread of grpcio's exists in a process of ours.

The generated code has no types, so what comes from here is ``Any`` to a type checker.
"""

from __future__ import annotations

import json
from typing import Any

from google.protobuf.message import DecodeError
from tritonclient.grpc import model_config_pb2, service_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig

from orchestrator.errors import TransientError
from orchestrator.snapshot import Family, ModelName, ServedModel, TensorSpec, Width

__all__ = ["SERVICE", "Message", "ModelConfig", "data_type_name", "parse_answer", "parse_served_model", "pb"]

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
    """Return the name of a datatype of ModelConfig, such as ``FP32`` or ``STRING``."""
    name: str = model_config_pb2.DataType.Name(number)
    return name.removeprefix("TYPE_")


def parse_served_model(config: ModelConfig) -> ServedModel | None:
    """Return the width that a config describes, None when it is no model of a slimmable family.

    Models without the parameters, or with something else than one input and one output, are not ours.
    """
    parameters = {key: value.string_value for key, value in config.parameters.items()}
    if "slim.family" not in parameters or len(config.input) != 1 or len(config.output) != 1:
        return None
    try:
        width = int(parameters["slim.width"])
        accuracy = float(parameters["slim.accuracy"])
        flops = int(parameters["slim.flops"]) if "slim.flops" in parameters else None
        labels = json.loads(parameters.get("slim.labels", "[]"))
        input_spec, output_spec = _tensor_spec(config.input[0]), _tensor_spec(config.output[0])
    except (KeyError, ValueError):
        return None
    if not 1 <= width <= 100 or not isinstance(labels, list) or config.max_batch_size < 1:
        return None  # a model without a batch dimension can't take batches
    return ServedModel(
        name=ModelName(config.name),
        family=Family(parameters["slim.family"]),
        width=Width(width),
        accuracy=accuracy,
        flops=flops,
        max_batch_size=config.max_batch_size,
        instances=sum(group.count for group in config.instance_group) or 1,
        sha256=parameters.get("slim.sha256"),
        input=input_spec,
        output=output_spec,
        labels=tuple(str(label) for label in labels),
    )


def _tensor_spec(tensor: Any) -> TensorSpec:
    return TensorSpec(tensor.name, data_type_name(tensor.data_type), tuple(tensor.dims))
