"""KServe's HTTP bodies as the messages of gRPC, and back; pure.

A request is JSON, or JSON followed by binary tensors in the order of their inputs, or nothing but one raw tensor.
Every tensor becomes raw data, so what is passed through to a server is exact for every datatype. It stays beside the
message, where it came, because it may be large. Where Triton answers malformed JSON with status 500 we say 400: it is
the client's fault, and balancers take a server out for its 5xx.

Triton's generate extension is for clients that know no KServe: a key that is an input's name is that input, a value or
a flat list of values; its shape is the model's, for a batch of one, with at most one open side taken from the number of
values. Every other key is a request parameter.

What a request may have of anything is bounded far beyond what models have, so that a few bytes can't make much work.
"""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from orchestrator.errors import ConfigError
from orchestrator.gateway.http.json_text import dump_json, dump_texts, load_json
from orchestrator.gateway.protocol.messages import Message, pb, read_value, require_text, set_value
from orchestrator.gateway.protocol.tensors import (
    DATATYPES,
    count_elements,
    from_contents,
    from_json,
    to_json,
)
from orchestrator.gateway.protocol.wire import join
from orchestrator.http2.flow import Buffer
from orchestrator.triton.messages import data_type_name

_ONE_SOURCE: Final = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'."
)
MAX_OUTPUT_BYTES: Final = 16 * 2**20
"""Most bytes of output tensors that are written as JSON, which takes five times as many."""
_MAX_TENSORS: Final = 1024  # inputs, and outputs
_MAX_PARAMETERS: Final = 2048  # of the request itself, of all its inputs and of all its outputs
_MAX_SIDES: Final = 64  # as many as numpy's arrays have


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
    """A body in parts; ``json_bytes`` is the length of its JSON when binary data follows, None when none does."""

    parts: Sequence[Buffer]
    json_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class InferBody:
    """A ModelInferRequest without its raw data, which are ``raws``, and the forms its outputs are wanted in."""

    request: Message
    raws: list[Buffer]
    forms: OutputForms = field(default_factory=OutputForms)


def split_body(body: bytes | bytearray, json_bytes: int | None) -> tuple[bytes | bytearray, memoryview]:
    """Return a body's JSON and its binary data; raises ConfigError when the length in the header is not in the body."""
    binary = memoryview(body)
    if json_bytes is None:
        return body, binary[len(body) :]
    if not 0 <= json_bytes <= len(body):
        raise ConfigError(f"inference header size should be in range (0, {len(body)}), got: {json_bytes}")
    return body[:json_bytes], binary[json_bytes:]


def parse_infer(model: str, version: str, text: bytes | bytearray, binary: bytes | memoryview) -> InferBody:
    """Return the request that JSON and the binary data after it hold; raises ConfigError."""
    content = load_json(text)
    request = pb.ModelInferRequest(model_name=model, model_version=version, id=_text(content, "id", ""))
    raws: list[Buffer] = []
    forms = OutputForms()
    parameters = _mapping(content, "parameters")
    _require_few("parameters", len(parameters), _MAX_PARAMETERS)
    for name, value in parameters.items():
        if name == "binary_data_output":
            forms.by_default = _flag(name, value)
        elif name == "timeout" and isinstance(value, int) and value < 0:
            raise ConfigError("Unable to parse 'timeout': give a whole number, 0 or more")
        else:
            set_value(request.parameters, name, value)
    position = 0
    for tensor in _objects(content, "inputs", is_required=True):
        position = _add_input(request, raws, tensor, binary, position)
    if position != len(binary):
        raise ConfigError(f"unexpected additional input data for model '{model}'")
    for output in _objects(content, "outputs"):
        _add_output(request, output, forms)
    return InferBody(request, raws, forms)


def _add_input(
    request: Message, raws: list[Buffer], content: Mapping[str, Any], binary: bytes | memoryview, position: int
) -> int:
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
        raws.append(binary[position : position + size])
        return position + size
    if "data" in content:
        raws.append(from_json(name, datatype, shape, content["data"]))
    elif "shared_memory_region" not in parameters:
        raise ConfigError(f"{_ONE_SOURCE} But no field is set")
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


