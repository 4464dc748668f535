"""A slimmable family as the one model that clients see: requests into arrays, answers into responses; pure.

Checks and their words are Triton's, so that a client that was written for one model reads nothing new.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError, ModelNotFoundError, ServerUnavailableError
from orchestrator.gateway.protocol.messages import Message, pb, read_value, serialise
from orchestrator.gateway.protocol.request_parameters import parse_options
from orchestrator.gateway.protocol.tensors import (
    DATATYPES,
    Array,
    count_elements,
    decode_bytes,
    from_contents,
    require_scores,
    topk_strings,
)
from orchestrator.gateway.protocol.wire import split_answer
from orchestrator.http2.flow import Buffer
from orchestrator.request_options import RequestOptions
from orchestrator.router import Answer
from orchestrator.snapshot import Family, ServedModel, TensorSpec
from orchestrator.triton.infer_wire import NUMPY_TYPES, decode_tensor, encode_elements, encode_tensor

VERSION = "1"
"""The only version that a family has."""

_MOST_VERSION = 2**63 - 1
_BATCH_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
_DATATYPE_OF = {kind.contents_field: name for name, kind in DATATYPES.items()}  # the widest that a field is for
_VARYING = ("slim_batch", "slim_queue_us", "slim_decision_id", "slim_energy_j")  # from answer to answer
_MOST_KEPT, _LONGEST_KEPT = 256, 4096  # forms of requests and answers, and the bytes of one
_MOST_NAMED, _MOST_SIDES = 16, 64  # in a refusal, and of a shape
_UNSIZED = frozenset({"BYTES", "BF16"})  # whose arrays have other sizes than their data
_PER_WIDTH = ("slim.width", "slim.accuracy", "slim.flops", "slim.sha256")


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """A family as one model.

    Attributes:
        max_batch_size: The largest batch that any of its widths takes; 1 where there is no batch dimension.
        is_batching: Whether its tensors have a batch dimension.
    """

    name: Family
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int
    is_batching: bool = True

    def shape(self, spec: TensorSpec) -> tuple[int, ...]:
        """Return the shape of one of its tensors; -1 where it may vary."""
        return (-1, *spec.shape) if self.is_batching else spec.shape


WantedOutputs = Mapping[str, int | None] | None
"""The outputs that are wanted, of which None stands for all as they are; of each so many of its best classes as text,
or None for its values."""


@dataclass(frozen=True, slots=True)
class FamilyRequest:
    """What a client wants of a family: ``outputs`` for ``inputs``, as ``options`` say."""

    inputs: Mapping[str, Array]
    options: RequestOptions
    outputs: WantedOutputs
    items: int
    id: str = ""


def check_version(wanted: str) -> None:
    """Raise ConfigError, in Triton's words, when a version is no number of 64 bits."""
    is_number = wanted.isascii() and wanted.isdigit() and len(wanted) <= len(str(_MOST_VERSION))
    if wanted and not (is_number and int(wanted) <= _MOST_VERSION):
        raise ConfigError(
            f"failed to get model version from specified version string '{wanted}' (details: stol), version should be "
            "an integral value > 0"
        )


def require_version(family: FamilyModel, wanted: str) -> None:
    """Raise ModelNotFoundError when a family has no such version, and ConfigError when it is no number."""
    if wanted not in ("", VERSION):
        check_version(wanted)
        raise ModelNotFoundError(f"Request for unknown model: '{family.name}' version {wanted} is not found")


def merge_widths(models: Sequence[ServedModel]) -> FamilyModel:
    """Return a family as one model; ``models`` must be of one family and not empty."""
    narrowest = min(models, key=lambda m: (m.width, m.name))
    most = max(model.max_batch_size for model in models)
    return FamilyModel(narrowest.family, narrowest.inputs, narrowest.outputs, most, narrowest.is_batching)


def read_request(request: Message, family: FamilyModel, raws: Sequence[Buffer] | None = None) -> FamilyRequest:
    """Return what a ModelInferRequest asks for, with ``raws`` for its raw data unless that is in the request.

    Raises ConfigError, in Triton's words, when any of it is refused.
    """
    options = parse_options(request.parameters, family.name)
    contents = request.raw_input_contents if raws is None else raws
    inputs = _read_inputs(request, contents, family)
    items = len(inputs[family.inputs[0].name]) if family.is_batching else 1
    return FamilyRequest(inputs, options, _read_outputs(request.outputs, family), items, request.id)


