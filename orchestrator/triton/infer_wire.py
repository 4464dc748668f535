"""ModelInfer requests and answers as bytes.

Triton's own client builds an object a tensor and a message a request; for a router that asks the same few models again
and again, only the tensors' data differ. So the rest of a request is serialised once and kept, and the data put behind
it: protocol buffers may give fields in any order, and ``raw_input_contents`` come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from orchestrator.errors import WrongAnswerError
from orchestrator.http2.flow import Buffer
from orchestrator.snapshot import TensorSpec
from orchestrator.triton.messages import Message, pb

Array = NDArray[Any]

_RAW_INPUT: Final = b"\x3a"
"""The key of field 7 of a request, raw_input_contents, whose type is bytes."""
_RAW_OUTPUT: Final = b"\x32"
"""The key of field 6 of an answer, raw_output_contents."""
_MOST_KEPT: Final = 4096
_COPIED_BYTES: Final = 2**16
_NUMPY_TYPES: Final = {
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
}
_DATATYPES: Final = {np.dtype(numpy): datatype for datatype, numpy in _NUMPY_TYPES.items()}


class InferRequests:
    """Serialises requests, keeping what does not change."""

    def __init__(self) -> None:
        self._heads: dict[object, bytes] = {}

    def encode(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> tuple[Buffer, ...]:
        """Return a serialised ModelInferRequest in parts: a large array stays where it is."""
        key = (model, tuple((name, array.shape, array.dtype) for name, array in inputs.items()), tuple(outputs))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KEPT:
                self._heads.clear()
            head = self._heads[key] = _encode_head(model, inputs, outputs)
        parts: list[Buffer] = [head]
        for array in inputs.values():
            raw = _encode_array(array)
            parts += (_RAW_INPUT, encode_varint(len(raw)), raw)
        return tuple(parts)


def _encode_array(array: Array) -> Buffer:
    if array.dtype.kind in "OSU":
        return _encode_elements(array)
    if array.nbytes <= _COPIED_BYTES or not array.flags.c_contiguous:
        return array.tobytes()
    return array.reshape(-1).view(np.uint8).data


def _encode_head(model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bytes:
    request = pb.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        datatype = "BYTES" if array.dtype.kind in "OSU" else _DATATYPES.get(array.dtype)
        request.inputs.add(name=name, datatype=datatype, shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    head: bytes = request.SerializeToString()
    return head


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
            found[name] = _decode_tensor(tensor, raw)
        except (KeyError, ValueError) as exc:
            raise WrongAnswerError(
                f"model {model} answered its output {name!r} as {len(raw)} bytes, which are no {tensor.datatype} of "
                f"shape {list(tensor.shape)}"
            ) from exc
    return found


def _decode_tensor(tensor: Message, raw: bytes) -> Array:
    """Return a tensor; raises KeyError or ValueError when its bytes are not what its datatype and shape say."""
    if any(side < 0 for side in tensor.shape):
        raise ValueError("numpy would work it out")
    if tensor.datatype == "BYTES":
        flat: Array = np.array(_decode_elements(raw), dtype=object)
    elif tensor.datatype == "BF16":  # the upper half of an FP32
        flat = (np.frombuffer(raw, "<u2").astype("<u4") << 16).view("<f4")
    else:
        flat = np.frombuffer(raw, _NUMPY_TYPES[tensor.datatype])
    return flat.reshape(tuple(tensor.shape))


def _encode_elements(array: Array) -> bytes:
    """Return text or bytes as a BYTES tensor: each element behind its length in four bytes."""
    elements = (e if isinstance(e, bytes) else str(e).encode() for e in array.ravel())
    return b"".join(len(element).to_bytes(4, "little") + element for element in elements)


def _decode_elements(raw: bytes) -> list[bytes]:
    elements, position = [], 0
    while position < len(raw):
        begin = position + 4
        position = begin + int.from_bytes(raw[position:begin], "little")
        if position > len(raw):
            raise ValueError("the last element is cut off")
        elements.append(raw[begin:position])
    return elements


class InferAnswers:
    """Reads the one output of answers, without parsing those that begin as one before did."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, TensorSpec, int], tuple[bytes, np.dtype[Any], tuple[int, ...]]] = {}

    def decode(self, model: str, output: TensorSpec, message: bytes) -> Array:
        """Return an output of a serialised ModelInferResponse, items first; it may not be written to.

        Where all before the data is what it was in an answer of the same length, the data is where it was, because its
        place and length are written before it.

        Raises:
            WrongAnswerError: It is missing, damaged, or of another datatype or shape than the model says.
        """
        key = (model, output, len(message))
        known = self._known.get(key)
        if known is not None and message.startswith(known[0]):
            return np.frombuffer(message, known[1], offset=len(known[0])).reshape(known[2])
        found = decode_outputs(message, model, [output.name])[output.name]
        if not _is_of(found, output):
            raise WrongAnswerError(
                f"model {model} answered {found.dtype} of shape {list(found.shape)}; its output {output.name!r} is "
                f"{output.datatype} of shape {[-1, *output.shape]}"
            )
        raw_bytes = found.nbytes
        if (
            found.dtype.kind in "biuf"
            and raw_bytes > 0
            and message.endswith(_RAW_OUTPUT + encode_varint(raw_bytes) + found.tobytes())
        ):
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[key] = (bytes(message[:-raw_bytes]), found.dtype, found.shape)
        return found


def _is_of(array: Array, spec: TensorSpec) -> bool:
    """Return whether an array, items first, is what a model says of its output; -1 there stands for any side."""
    wanted = np.dtype("O") if spec.datatype == "BYTES" else np.dtype(_NUMPY_TYPES.get(spec.datatype, "<f4"))
    return (
        array.dtype == wanted
        and array.ndim == 1 + len(spec.shape)
        and all(side in (-1, found) for side, found in zip(spec.shape, array.shape[1:], strict=True))
    )


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
