"""What a server serves, read from its ModelConfig alone.

The exporter writes ``slim.*`` parameters into every config.pbtxt, so a router needs no file and no registry beside
the servers' addresses. Models without them, or with something else than one input and one output, are not ours and
are passed over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from pathlib import Path

from tritonclient.grpc import model_config_pb2
from tritonclient.grpc.model_config_pb2 import ModelConfig, ModelInput, ModelOutput

from orchestrator.errors import ModelNotFoundError
from orchestrator.snapshot import Family, ModelName, ServedModel, TensorSpec, Width
from orchestrator.triton.client import Array, TritonClient
from orchestrator.triton.protocol_key import read_protocol_key, render_headers


class TritonServer:
    """A Triton as the router uses it: what it serves, and batches run on that.

    Args:
        address: ``host:port`` of the gRPC endpoint.
        timeout_s: for reading what it serves.
        protocol_key_file: with the key of restricted protocols, see read_protocol_key; None: they are not restricted.

    Raises:
        ConfigError: The key file can't be used.
    """

    def __init__(self, address: str, *, timeout_s: float, protocol_key_file: Path | None = None) -> None:
        key = None if protocol_key_file is None else read_protocol_key(protocol_key_file)
        self._client = TritonClient(address, timeout_s=timeout_s, headers=render_headers(key))

    async def version(self) -> str:
        """See TritonClient."""
        return await self._client.version()

    async def served_models(self) -> tuple[ServedModel, ...]:
        """See read_served_models."""
        return await read_served_models(self._client)

    def infer_batch(self, model: ServedModel, batch: Array) -> Awaitable[Array]:
        """Return the model's output for a batch, items first in both; sent at once where there is a connection.

        Raises:
            SlimError: as TritonClient.infer.
        """
        begun = self._client.begin_infer(model.name, model.input.name, batch, model.output.name)
        return self._infer_batch(model, batch) if begun is None else begun

    async def _infer_batch(self, model: ServedModel, batch: Array) -> Array:
        outputs = await self._client.infer(model.name, {model.input.name: batch}, [model.output.name])
        return outputs[model.output.name]

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Close the connection, after waiting at most so long for what is under way."""
        await self._client.close(drain_s=drain_s)


async def read_served_models(client: TritonClient) -> tuple[ServedModel, ...]:
    """Return every width of every family that the server is ready to run, ordered by model name.

    Raises:
        SlimError: when the server does not answer.
    """
    ready = sorted({entry.name for entry in await client.index() if entry.state == "READY"})
    configs = await asyncio.gather(*(_config_or_none(client, name) for name in ready))
    models = (parse_served_model(config) for config in configs if config is not None)
    return tuple(model for model in models if model is not None)


async def _config_or_none(client: TritonClient, name: str) -> ModelConfig | None:
    try:
        return await client.model_config(name)
    except ModelNotFoundError:  # unloaded since the index was read
        return None


def parse_served_model(config: ModelConfig) -> ServedModel | None:
    """Return the width that a config describes, None when it is no model of a slimmable family."""
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
        return None  # a model without a batch dimension can't take groups
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


def _tensor_spec(tensor: ModelInput | ModelOutput) -> TensorSpec:
    datatype = model_config_pb2.DataType.Name(tensor.data_type).removeprefix("TYPE_")
    return TensorSpec(tensor.name, datatype, tuple(tensor.dims))
