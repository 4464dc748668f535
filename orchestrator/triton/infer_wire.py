"""ModelInfer requests and answers as bytes.

Triton's own client builds an object a tensor and a message a request; for a router that asks the same few models again
and again, only the tensors' data differ. So the rest of a request is serialised once and kept, and the data put behind
it: protocol buffers may give fields in any order, and ``raw_input_contents`` come last.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from orchestrator.errors import ConfigError, WrongAnswerError
from orchestrator.http2.flow import Buffer
from orchestrator.snapshot import ServedModel, TensorSpec
from orchestrator.triton.messages import pb

Array = NDArray[Any]
Tensors = tuple[Array, ...]
"""The inputs or the outputs of a batch in the order of the model's, items first in each."""

_RAW_INPUT: Final = b"\x3a"
"""The key of field 7 of a request, raw_input_contents, whose type is bytes."""
_RAW_OUTPUT: Final = b"\x32"
"""The key of field 6 of an answer, raw_output_contents."""
_MOST_KEPT: Final = 4096
_COPIED_BYTES: Final = 2**16
NUMPY_TYPES: Final = {
    "BOOL": "?",
    "INT8": "<i1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "UINT8": "<u1",
    "UINT16": "<u2",
    "UINT32": "<u4",
    "UINT64": "<u8",
    "FP16": "<f2",
    "FP32": "<f4",
    "FP64": "<f8",
    "BF16": "<f4",  # the upper half of an FP32, as which it is held here
    "BYTES": "O",
}
"""The type of an array, as numpy names it, in which tensors of one of Triton's types are held."""
_DATATYPES: Final = {np.dtype(numpy): datatype for datatype, numpy in NUMPY_TYPES.items() if datatype != "BF16"}


class InferRequests:
    """Serialises requests, keeping what does not change."""

    def __init__(self) -> None:
        self._heads: dict[object, bytes] = {}

    def encode(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str],
        datatypes: Sequence[str] | None = None,
    ) -> tuple[Buffer, ...]:
        """Return a serialised ModelInferRequest in parts: a large array stays where it is.

        ``datatypes`` are those of the inputs; None: what the arrays' types stand for.

        Raises:
            ConfigError: An array is of a type that stands for none.
        """
        if datatypes is None:
            datatypes = [_datatype_of(name, array) for name, array in inputs.items()]
        forms = zip(inputs.items(), datatypes, strict=True)
        key = (model, tuple((name, array.shape, datatype) for (name, array), datatype in forms), tuple(outputs))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KEPT:
                self._heads.clear()
            head = self._heads[key] = _encode_head(model, inputs, outputs, datatypes)
        parts: list[Buffer] = [head]
        for array, datatype in zip(inputs.values(), datatypes, strict=True):
            raw = encode_tensor(array, datatype)
            parts += (_RAW_INPUT, encode_varint(len(raw)), raw)
        return tuple(parts)


def _datatype_of(name: str, array: Array) -> str:
    datatype = "BYTES" if array.dtype.kind in "OSU" else _DATATYPES.get(array.dtype)
    if datatype is None:
        raise ConfigError(f"input {name!r} is an array of {array.dtype}, which no model takes; convert it")
    return datatype


def encode_tensor(array: Array, datatype: str) -> Buffer:
    """Return an array as the raw data of a tensor; that of a large array is the array's own."""
    if datatype == "BF16":
        return (array.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    if datatype == "BYTES":
        return encode_elements(e if isinstance(e, bytes) else str(e).encode() for e in array.ravel())
    if array.nbytes <= _COPIED_BYTES or not array.flags.c_contiguous:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def _encode_head(model: str, inputs: Mapping[str, Array], outputs: Sequence[str], datatypes: Sequence[str]) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    for (name, array), datatype in zip(inputs.items(), datatypes, strict=True):
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    head: bytes = request.SerializeToString()
    return head


def encode_parameters(parameters: Mapping[str, str | int | float]) -> bytes:
    """Return the parameters of a ModelInferRequest, serialised, to be put before the rest of it."""
    request = pb.ModelInferRequest()
    for name, value in parameters.items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        elif isinstance(value, float):
            request.parameters[name].double_param = value
        else:
            request.parameters[name].string_param = value
    serialised: bytes = request.SerializeToString()
    return serialised


def decode_outputs(message: bytes, model: str, outputs: Sequence[str]) -> dict[str, Array]:
    """Return the wanted outputs of a serialised ModelInferResponse; they may not be written to.

    Raises:
        WrongAnswerError: One is missing, or its bytes are not what its datatype and shape say.
    """
    try:
        answer = pb.ModelInferResponse.FromString(message)
    except DecodeError as exc:
        raise WrongAnswerError(f"model {model} answered {len(message)} bytes that are no ModelInferResponse") from exc
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=False)
    raw_by_name = {tensor.name: (tensor, raw) for tensor, raw in pairs}
    found: dict[str, Array] = {}
    for name in outputs:
        if name not in raw_by_name:
            raise WrongAnswerError(f"model {model} answered without its output {name!r}; run 'slimsched verify' on it")
        tensor, raw = raw_by_name[name]
        try:
            found[name] = decode_tensor(raw, tensor.datatype, tuple(tensor.shape))
        except (KeyError, ValueError) as exc:
            raise WrongAnswerError(
                f"model {model} answered its output {name!r} as {len(raw)} bytes, which are no {tensor.datatype} of "
                f"shape {list(tensor.shape)}"
            ) from exc
    return found