def parse_raw(model: str, version: str, config: Message, binary: bytes | memoryview) -> InferBody:
    """Return the request of a body that is one raw tensor, of a batch of one; for BYTES its one element.

    Raises ConfigError when the model has several inputs, or the shape can't be known from the size.
    """
    who = "[request id: <id_unknown>] "
    if len(config.input) != 1:
        raise ConfigError(
            f"{who}Raw request must only have 1 input (found 1) to be deduced but got {len(config.input)} inputs in "
            f"'{model}' model configuration"
        )
    spec = config.input[0]
    datatype = data_type_name(spec.data_type)
    dims = list(spec.dims)
    raw: Buffer = binary
    if datatype == "BYTES":
        if any(side != 1 for side in dims):
            raise ConfigError(f"{who}For BYTE datatype raw input '{spec.name}', the model must have input shape [1]")
        raw = join((len(binary).to_bytes(4, "little"), binary))
    elif -1 in dims:
        if dims.count(-1) > 1:
            raise ConfigError(
                f"{who}The shape of the raw input '{spec.name}' can not be deduced because there are more than one "
                "variable-sized dimension"
            )
        item_bytes = DATATYPES[datatype].size_bytes * count_elements([d for d in dims if d != -1])
        count, rest = divmod(len(binary), item_bytes)
        if rest:
            raise ConfigError(
                f"{who}input byte size mismatch for input '{spec.name}' for model '{model}'. Expected "
                f"{count * item_bytes}, got {len(binary)}"
            )
        dims[dims.index(-1)] = count
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name=spec.name, datatype=datatype, shape=[1, *dims] if config.max_batch_size > 0 else dims)
    return InferBody(request, [raw], OutputForms(by_default=True))


def raw_outputs(response: Message, raws: Sequence[Buffer]) -> list[Buffer]:
    """Return the data of each output, from ``raws`` or, as few servers send it, from the response; see ConfigError."""
    typed = response.outputs[len(raws) :]
    return [*raws, *(from_contents(tensor.name, tensor.datatype, tensor.contents) for tensor in typed)]


def json_output_bytes(response: Message, raws: Sequence[Buffer], forms: OutputForms) -> int:
    """Return how many bytes of output tensors go back as JSON; raises ConfigError when they are too many."""
    count = sum(
        len(raw) for tensor, raw in zip(response.outputs, raws, strict=True) if not forms.is_binary(tensor.name)
    )
    if count > MAX_OUTPUT_BYTES:
        raise ConfigError(
            f"the outputs have {count} bytes, at most {MAX_OUTPUT_BYTES} are sent as JSON; ask for binary_data"
        )
    return count


def render_infer(response: Message, raws: Sequence[Buffer], forms: OutputForms) -> HttpBody:
    """Return a ModelInferResponse as an HTTP body; raises ConfigError when what is to be JSON has no form in it."""
    content = _render_head(response)
    parameters = _render_parameters(response.parameters)
    if parameters:
        content["parameters"] = parameters
    pieces = [dump_json(content | {"outputs": []})[:-2]]
    tail: list[Buffer] = []
    for index, (tensor, raw) in enumerate(zip(response.outputs, raws, strict=True)):
        output = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        pieces += (b"," if index else b"", dump_json(output)[:-1])
        own = _render_parameters(tensor.parameters)
        if forms.is_binary(tensor.name):
            own["binary_data_size"] = len(raw)
            tail.append(raw)
        else:
            pieces += (b',"data":[', _render_values(tensor, raw)[0], b"]")
        if own:
            pieces += (b',"parameters":', dump_json(own))
        pieces.append(b"}")
    pieces.append(b"]}")
    text = b"".join(pieces)
    return HttpBody([text, *tail], len(text) if tail else None)


