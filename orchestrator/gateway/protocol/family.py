"""A slimmable family as the one model that clients see: requests into arrays, answers into responses; pure.

Checks and their words are Triton's, so that a client that was written for one model reads nothing new.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError, ModelNotFoundError
from orchestrator.gateway.protocol.messages import Message, pb, read_value, serialise
from orchestrator.gateway.protocol.request_parameters import parse_options
from orchestrator.gateway.protocol.tensors import (
    DATATYPES,
    Array,
    count_elements,
    encode_bytes,
    from_contents,
    require_scores,
    topk_strings,
)
from orchestrator.http2.flow import Buffer
from orchestrator.request_options import RequestOptions
from orchestrator.router import Answer
from orchestrator.snapshot import Family, ServedModel, TensorSpec

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
_PER_WIDTH = ("slim.width", "slim.accuracy", "slim.flops", "slim.sha256")


@dataclass(frozen=True, slots=True)
class FamilyModel:
    """A family as one model; it takes the largest batch that any of its widths takes."""

    name: Family
    input: TensorSpec
    output: TensorSpec
    max_batch_size: int


@dataclass(frozen=True, slots=True)
class FamilyRequest:
    """What a client wants of a family: ``batch`` of shape [n, ...], as ``options`` say.

    As many of the best ``classes`` are wanted as text; None for the scores themselves.
    """

    batch: Array
    options: RequestOptions
    classes: int | None
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
    return FamilyModel(
        narrowest.family, narrowest.input, narrowest.output, max(model.max_batch_size for model in models)
    )


def read_request(request: Message, family: FamilyModel, raws: Sequence[Buffer] | None = None) -> FamilyRequest:
    """Return what a ModelInferRequest asks for, with ``raws`` for its raw data unless that is in the request.

    Raises ConfigError, in Triton's words, when any of it is refused.
    """
    options = parse_options(request.parameters, family.name)
    contents = request.raw_input_contents if raws is None else raws
    batch, classes = _read_batch(request, contents, family), _read_classes(request.outputs, family)
    return FamilyRequest(batch, options, classes, request.id)


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
        if len(contents) != 1:
            return read_request(request, family)
        data = contents[0]
        del contents[:]
        request.ClearField("id")
        key = serialise(request)
        known, found = self._read.get(key, (None, None))
        if found is not None and (known is family or known == family) and len(data) == found.batch.nbytes:
            batch = np.frombuffer(data, found.batch.dtype).reshape(found.batch.shape)
            return FamilyRequest(batch, found.options, found.classes, request_id)
        contents.append(data)
        request.id = request_id
        read = read_request(request, family)
        if len(self._read) >= _MOST_KEPT:
            self._read.clear()
        if len(key) <= _LONGEST_KEPT:
            blank = np.broadcast_to(read.batch.dtype.type(), read.batch.shape)  # no memory but one item's
            self._read[key] = family, replace(read, batch=blank)
        return read

    def write(self, request_id: str, family: FamilyModel, answer: Answer, classes: int | None) -> bytes:
        """Return what ``build_response`` builds, serialised: messages side by side are read as one."""
        if classes is not None:
            return serialise(build_response(request_id, family, answer, classes))
        key = (family, answer.server, answer.width, answer.expected_accuracy, answer.policy, answer.output.shape)
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KEPT:
                self._heads.clear()
            response = build_response("", family, answer, None)
            del response.raw_output_contents[:]
            for name in _VARYING:
                response.parameters.pop(name, None)
            head = self._heads[key] = serialise(response)
        rest = pb.ModelInferResponse(id=request_id, raw_output_contents=[answer.output.tobytes()])
        _add_varying(rest.parameters, answer)
        return head + serialise(rest)


def _read_batch(request: Message, contents: Sequence[Buffer], family: FamilyModel) -> Array:
    spec, model, inputs = family.input, family.name, request.inputs
    if len(inputs) > 1 and inputs[0].name in (tensor.name for tensor in inputs[1:]):
        raise ConfigError(f"{_who(request)}input '{inputs[0].name}' already exists in request")
    if len(inputs) != 1:
        names = ",".join(f"'{tensor.name}'" for tensor in inputs[:_MOST_NAMED]) + ",..." * (len(inputs) > _MOST_NAMED)
        missing = "" if any(tensor.name == spec.name for tensor in inputs) else f"'{spec.name}'"
        raise ConfigError(
            f"{_who(request)}expected 1 inputs but got {len(inputs)} inputs for model '{model}'. Got input(s) "
            f"[{names}], but missing required input(s) [{missing}]. Please provide all required input(s)."
        )
    tensor = inputs[0]
    if tensor.name != spec.name:
        raise ConfigError(f"unexpected inference input '{tensor.name}' for model '{model}'")
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
    shape = tuple(tensor.shape)
    if shape[1:] != spec.shape and not _fits(shape, spec.shape):
        wanted, got = (",".join(map(str, dims)) for dims in ((-1, *spec.shape), shape))
        raise ConfigError(
            f"{_who(request)}unexpected shape for input '{tensor.name}' for model '{model}'. Expected [{wanted}], "
            f"got [{got}]. {_BATCH_NOTE}"
        )
    if min(shape) < 1:
        raise ConfigError(
            f"{_who(request)}input '{tensor.name}' for model '{model}' has shape {list(shape)}; nothing is in it"
        )
    if shape[0] > family.max_batch_size:
        raise ConfigError(
            f"{_who(request)}inference request batch-size must be <= {family.max_batch_size} for '{model}'"
        )
    raw = _raw_data(request, contents, tensor, model)
    kind = DATATYPES[spec.datatype]
    expected_bytes = count_elements(shape) * kind.size_bytes
    if kind.numpy is None or len(raw) != expected_bytes:
        raise ConfigError(
            f"{_who(request)}input byte size mismatch for input '{tensor.name}' for model '{model}'. Expected "
            f"{expected_bytes}, got {len(raw)}"
        )
    return np.frombuffer(raw, dtype=kind.numpy).reshape(shape)


def _who(request: Message) -> str:
    return f"[request id: {request.id or '<id_unknown>'}] "


def _fits(shape: tuple[int, ...], item: tuple[int, ...]) -> bool:
    return len(shape) == len(item) + 1 and all(w in (-1, n) for n, w in zip(shape[1:], item, strict=True))


def _raw_data(request: Message, contents: Sequence[Buffer], tensor: Message, model: str) -> Buffer:
    if len(contents) > 1:
        raise ConfigError(
            f"{_who(request)}got {len(contents)} raw_input_contents for the one input of model '{model}'; send one"
        )
    if contents:
        if tensor.HasField("contents"):
            raise ConfigError(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' for model "
                f"'{model}'"
            )
        return contents[0]
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


def _read_classes(outputs: Any, family: FamilyModel) -> int | None:
    classes = None
    for output in outputs:
        if output.name != family.output.name:
            raise ConfigError(f"unexpected inference output '{output.name}' for model '{family.name}'")
        _refuse_shared_memory(output, "output")
        if "classification" in output.parameters:
            value = read_value(output.parameters["classification"])
            if isinstance(value, bool) or not isinstance(value, int):
                raise ConfigError("invalid value type for 'classification' parameter, expected int64_param")
            if value < 1:
                raise ConfigError("invalid value for 'classification' parameter, expected >= 0")
            require_scores(family.output.datatype)
            classes = value
    return classes


def _refuse_shared_memory(tensor: Message, what: str) -> None:
    if "shared_memory_region" in tensor.parameters:
        raise ConfigError(
            f"{what} '{tensor.name}' is said to be in shared memory, which the gateway does not take; send it along"
        )


def build_response(request_id: str, family: FamilyModel, answer: Answer, classes: int | None) -> Message:
    """Return the ModelInferResponse of a batch's answer: scores, or so many of the best ``classes`` as text."""
    output = answer.output
    tensor = pb.ModelInferResponse.InferOutputTensor(name=family.output.name)
    if classes is None:
        tensor.datatype = family.output.datatype
        tensor.shape.extend(output.shape)
        raw = output.tobytes()
    else:
        rows = [topk_strings(row, classes, answer.labels) for row in output.reshape(len(output), -1)]
        tensor.datatype = "BYTES"
        tensor.shape.extend((len(rows), len(rows[0])))
        raw = encode_bytes([text for row in rows for text in row])
    response = pb.ModelInferResponse(
        model_name=family.name, model_version=VERSION, id=request_id, outputs=[tensor], raw_output_contents=[raw]
    )
    parameters = response.parameters
    parameters["slim_server"].string_param = answer.server
    parameters["slim_width"].int64_param = answer.width
    parameters["slim_expected_accuracy"].double_param = answer.expected_accuracy
    parameters["slim_policy"].string_param = answer.policy
    _add_varying(parameters, answer)
    return response


def _add_varying(parameters: Any, answer: Answer) -> None:
    """Add the parameters that differ from answer to answer."""
    parameters["slim_batch"].int64_param = answer.batch
    parameters["slim_queue_us"].int64_param = round(answer.queue_s * 1e6)
    parameters["slim_decision_id"].string_param = answer.decision_id
    if answer.energy_j is not None:
        parameters["slim_energy_j"].double_param = answer.energy_j


def merge_config(config: Message, family: FamilyModel, widths: Mapping[int, float]) -> None:
    """Turn the ModelConfig of one width into that of its family, in place.

    What differs from width to width goes; ``slim.widths`` and ``slim.accuracies`` list all of them, comma-separated.
    """
    config.name = family.name
    config.max_batch_size = family.max_batch_size
    for name in _PER_WIDTH:
        config.parameters.pop(name, None)
    config.parameters["slim.widths"].string_value = ",".join(map(str, widths))
    config.parameters["slim.accuracies"].string_value = ",".join(f"{accuracy:g}" for accuracy in widths.values())
    del config.model_warmup[:]
    del config.instance_group[:]
