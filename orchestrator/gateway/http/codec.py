"""KServe's HTTP bodies as the messages of gRPC, and back; pure.

A request is JSON, or JSON followed by binary tensors in the order of their inputs, or nothing but one raw tensor.
Every tensor becomes raw data in the message, so what is passed through to a server is exact for every datatype. Where
Triton answers malformed JSON with status 500 we say 400: it is the client's fault.

Triton's generate extension is for clients that know no KServe: a key that is an input's name is that input, a value or
a flat list of values; its shape is the model's, for a batch of one, with at most one open side taken from the number of
values. Every other key is a request parameter.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import Message, config_datatype, pb, read_value, require_text, set_value
from orchestrator.gateway.protocol.tensors import (
    DATATYPES,
    count_elements,
    encode_bytes,
    from_contents,
    from_json,
    to_json,
)


@dataclass(slots=True)
class OutputForms:
    """Which outputs go back as binary data: those in ``by_name`` as it says, the others ``by_default``."""

    by_default: bool = False
    by_name: dict[str, bool] = field(default_factory=dict)

    def is_binary(self, name: str) -> bool:
        """Return whether an output goes back as binary data."""
        return self.by_name.get(name, self.by_default)


@dataclass(frozen=True, slots=True)
class HttpBody:
    """A body; ``json_bytes`` is the length of its JSON when binary data follows, None when none does."""

    data: bytes
    json_bytes: int | None = None


def load_json(data: bytes) -> dict[str, Any]:
    """Return the JSON object in a body, an empty one for an empty body; raises ConfigError when it holds no object."""
    if not data.strip():
        return {}
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise ConfigError(f"failed to parse the request JSON buffer: {exc}") from exc
    if not isinstance(found, dict):
        raise ConfigError("failed to parse the request JSON buffer: it holds no object")
    return found


def dump_json(value: object) -> bytes:
    """Return JSON in as few bytes as Triton writes; NaN and Infinity are spelt out, as Triton does."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def split_body(body: bytes, json_bytes: int | None) -> tuple[bytes, bytes]:
    """Return a body's JSON and its binary data; raises ConfigError when the length in the header is not in the body."""
    if json_bytes is None:
        return body, b""
    if not 0 <= json_bytes <= len(body):
        raise ConfigError(f"inference header size should be in range (0, {len(body)}), got: {json_bytes}")
    return body[:json_bytes], body[json_bytes:]


def parse_infer(model: str, version: str, text: bytes, binary: bytes) -> tuple[Message, OutputForms]:
    """Return a ModelInferRequest of JSON and the binary data after it, and its outputs' forms; raises ConfigError."""
    content = load_json(text)
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(content, "id", ""))
    forms = OutputForms()
    for name, value in _mapping(content, "parameters").items():
        if name == "binary_data_output":
            forms.by_default = _flag(name, value)
        elif name == "timeout" and isinstance(value, int) and value < 0:
            raise ConfigError("Unable to parse 'timeout': give a whole number, 0 or more")
        else:
            set_value(request.parameters, name, value)
    position = 0
    for tensor in _objects(content, "inputs", is_required=True):
        position = _add_input(request, tensor, binary, position)
    if position != len(binary):
        raise ConfigError(f"unexpected additional input data for model '{model}'")
    for output in _objects(content, "outputs"):
        _add_output(request, output, forms)
    return request, forms


def _add_input(request: Message, content: Mapping[str, Any], binary: bytes, position: int) -> int:
    """Add one input and return how far the binary data is used up."""
    name, datatype = _text(content, "name"), _text(content, "datatype")
    if datatype not in DATATYPES:
        raise ConfigError(f"invalid datatype for input {name}")
    shape = _shape(content, name)
    tensor = request.inputs.add(name=name, datatype=datatype, shape=shape)
    parameters = dict(_mapping(content, "parameters"))
    size = parameters.pop("binary_data_size", None)
    for key, value in parameters.items():
        set_value(tensor.parameters, key, value)
    if size is not None:
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size < 2**63:
            raise ConfigError(f"'binary_data_size' of input {name} is {reprlib.repr(size)}; give a number of bytes")
        if "data" in content:
            raise ConfigError(f"input '{name}' has both 'data' and 'binary_data_size'; give one of them")
        missing = position + size - len(binary)
        if missing > 0:
            raise ConfigError(
                f"unexpected size for input '{name}', expecting {missing} additional bytes for model "
                f"'{request.model_name}'"
            )
        request.raw_input_contents.append(binary[position : position + size])
        return position + size
    if "data" in content:
        request.raw_input_contents.append(from_json(name, datatype, shape, content["data"]))
    elif "shared_memory_region" not in parameters:
        raise ConfigError(f"Unable to parse 'data': input '{name}' has none")
    return position


def _add_output(request: Message, content: Mapping[str, Any], forms: OutputForms) -> None:
    name = _text(content, "name")
    output = request.outputs.add(name=name)
    for key, value in _mapping(content, "parameters").items():
        if key == "binary_data":
            forms.by_name[name] = _flag(key, value)
        elif key == "classification" and type(value) is int and value == 0:
            pass  # none, as Triton has it over HTTP
        else:
            set_value(output.parameters, key, value)