def decode_tensor(raw: Buffer, datatype: str, shape: tuple[int, ...]) -> Array:
    """Return the array that raw data stands for; it may not be written to.

    Raises KeyError or ValueError when its bytes are not what its datatype and shape say.
    """
    if any(side < 0 for side in shape):
        raise ValueError("numpy would work it out")
    if datatype == "BYTES":
        elements = decode_elements(bytes(raw))
        flat: Array = np.empty(len(elements), dtype=object)
        flat[:] = elements
    elif datatype == "BF16":
        flat = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        flat = np.frombuffer(raw, NUMPY_TYPES[datatype])
    return flat.reshape(shape)


def encode_elements(elements: Iterable[bytes]) -> bytes:
    """Return the elements of a BYTES tensor as raw data: each behind its length in four bytes."""
    return b"".join(part for element in elements for part in (len(element).to_bytes(4, "little"), element))


def decode_elements(raw: bytes, name: str = "") -> list[bytes]:
    """Return the elements in the raw data of a BYTES tensor; raises ValueError, in Triton's words, where one is cut."""
    elements, position = [], 0
    while position < len(raw):
        if position + 4 > len(raw):
            raise ValueError(f"incomplete string length indicator for '{name}'")
        (size,) = struct.unpack_from("<I", raw, position)
        position += 4
        if position + size > len(raw):
            raise ValueError(f"incomplete string data for '{name}', expecting string of length {size}")
        elements.append(raw[position : position + size])
        position += size
    return elements


class InferAnswers:
    """Reads the outputs of answers; one output alone without parsing an answer that begins as one before did."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, TensorSpec, int], tuple[bytes, np.dtype[Any], tuple[int, ...]]] = {}

    def decode(self, model: ServedModel, message: bytes) -> Tensors:
        """Return the outputs of a serialised ModelInferResponse, items first; they may not be written to.

        Where all before the data is what it was in an answer of the same length, the data is where it was, because its
        place and length are written before it. That holds for one output; the data of several is mostly small.

        Raises:
            WrongAnswerError: One is missing, damaged, or of another datatype or shape than the model says.
        """
        if len(model.outputs) == 1 and model.is_batching:
            return (self._decode_only(model.name, model.outputs[0], message),)
        found = decode_outputs(message, model.name, [output.name for output in model.outputs])
        if not model.is_batching:
            found = {name: array[np.newaxis] for name, array in found.items()}
        for output in model.outputs:
            _require(found[output.name], output, model.name)
        return tuple(found[output.name] for output in model.outputs)

    def _decode_only(self, model: str, output: TensorSpec, message: bytes) -> Array:
        key = (model, output, len(message))
        known = self._known.get(key)
        if known is not None and message.startswith(known[0]):
            return np.frombuffer(message, known[1], offset=len(known[0])).reshape(known[2])
        found = decode_outputs(message, model, [output.name])[output.name]
        _require(found, output, model)
        raw_bytes = found.nbytes
        if (
            found.dtype.kind in "biuf"
            and output.datatype != "BF16"
            and raw_bytes > 0
            and message.endswith(_RAW_OUTPUT + encode_varint(raw_bytes) + found.tobytes())
        ):
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[key] = (bytes(message[:-raw_bytes]), found.dtype, found.shape)
        return found


def _require(array: Array, spec: TensorSpec, model: str) -> None:
    """Raise WrongAnswerError unless an array, items first, is what a model says of its output; -1 is any side."""
    if (
        array.dtype != np.dtype(NUMPY_TYPES[spec.datatype])
        or array.ndim != 1 + len(spec.shape)
        or any(side not in (-1, found) for side, found in zip(spec.shape, array.shape[1:], strict=True))
    ):
        raise WrongAnswerError(
            f"model {model} answered {array.dtype} of shape {list(array.shape)}; its output {spec.name!r} is "
            f"{spec.datatype} of shape {[-1, *spec.shape]}"
        )


def as_model_takes(batch: Tensors, model: ServedModel) -> dict[str, Array]:
    """Return the inputs of a batch by name, without the batch dimension where a model has none."""
    names = [spec.name for spec in model.inputs]
    return dict(zip(names, batch if model.is_batching else [array[0] for array in batch], strict=True))


def encode_varint(number: int) -> bytes:
    """Return a whole number as protocol buffers write it; a negative one as they do, in ten bytes."""
    if 0 <= number < 0x80:  # most are short
        return number.to_bytes(1, "little")
    number &= 2**64 - 1
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