class FamilyMessages:
    """Reads requests and writes responses for gRPC, working out once what is the same in most of them.

    A client sends the same message again and again, in which only id and data differ, and its answers differ in little
    more. Where requests come one by one, all code that runs is cold, and what is not run is most of what can be saved.
    """

    def __init__(self) -> None:
        self._read: dict[bytes, tuple[FamilyModel, FamilyRequest]] = {}
        self._heads: dict[object, bytes] = {}

    def read(self, request: Message, family: FamilyModel) -> FamilyRequest:
        """Return what ``read_request`` does, and raise as it does; id and data may be gone from the request."""
        contents, request_id = request.raw_input_contents, request.id
        if len(contents) != len(family.inputs) or any(spec.datatype in _UNSIZED for spec in family.inputs):
            return read_request(request, family)
        raws = list(contents)
        del contents[:]
        request.ClearField("id")
        key = serialise(request)
        known, found = self._read.get(key, (None, None))
        if found is not None and (known is family or known == family):
            blanks = found.inputs.items()
            if [len(raw) for raw in raws] == [blank.nbytes for _, blank in blanks]:
                pairs = zip(blanks, raws, strict=True)
                inputs = {name: np.frombuffer(raw, like.dtype).reshape(like.shape) for (name, like), raw in pairs}
                return FamilyRequest(inputs, found.options, found.outputs, found.items, request_id)
        contents.extend(raws)
        request.id = request_id
        read = read_request(request, family)
        if len(self._read) >= _MOST_KEPT:
            self._read.clear()
        if len(key) <= _LONGEST_KEPT:
            # Of no memory but one value's.
            blank = {name: np.broadcast_to(a.dtype.type(), a.shape) for name, a in read.inputs.items()}
            self._read[key] = family, replace(read, inputs=blank)
        return read

    def write(self, request_id: str, family: FamilyModel, answer: Answer, wanted: WantedOutputs) -> bytes:
        """Return what ``build_response`` builds, serialised: messages side by side are read as one."""
        if wanted is not None and any(classes is not None for classes in wanted.values()):
            return serialise(build_response(request_id, family, answer, wanted))
        names = tuple(wanted or ())
        forms = tuple([(name, array.shape, array.dtype.char) for name, array in answer.outputs.items()])
        key = (family, answer.server, answer.width, answer.expected_accuracy, answer.policy, names, forms)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KEPT:
                self._heads.clear()
            response = build_response("", family, answer, wanted)
            del response.raw_output_contents[:]
            for name in _VARYING:
                response.parameters.pop(name, None)
            head = self._heads[key] = serialise(response)
        raws = [bytes(encode_tensor(answer.outputs[s.name], s.datatype)) for s in _wanted_specs(family, wanted)]
        rest = pb.ModelInferResponse(id=request_id, raw_output_contents=raws)
        _add_varying(rest.parameters, answer)
        return head + serialise(rest)


def _read_inputs(request: Message, contents: Sequence[Buffer], family: FamilyModel) -> dict[str, Array]:
    """Return all inputs of a family by name, in the order of the request."""
    model, inputs = family.name, request.inputs
    names = [tensor.name for tensor in inputs]
    specs = {spec.name: spec for spec in family.inputs}
    if len(set(names)) < len(names):
        twice = max(names, key=Counter(names).__getitem__)
        raise ConfigError(f"{_who(request)}input '{twice}' already exists in request")
    if len(inputs) != len(specs):
        got = ",".join(f"'{name}'" for name in names[:_MOST_NAMED]) + ",..." * (len(names) > _MOST_NAMED)
        missing = ",".join(f"'{name}'" for name in specs if name not in names)
        raise ConfigError(
            f"{_who(request)}expected {len(specs)} inputs but got {len(inputs)} inputs for model '{model}'. Got "
            f"input(s) [{got}], but missing required input(s) [{missing}]. Please provide all required input(s)."
        )
    unknown = next((name for name in names if name not in specs), None)
    if unknown is not None:
        raise ConfigError(f"unexpected inference input '{unknown}' for model '{model}'")
    if contents and len(contents) != len(inputs):
        raise ConfigError(
            f"{_who(request)}got {len(contents)} raw_input_contents for the {len(inputs)} inputs of model '{model}'; "
            "send one each"
        )
    arrays = {}
    for index, tensor in enumerate(inputs):
        shape = _read_shape(request, tensor, specs[tensor.name], family)
        raw = _raw_data(tensor, contents[index] if contents else None, model)
        arrays[tensor.name] = _read_array(request, raw, shape, specs[tensor.name], model)
    counts = {len(array) for array in arrays.values()} if family.is_batching else set()
    if len(counts) > 1:
        raise ConfigError(
            f"{_who(request)}inputs of model '{model}' have {', '.join(map(str, sorted(counts)))} items; give as many "
            "of each"
        )
    return arrays