def parse_raw(model: str, version: str, config: Message, binary: bytes) -> Message:
    """Return the ModelInferRequest of a body that is one raw tensor, of a batch of one; for BYTES its one element.

    Raises ConfigError when the model has several inputs, or the shape can't be known from the size.
    """
    if len(config.input) != 1:
        raise ConfigError(f"Raw request must only have 1 input (found {len(config.input)}) to be deduced")
    spec = config.input[0]
    datatype = config_datatype(spec.data_type)
    dims = list(spec.dims)
    if datatype == "BYTES":
        if count_elements(dims) not in (1, -1):
            raise ConfigError(f"For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
        dims, binary = [1] * len(dims), encode_bytes([binary])
    elif -1 in dims:
        item_bytes = DATATYPES[datatype].size_bytes * count_elements([d for d in dims if d != -1])
        if dims.count(-1) > 1 or len(binary) % item_bytes:
            raise ConfigError(f"the shape of raw input '{spec.name}' can't be deduced from {len(binary)} bytes")
        dims[dims.index(-1)] = len(binary) // item_bytes
    request = pb.ModelInferRequest(model_name=model, model_version=version, raw_input_contents=[binary])
    request.inputs.add(name=spec.name, datatype=datatype, shape=[1, *dims] if config.max_batch_size > 0 else dims)
    return request


def render_infer(response: Message, forms: OutputForms) -> HttpBody:
    """Return a ModelInferResponse as an HTTP body; raises ConfigError when what is to be JSON has no form in it."""
    content = _render_head(response)
    parameters = _render_parameters(response.parameters)
    if parameters:
        content["parameters"] = parameters
    content["outputs"] = outputs = []
    tail: list[bytes] = []
    for index, tensor in enumerate(response.outputs):
        raw = _raw_output(response, index)
        output: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        own = _render_parameters(tensor.parameters)
        if forms.is_binary(tensor.name):
            own["binary_data_size"] = len(raw)
            tail.append(raw)
        else:
            output["data"] = to_json(tensor.name, tensor.datatype, raw)
        if own:
            output["parameters"] = own
        outputs.append(output)
    text = dump_json(content)
    return HttpBody(b"".join([text, *tail]), len(text)) if tail else HttpBody(text)


def parse_generate(model: str, version: str, content: Mapping[str, Any], config: Message, metadata: Message) -> Message:
    """Return the ModelInferRequest that plain JSON asks for; raises ConfigError when a value does not fit its input."""
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
            request.id = _text(content, "id")
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
    """Return a ModelInferResponse as plain JSON, outputs of one element as values, else lists; raises ConfigError."""
    content = _render_head(response) | _render_parameters(response.parameters)
    content.pop("triton_final_response", None)
    for index, tensor in enumerate(response.outputs):
        values = to_json(tensor.name, tensor.datatype, _raw_output(response, index))
        content[tensor.name] = values[0] if len(values) == 1 else values
    return content


def _render_head(response: Message) -> dict[str, Any]:
    content: dict[str, Any] = {"id": response.id} if response.id else {}
    return content | {"model_name": response.model_name, "model_version": response.model_version}


def _raw_output(response: Message, index: int) -> bytes:
    """Return the raw data of an output, from wherever the response has it."""
    if index < len(response.raw_output_contents):
        raw: bytes = response.raw_output_contents[index]
        return raw
    tensor = response.outputs[index]
    return from_contents(tensor.name, tensor.datatype, tensor.contents)


def _render_parameters(parameters: Any) -> dict[str, Any]:
    """Return a map of parameters as JSON values, by name."""
    return {name: read_value(parameters[name]) for name in sorted(parameters)}


def _objects(content: Mapping[str, Any], key: str, *, is_required: bool = False) -> list[dict[str, Any]]:
    found = content.get(key, None if is_required else [])
    if not isinstance(found, list) or not all(isinstance(element, dict) for element in found):
        raise ConfigError(f"Unable to parse '{key}': give a list of objects")
    return found


def _mapping(content: Mapping[str, Any], key: str) -> dict[str, Any]:
    found = content.get(key, {})
    if not isinstance(found, dict):
        raise ConfigError(f"Unable to parse '{key}': give an object")
    return found


def _text(content: Mapping[str, Any], key: str, default: str | None = None) -> str:
    found = content.get(key, default)
    if not isinstance(found, str):
        raise ConfigError(f"Unable to parse '{key}': give a string")
    return require_text(f"'{key}'", found)


def _flag(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"parameter '{name}' is {reprlib.repr(value)}; give true or false")
    return value


def _shape(content: Mapping[str, Any], name: str) -> list[int]:
    shape = content.get("shape")
    if not isinstance(shape, list) or not all(
        isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 2**63 for side in shape
    ):
        raise ConfigError(f"Unable to parse 'shape': give a list of whole numbers for input {name}")
    return shape
