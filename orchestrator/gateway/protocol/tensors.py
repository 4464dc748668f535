"""Triton's datatypes as bytes, as numpy arrays and as JSON values; pure.

Raw tensors are little-endian and in row-major order; BYTES elements each follow their length in four bytes. FP16 and
BF16 have no form in JSON, as in Triton: they travel as binary data only.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError, WrongAnswerError
from orchestrator.triton.infer_wire import decode_elements, encode_elements

Array = NDArray[Any]
T = TypeVar("T")

_STEP = 2**14
"""Values converted at a time: the whole process waits for each step of numpy's or of Python's parsers."""


@dataclass(frozen=True, slots=True)
class Datatype:
    """One of Triton's element types.

    Attributes:
        size_bytes: The size of an element; 0 for BYTES, whose elements differ.
        numpy: The name of the type in numpy; None where numpy has none.
        contents_field: The field of InferTensorContents that may hold it; None where there is none.
        has_json: Whether it can be written as JSON.
    """

    size_bytes: int
    numpy: str | None
    contents_field: str | None
    has_json: bool = True


DATATYPES: dict[str, Datatype] = {
    "BOOL": Datatype(1, "?", "bool_contents"),
    "UINT8": Datatype(1, "<u1", "uint_contents"),
    "UINT16": Datatype(2, "<u2", "uint_contents"),
    "UINT32": Datatype(4, "<u4", "uint_contents"),
    "UINT64": Datatype(8, "<u8", "uint64_contents"),
    "INT8": Datatype(1, "<i1", "int_contents"),
    "INT16": Datatype(2, "<i2", "int_contents"),
    "INT32": Datatype(4, "<i4", "int_contents"),
    "INT64": Datatype(8, "<i8", "int64_contents"),
    "FP16": Datatype(2, "<f2", None, has_json=False),
    "BF16": Datatype(2, None, None, has_json=False),
    "FP32": Datatype(4, "<f4", "fp32_contents"),
    "FP64": Datatype(8, "<f8", "fp64_contents"),
    "BYTES": Datatype(0, None, "bytes_contents"),
}


_PACKED_AS_RAW = frozenset({"BOOL", "FP32", "FP64"})
"""Types that protobuf packs as raw data has them."""
_SCORES = DATATYPES.keys() - {"BOOL", "FP16", "BF16", "BYTES"}
"""Types of which Triton ranks the elements."""
_MOST_INTEGERS = 2**18
"""Turning more typed integers into raw data takes longer than an event loop can spare."""


def count_elements(shape: Iterable[int]) -> int:
    """Return how many elements a tensor of this shape has.

    Raises ConfigError when it would overflow 64 bits, as in Triton: to multiply a million large sides takes minutes.
    """
    count = 1
    for side in shape:
        count *= side
        if not -(2**63) <= count < 2**63:
            raise ConfigError("element count or byte size causes total element count to exceed maximum size of INT64")
    return count


def decode_bytes(raw: bytes, name: str) -> list[bytes]:
    """Return the elements of raw BYTES data; raises ConfigError when a length points beyond the data."""
    try:
        return decode_elements(raw, name)
    except ValueError as exc:
        raise ConfigError(str(exc)) from exc


def from_json(name: str, datatype: str, shape: Sequence[int], data: object) -> bytes:
    """Return JSON data, nested or flat, as raw data; raises ConfigError when it does not fit the shape or the type."""
    kind = _require_datatype(name, datatype)
    if not kind.has_json:
        raise ConfigError(
            f"receiving {datatype} data via JSON is not supported. Please use the binary data format for input {name}"
        )
    flat: list[object] = []
    _flatten(data, flat)
    if len(flat) != count_elements(shape):
        raise ConfigError(f"Unable to parse 'data': Shape does not match true shape of 'data' field of input {name}")
    return b"".join(_convert(name, datatype, part) for part in _steps(flat))


def _convert(name: str, datatype: str, values: Sequence[object]) -> bytes:
    """Return values out of JSON as raw data; raises ConfigError when one is not of the type."""
    if datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise ConfigError(f"Unable to parse JSON bytes array: input {name} holds something else than strings")
        try:
            return encode_elements([str(value).encode() for value in values])
        except UnicodeEncodeError as exc:  # a lone surrogate escape
            raise ConfigError(f"input {name} holds a string that is no Unicode text") from exc
    numpy = DATATYPES[datatype].numpy
    wanted: tuple[type, ...] = (bool,) if datatype == "BOOL" else (int,) if numpy and numpy[1] in "iu" else (int, float)
    _require_types(name, datatype, values, wanted)
    return _pack(name, datatype, values)


def _steps(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Return values in parts of some ten thousand."""
    return (values[begin : begin + _STEP] for begin in range(0, len(values), _STEP))