def _read_shape(request: Message, tensor: Message, spec: TensorSpec, family: FamilyModel) -> tuple[int, ...]:
    """Return the shape of an input, which fits the family's."""
    model = family.name
    _refuse_shared_memory(tensor, "input")
    if tensor.datatype != spec.datatype:
        got = tensor.datatype if tensor.datatype in DATATYPES else "<invalid>"
        raise ConfigError(
            f"{_who(request)}inference input '{tensor.name}' data-type is '{got}', but model '{model}' expects "
            f"'{spec.datatype}'"
        )
    if len(tensor.shape) > _MOST_SIDES:
        raise ConfigError(
            f"{_who(request)}unexpected shape for input '{tensor.name}' for model '{model}': it has "
            f"{len(tensor.shape)} sides, at most {_MOST_SIDES} are taken"
        )
    shape, wanted = tuple(tensor.shape), family.shape(spec)
    if not _fits(shape, wanted):
        expected, got = (",".join(map(str, dims)) for dims in (wanted, shape))
        note = f" {_BATCH_NOTE}" if family.is_batching else ""
        raise ConfigError(
            f"{_who(request)}unexpected shape for input '{tensor.name}' for model '{model}'. Expected [{expected}], "
            f"got [{got}].{note}"
        )
    if min(shape, default=1) < 0 or (family.is_batching and shape[0] < 1):
        raise ConfigError(
            f"{_who(request)}input '{tensor.name}' for model '{model}' has shape {list(shape)}; nothing is in it"
        )
    if family.is_batching and shape[0] > family.max_batch_size:
        raise ConfigError(
            f"{_who(request)}inference request batch-size must be <= {family.max_batch_size} for '{model}'"
        )
    return shape


def _read_array(request: Message, raw: Buffer, shape: tuple[int, ...], spec: TensorSpec, model: str) -> Array:
    """Return the data of an input as an array of its shape."""
    count = count_elements(shape)
    size_bytes = DATATYPES[spec.datatype].size_bytes
    if size_bytes:
        expected, found, what = count * size_bytes, len(raw), "byte size"
    else:
        expected, found, what = count, len(decode_bytes(bytes(raw), spec.name)), "element count"
    if found != expected:
        raise ConfigError(
            f"{_who(request)}input {what} mismatch for input '{spec.name}' for model '{model}'. Expected {expected}, "
            f"got {found}"
        )
    return decode_tensor(raw, spec.datatype, shape)


def _who(request: Message) -> str:
    return f"[request id: {request.id or '<id_unknown>'}] "


