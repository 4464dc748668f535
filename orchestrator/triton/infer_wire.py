"""ModelInfer requests and answers as bytes.

``tritonclient`` builds an object a tensor and a message a request; for a router that asks the same few models again and
again, only the tensors' data differ. So the rest of a request is serialised once and kept, and the data put behind it:
protocol buffers may give fields in any order, and ``raw_input_contents`` come last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tritonclient.grpc import InferResult, service_pb2
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

from orchestrator.errors import PermanentError

Array = NDArray[Any]

_RAW_INPUT: Final = b"\x3a"
"""Key of field 7, raw_input_contents, whose type is bytes."""
_MOST_KEPT: Final = 4096


class InferRequests:
    """Serialises requests, keeping what does not change."""

    def __init__(self) -> None:
        self._heads: dict[object, bytes] = {}

    def encode(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bytes:
        """Return a serialised ModelInferRequest.

        Args:
            model: its name.
            inputs: by name.
            outputs: names of those wanted.
        """
        key = (model, tuple((name, array.shape, array.dtype) for name, array in inputs.items()), tuple(outputs))
        head = self._heads.get(key)
        if head is None:
            if len(self._heads) >= _MOST_KEPT:
                self._heads.clear()
            head = self._heads[key] = _encode_head(model, inputs, outputs)
        parts = [head]
        for array in inputs.values():
            raw = serialize_byte_tensor(array).item() if array.dtype.kind in "OSU" else array.tobytes()
            parts += (_RAW_INPUT, _varint(len(raw)), raw)
        return b"".join(parts)


def _encode_head(model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> bytes:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=np_to_triton_dtype(array.dtype), shape=array.shape)
    for name in outputs:
        request.outputs.add(name=name)
    head: bytes = request.SerializeToString()
    return head


def decode_outputs(message: bytes, model: str, outputs: Sequence[str]) -> dict[str, Array]:
    """Return the wanted outputs of a serialised ModelInferResponse; they may not be written to.

    Raises:
        PermanentError: when one is missing.
    """
    result = InferResult(service_pb2.ModelInferResponse.FromString(message))
    found: dict[str, Array] = {}
    for name in outputs:
        array = result.as_numpy(name)
        if not isinstance(array, np.ndarray):
            raise PermanentError(f"model {model} answered without its output {name!r}; run 'slimsched verify' on it")
        found[name] = array
    return found


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
