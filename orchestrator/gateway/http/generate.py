"""Triton's generate extension: plain JSON keys as tensors, for clients that know no KServe; pure.

A key that is an input's name is that input, a value or a flat list of values; its shape is the model's, for a batch of
one, with at most one open side taken from the number of values. Every other key is a request parameter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.gateway.http.codec import raw_output, render_parameters
from orchestrator.gateway.protocol.messages import Message, pb, require_text, set_value
from orchestrator.gateway.protocol.tensors import count_elements, from_json, to_json


def parse_generate(model: str, version: str, content: Mapping[str, Any], config: Message, metadata: Message) -> Message:
    """Return the ModelInferRequest that plain JSON asks for.

    Raises:
        ConfigError: when a value does not fit its input, or a parameter is no scalar.
    """
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    specs = {spec.name: spec for spec in metadata.inputs}
    for key, value in content.items():
        spec = specs.get(key)
        if spec is not None:
            values = value if isinstance(value, list) else [value]
            dims = list(spec.shape)
            if config.max_batch_size > 0:
                dims[0] = 1
            shape = _fit(key, dims, len(values))
            request.inputs.add(name=key, datatype=spec.datatype, shape=shape)
            request.raw_input_contents.append(from_json(key, spec.datatype, shape, values))
        elif key == "id":
            if not isinstance(value, str):
                raise ConfigError("Unable to parse 'id': give a string")
            request.id = require_text("'id'", value)
        elif key == "parameters" and isinstance(value, dict):
            for name, parameter in value.items():
                set_value(request.parameters, name, parameter)
        else:
            set_value(request.parameters, key, value)
    return request


def _fit(name: str, dims: Sequence[int], count: int) -> list[int]:
    fixed = count_elements([side for side in dims if side >= 0])
    open_sides = [index for index, side in enumerate(dims) if side < 0]
    shape = list(dims)
    if open_sides and fixed and count % fixed == 0:
        for index in open_sides:
            shape[index] = 1
        shape[open_sides[-1]] = count // fixed
    if count_elements(shape) != count or any(side < 0 for side in shape):
        raise ConfigError(f"The schema can not convert input '{name}' to tensor with proper shape")
    return shape


def render_generate(response: Message) -> dict[str, Any]:
    """Return a ModelInferResponse as plain JSON: a value for an output of one element, else a flat list.

    Raises:
        ConfigError: when an output has no form in JSON.
    """
    content: dict[str, Any] = {"id": response.id} if response.id else {}
    content |= {"model_name": response.model_name, "model_version": response.model_version}
    parameters = render_parameters(response.parameters)
    parameters.pop("triton_final_response", None)
    content |= parameters
    for index, tensor in enumerate(response.outputs):
        values = to_json(tensor.name, tensor.datatype, raw_output(response, index))
        content[tensor.name] = values[0] if len(values) == 1 else values
    return content