def _fits(shape: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    return len(shape) == len(wanted) and all(w in (-1, n) for n, w in zip(shape, wanted, strict=True))


def _raw_data(tensor: Message, raw: Buffer | None, model: str) -> Buffer:
    """Return the data of an input, which is beside it or in it."""
    if raw is not None:
        if tensor.HasField("contents"):
            raise ConfigError(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for model "
                f"'{model}'"
            )
        return raw
    if not tensor.HasField("contents"):
        raise ConfigError(f"unable to find data for input tensor '{tensor.name}' for model '{model}' in request.")
    field = DATATYPES[tensor.datatype].contents_field
    for descriptor, _ in tensor.contents.ListFields():
        if descriptor.name != field:
            raise ConfigError(
                f"unexpected explicit tensor data for input tensor '{tensor.name}' for model '{model}' of type "
                f"'{_DATATYPE_OF[descriptor.name]}', expected datatype '{tensor.datatype}'"
            )
    return from_contents(tensor.name, tensor.datatype, tensor.contents)


def _read_outputs(outputs: Any, family: FamilyModel) -> WantedOutputs:
    if not outputs:
        return None
    specs = {spec.name: spec for spec in family.outputs}
    wanted: dict[str, int | None] = {}
    for output in outputs:
        if output.name not in specs:
            raise ConfigError(f"unexpected inference output '{output.name}' for model '{family.name}'")
        _refuse_shared_memory(output, "output")
        wanted[output.name] = None
        if "classification" in output.parameters:
            value = read_value(output.parameters["classification"])
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError("invalid value type for 'classification' parameter, expected int64_param")
            if value < 1:
                raise ConfigError("invalid value for 'classification' parameter, expected >= 0")
            require_scores(specs[output.name].datatype)
            wanted[output.name] = value
    return wanted


def _wanted_specs(family: FamilyModel, wanted: WantedOutputs) -> list[TensorSpec]:
    return [spec for spec in family.outputs if wanted is None or spec.name in wanted]


def _refuse_shared_memory(tensor: Message, what: str) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise ConfigError(
            f"{what} '{tensor.name}' is said to be in shared memory, which the gateway does not take; send it along"
        )


def build_response(request_id: str, family: FamilyModel, answer: Answer, wanted: WantedOutputs) -> Message:
    """Return the ModelInferResponse of an answer, with the outputs that are wanted, in the order of the family's.

    Raises ServerUnavailableError when the answer is of models that have other outputs than the family.
    """
    response = pb.ModelInferResponse(model_name=family.name, model_version=VERSION, id=request_id)
    for spec in _wanted_specs(family, wanted):
        output, classes = answer.outputs.get(spec.name), wanted[spec.name] if wanted else None
        if output is None or output.dtype != np.dtype(NUMPY_TYPES[spec.datatype]):
            raise ServerUnavailableError(f"family '{family.name}' was replaced while this ran; send it again")
        tensor = response.outputs.add(name=spec.name)
        if classes is None:
            tensor.datatype = spec.datatype
            tensor.shape.extend(output.shape)
            raw = bytes(encode_tensor(output, spec.datatype))
        else:
            labels = answer.labels if spec is family.outputs[0] else ()
            scores = output.reshape(len(output) if family.is_batching else 1, -1)
            rows = [topk_strings(row, classes, labels) for row in scores]
            tensor.datatype = "BYTES"
            tensor.shape.extend((len(rows), len(rows[0])) if family.is_batching else (len(rows[0]),))
            raw = encode_elements([text for row in rows for text in row])
        response.raw_output_contents.append(raw)
    parameters = response.parameters
    parameters["slim_server"].string_param = answer.server
    parameters["slim_width"].int64_param = answer.width
    parameters["slim_expected_accuracy"].double_param = answer.expected_accuracy
    parameters["slim_policy"].string_param = answer.policy
    _add_varying(parameters, answer)
    return response


def read_decision(response: bytes) -> tuple[str, str, float]:
    """Return width, server and seconds in the queue of a serialised response of ``build_response``; '' and 0 if unsaid.

    Raises TransientError when it is none.
    """
    parameters = split_answer(response)[0].parameters
    width, server = parameters["slim_width"].int64_param, parameters["slim_server"].string_param
    return str(width) if width else "", server, parameters["slim_queue_us"].int64_param / 1e6


def _add_varying(parameters: Any, answer: Answer) -> None:
    """Add the parameters that differ from answer to answer."""
    parameters["slim_batch"].int64_param = answer.batch
    parameters["slim_queue_us"].int64_param = round(answer.queue_s * 1e6)
    parameters["slim_decision_id"].string_param = answer.decision_id
    if answer.energy_j is not None:
        parameters["slim_energy_j"].double_param = answer.energy_j


def merge_config(config: Message, family: FamilyModel, widths: Mapping[int, ServedModel]) -> None:
    """Turn the ModelConfig of one width into that of its family, in place; ``widths`` are all of them, at least one.

    What differs from width to width goes; ``slim.widths`` and ``slim.accuracies`` list all of them, comma-separated.
    What only the fleet file says of images, classes and a usual item is said here too.
    """
    config.name = family.name
    config.max_batch_size = family.max_batch_size if family.is_batching else 0
    for name in _PER_WIDTH:
        config.parameters.pop(name, None)
    config.parameters["slim.widths"].string_value = ",".join(map(str, widths))
    config.parameters["slim.accuracies"].string_value = ",".join(f"{model.accuracy:g}" for model in widths.values())
    model = next(iter(widths.values()))
    names = [spec.name for spec in model.inputs]
    said: dict[str, Any] = {
        "slim.preprocessing": asdict(model.preprocessing) if model.preprocessing else None,
        "slim.labels": model.labels,
        "slim.item": dict(zip(names, model.usual_item, strict=False)),
        "slim.fill": {name: fill for name, fill in zip(names, model.fills, strict=False) if fill is not None},
    }
    for key, value in said.items():
        if value and key not in config.parameters:
            config.parameters[key].string_value = json.dumps(value, sort_keys=True)
    del config.model_warmup[:]
    del config.instance_group[:]