def _render_values(tensor: Message, raw: Buffer) -> tuple[bytes, int]:
    """Return the values of an output with commas between them, and how many there are."""
    pieces, count = [], 0
    dump = dump_texts if tensor.datatype == "BYTES" else dump_json
    for values in to_json(tensor.name, tensor.datatype, bytes(raw)):
        pieces.append(dump(values)[1:-1])
        count += len(values)
    return b",".join(pieces), count


def parse_generate(
    model: str, version: str, content: Mapping[str, Any], config: Message, metadata: Message
) -> InferBody:
    """Return the request that plain JSON stands for; raises ConfigError when a value does not fit its input."""
    request = pb.ModelInferRequest(model_name=model, model_version=version)
    raws: list[Buffer] = []
    specs = {spec.name: spec for spec in metadata.inputs}
    parameters = content.get("parameters")
    nested = len(parameters) if isinstance(parameters, dict) else 0
    _require_few("parameters", len(content) + nested, _MAX_PARAMETERS)
    for key, value in content.items():
        spec = specs.get(key)
        if spec is not None:
            values = value if isinstance(value, list) else [value]
            dims = list(spec.shape)
            if config.max_batch_size > 0:
                dims[0] = 1
            shape = _fit(key, dims, len(values))
            request.inputs.add(name=key, datatype=spec.datatype, shape=shape)
            raws.append(from_json(key, spec.datatype, shape, values))
        elif key == "id":
            request.id = _text(content, "id")
        elif key == "parameters" and isinstance(value, dict):
            for name, parameter in value.items():
                set_value(request.parameters, name, parameter)
        else:
            set_value(request.parameters, key, value)
    return InferBody(request, raws)


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


def render_generate(response: Message, raws: Sequence[Buffer]) -> bytes:
    """Return a ModelInferResponse as plain JSON, outputs of one element as values, else lists; raises ConfigError."""
    content = _render_head(response) | _render_parameters(response.parameters)
    for name in ("triton_final_response", *(tensor.name for tensor in response.outputs)):
        content.pop(name, None)
    pieces: list[bytes] = []
    for tensor, raw in zip(response.outputs, raws, strict=True):
        values, count = _render_values(tensor, raw)
        pieces += (b",", dump_json(tensor.name), b":", values if count == 1 else b"[" + values + b"]")
    if not content:
        del pieces[:1]
    return b"".join([dump_json(content)[:-1], *pieces, b"}"])


def _render_head(response: Message) -> dict[str, Any]:
    content: dict[str, Any] = {"id": response.id} if response.id else {}
    return content | {"model_name": response.model_name, "model_version": response.model_version}


def _render_parameters(parameters: Any) -> dict[str, Any]:
    """Return a map of parameters as JSON values, by name."""
    return {name: read_value(parameters[name]) for name in sorted(parameters)}


def _require_few(what: str, count: int, most: int) -> None:
    if count > most:
        raise ConfigError(f"Unable to parse '{what}': there are {count} of them, at most {most} are taken")


def _objects(content: Mapping[str, Any], key: str, *, is_required: bool = False) -> list[dict[str, Any]]:
    found = content.get(key, None if is_required else [])
    if isinstance(found, list):
        _require_few(key, len(found), _MAX_TENSORS)
    if not isinstance(found, list) or not all(isinstance(element, dict) for element in found):
        raise ConfigError(f"Unable to parse '{key}': give a list of objects")
    _require_few("parameters", sum(len(_mapping(element, "parameters")) for element in found), _MAX_PARAMETERS)
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
    if isinstance(shape, list) and len(shape) > _MAX_SIDES:
        raise ConfigError(
            f"Unable to parse 'shape': input {name} has {len(shape)} sides, at most {_MAX_SIDES} are taken"
        )
    if not isinstance(shape, list) or not all(
        isinstance(side, int) and not isinstance(side, bool) and 0 <= side < 2**63 for side in shape
    ):
        raise ConfigError(f"Unable to parse 'shape': give a list of whole numbers for input {name}")
    return shape