def _pack(name: str, datatype: str, values: Sequence[Any]) -> bytes:
    dtype = np.dtype(DATATYPES[datatype].numpy)
    if dtype.kind in "iu" and len(values):
        limits = np.iinfo(dtype)
        for value in (min(values), max(values)):  # numpy would wrap it around
            if not limits.min <= value <= limits.max:
                raise ConfigError(
                    f"Unable to parse 'data': input {name} holds {reprlib.repr(value)}, which is no {datatype}"
                )
    try:
        with np.errstate(over="ignore"):  # beyond FP32 lies infinity, as in Triton
            return np.array(values, dtype=dtype).tobytes()
    except OverflowError as exc:  # an integer beyond FP64
        raise ConfigError(f"Unable to parse 'data': input {name} holds a value that is no {datatype}") from exc


def _require_types(name: str, datatype: str, values: Sequence[object], types: tuple[type, ...]) -> None:
    # By exact types, which JSON has few of: in Python a bool is an int, in JSON it is not.
    if not set(map(type, values)).issubset(types):
        value = next(value for value in values if type(value) not in types)
        raise ConfigError(f"Unable to parse 'data': input {name} holds {reprlib.repr(value)}, which is no {datatype}")


def to_json(name: str, datatype: str, raw: bytes) -> Iterator[list[Any]]:
    """Yield the raw data of an answer as JSON values, some ten thousand at a time.

    Raises:
        ConfigError: when it has no form in JSON.
        WrongAnswerError: when it holds no whole number of elements.
    """
    kind = _require_datatype(name, datatype)
    if not kind.has_json:
        raise ConfigError(
            f"sending {datatype} data via JSON is not supported. Please use the binary data format for output {name}"
        )
    if datatype == "BYTES":
        try:
            for elements in _steps(decode_bytes(raw, name)):
                yield [element.decode() for element in elements]
        except UnicodeDecodeError as exc:
            raise ConfigError(
                f"output {name} holds bytes that are no UTF-8 text; ask for it with binary_data true"
            ) from exc
        return
    if len(raw) % kind.size_bytes:
        raise WrongAnswerError(f"output {name} holds {len(raw)} bytes, which are no whole {datatype} elements")
    array = np.frombuffer(raw, dtype=kind.numpy)
    for begin in range(0, len(array), _STEP):
        yield array[begin : begin + _STEP].tolist()


def from_contents(name: str, datatype: str, contents: Any) -> bytes:
    """Return the typed contents of a protobuf tensor as raw data; raises ConfigError when they don't fit the type."""
    kind = _require_datatype(name, datatype)
    values = getattr(contents, kind.contents_field) if kind.contents_field else ()
    if datatype == "BYTES":
        return encode_elements(values)
    if not values:
        return b""
    if datatype in _PACKED_AS_RAW:
        alone = type(contents)()
        getattr(alone, str(kind.contents_field)).MergeFrom(values)
        packed: bytes = alone.SerializeToString()  # the field's key and length, then what raw data would be
        return packed[-len(values) * kind.size_bytes :]
    if len(values) > _MOST_INTEGERS:
        raise ConfigError(
            f"input {name} has {len(values)} typed integers, at most {_MOST_INTEGERS} are taken; "
            "send raw_input_contents"
        )
    return _pack(name, datatype, values)


def topk_strings(scores: Array, count: int, labels: Sequence[str]) -> list[bytes]:
    """Return the ``count`` highest of a row of scores as Triton writes them, ``value:index[:label]``, highest first."""
    is_whole = scores.dtype.kind in "iu"
    # Of whole numbers the complement, because what negates them overflows, and doubles have not all of 64 bits.
    order = np.argsort(~scores if is_whole else -scores.astype(np.float64), kind="stable")[:count]
    form = "%d:%d" if is_whole else "%f:%d"
    return [
        (form % (scores[i], i) + (f":{labels[i]}" if i < len(labels) else "")).encode() for i in (int(o) for o in order)
    ]


def require_scores(datatype: str) -> None:
    """Raise ConfigError, in Triton's words, when a tensor of a datatype can't be given as its best classes."""
    if datatype not in _SCORES:
        raise ConfigError(f"class result not available for output due to unsupported type '{datatype}'")


def _require_datatype(name: str, datatype: str) -> Datatype:
    kind = DATATYPES.get(datatype)
    if kind is None:
        raise ConfigError(f"invalid datatype for input {name}")
    return kind


def _flatten(data: object, flat: list[object]) -> None:
    """Append the leaves of nested lists, without recursion: JSON may be nested deeply."""
    if isinstance(data, list) and not any(list in set(map(type, part)) for part in _steps(data)):
        flat.extend(data)  # the usual form, at the speed of C
        return
    stack = [iter(data if isinstance(data, list) else [data])]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            flat.append(value)
        else:
            stack.pop()
