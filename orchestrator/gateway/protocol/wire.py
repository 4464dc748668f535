"""The few fields of a serialised request that decide where it goes, read without parsing the rest.

A request for a model that is not ours may carry megabytes that only its server understands. Protocol buffers are a
sequence of (field number, wire type, value), so what is not wanted is skipped by its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from orchestrator.errors import SlimError
from orchestrator.gateway.protocol.tensors import count_elements

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types


class MalformedMessageError(SlimError):
    """The bytes are no message of the expected kind."""


@dataclass(frozen=True, slots=True)
class Address:
    """Which model a request is for, and which version of it; any when that is empty.

    ``sequence`` is the serialised ``sequence_id``, empty when the request is of none.
    """

    model: str
    version: str = ""
    sequence: bytes = b""


_MODEL, _VERSION, _PARAMETERS = (number << 3 | _BYTES for number in (1, 2, 4))  # keys of the fields
_SEQUENCE_ID = b"\x0a\x0bsequence_id"  # field 1 of a map's entry: its key


def read_address(message: bytes) -> Address:
    """Return which model a request is for; a later occurrence of a field wins, as protocol buffers want it.

    Fits ModelInferRequest and every request whose fields 1 and 2 are a model's name and version. Raises
    MalformedMessageError when this is no protocol buffer, or a name is no UTF-8.
    """
    model = version = sequence = b""
    position, end = 0, len(message)
    while position < end:
        key = message[position]
        position += 1
        if key >= 0x80:  # a field beyond 15
            key, position = _read_varint(message, position - 1)
        wire_type = key & 7
        if wire_type == _BYTES:
            size, position = _read_varint(message, position)
            if key == _MODEL:
                model = message[position : position + size]
            elif key == _VERSION:
                version = message[position : position + size]
            elif key == _PARAMETERS and message.startswith(_SEQUENCE_ID, position):
                sequence = message[position : position + size]
            position += size
        elif wire_type == _VARINT:
            _, position = _read_varint(message, position)
        elif wire_type == _FIXED64:
            position += 8
        elif wire_type == _FIXED32:
            position += 4
        else:
            raise MalformedMessageError("Unable to parse request")
    if position != end:
        raise MalformedMessageError("Unable to parse request")
    try:
        return Address(model.decode(), version.decode(), sequence)
    except UnicodeDecodeError as exc:
        raise MalformedMessageError("Unable to parse request") from exc


_INPUTS, _SHAPE = 5, 3


def check_shapes(message: bytes) -> None:
    """Refuse a ModelInferRequest in which the sides of an input multiply to more than 64 bits hold.

    Triton 2.51 multiplies them without looking: four values with a shape of [2^62, 4] have the size that it expects,
    and reach a backend that believes the shape; over HTTP such a request ends the server.

    Raises:
        ConfigError: They do so, in the words of later Tritons.
        MalformedMessageError: This is no protocol buffer.
    """
    for number, value in _fields(message):
        if number == _INPUTS:
            count_elements(side for inner, sides in _fields(value) if inner == _SHAPE for side in _sides(sides))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the number and bytes of each field that has a length; of numbers, their varint."""
    position, end = 0, len(message)
    while position < end:
        key, position = _read_varint(message, position)
        number, wire_type, begin = key >> 3, key & 7, position
        if wire_type == _BYTES:
            size, begin = _read_varint(message, position)
            position = begin + size
        elif wire_type == _VARINT:
            _, position = _read_varint(message, position)
        elif wire_type in (_FIXED64, _FIXED32):
            position += 8 if wire_type == _FIXED64 else 4
        else:
            raise MalformedMessageError("Unable to parse request")
        if position > end:
            raise MalformedMessageError("Unable to parse request")
        yield number, message[begin:position]


def _sides(packed: bytes) -> Iterator[int]:
    """Yield the sides of a shape, packed or one by one; a negative one, which Triton refuses, as 0."""
    position = 0
    while position < len(packed):
        side, position = _read_varint(packed, position)
        yield 0 if side & 2**63 else side & (2**63 - 1)


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    if position < len(message) and message[position] < 0x80:  # most are short
        return message[position], position + 1
    value = shift = 0
    while position < len(message) and shift < 70:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise MalformedMessageError("Unable to parse request")
