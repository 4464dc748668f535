"""The few fields of a serialised request that decide where it goes, read without parsing the rest.

A request for a model that is not ours may carry megabytes that only its server understands. Protocol buffers are a
sequence of (field number, wire type, value), so what is not wanted is skipped by its length.

What is judged here is forwarded as it came, and Triton parses it with protobuf's C++ library. So bytes are read exactly
as that library reads them, or refused: it drops the bits of a field's key beyond 32, merges what is repeated, takes
packed and single numbers alike, and skips a known field of another wire type. Refused are keys and lengths beyond their
range, groups, and numbers of more than 64 bits, none of which any serialiser writes.

Each field costs the same time however short it is, here and in protobuf's own parser, so their number is bounded too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Never, cast

from google.protobuf.message import DecodeError

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.protocol.tensors import count_elements
from orchestrator.http2.flow import Buffer
from orchestrator.triton.infer_wire import encode_varint
from orchestrator.triton.messages import Message, parse_answer, pb

MAX_FIELDS: Final = 16_384
"""Most fields, sides of shapes included, of a message; some 5 ms of reading."""
MAX_PACKED_BYTES: Final = 2**21
"""Most bytes of packed integers in a message that is parsed, which makes eight bytes of each of them."""

MAX_HEAD_BYTES: Final = 8 * 2**20
"""Most bytes of a message that is parsed, besides its raw data: protobuf copies them, and typed contents thrice."""
_LONGEST_NAME: Final = 4096
"""Most bytes of a name, or of a sequence's id; Triton takes more, and nobody has longer ones."""

COPY_STEP_BYTES: Final = 2**20
"""Bytes copied at a time. All of the process waits for each copy, for 64 MiB up to a tenth of a second."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MALFORMED: Final = "Unable to parse request"


class MalformedMessageError(SlimError):
    """The bytes are no message of the expected kind."""


@dataclass(frozen=True, slots=True)
class Address:
    """Which model a request is for.

    Attributes:
        model: The model's name.
        version: The model's version; empty when any will do.
        sequence: The serialised ``sequence_id``; empty when the request is of none.
        request_id: The request's id, of a ModelInferRequest; no more than the beginning of a very long one.
    """

    model: str
    version: str = ""
    sequence: bytes = b""
    request_id: str = ""


_MODEL, _VERSION, _ID, _PARAMETERS, _INPUTS, _OUTPUTS = (number << 3 | _BYTES for number in (1, 2, 3, 4, 5, 6))
_RAW_INPUT, _RAW_OUTPUT = 7 << 3 | _BYTES, 6 << 3 | _BYTES
_INPUT_SHAPE, _INPUT_SIDE, _INPUT_PARAMETERS = 3 << 3 | _BYTES, 3 << 3 | _VARINT, 4 << 3 | _BYTES
_OUTPUT_NAME, _OUTPUT_PARAMETERS = 1 << 3 | _BYTES, 2 << 3 | _BYTES
_ENTRY_KEY, _ENTRY_VALUE = 1 << 3 | _BYTES, 2 << 3 | _BYTES
_CONTENTS = 5 << 3 | _BYTES
_PACKED_INTEGERS = frozenset(number << 3 | _BYTES for number in (2, 3, 4, 5))  # of contents

_Parts = dict[int, "_Parts"]  # the messages inside of a message, by the key of their field
_ENTRY: _Parts = {_ENTRY_VALUE: {}}
_IN_CONTENTS: _Parts = {}
_IN_INPUT: _Parts = {_INPUT_PARAMETERS: _ENTRY, _CONTENTS: _IN_CONTENTS}
_IN_REQUEST: _Parts = {_PARAMETERS: _ENTRY, _INPUTS: _IN_INPUT, _OUTPUTS: {_OUTPUT_PARAMETERS: _ENTRY}}


def read_address(message: bytes) -> Address:
    """Return which model a request is for; a later occurrence of a field wins, as in protocol buffers.

    Fits ModelInferRequest and every request whose fields 1 and 2 are a model's name and version.

    Raises:
        MalformedMessageError: This is no protocol buffer, or a name is no UTF-8.
        ConfigError: It has more than ``MAX_FIELDS`` fields, or a name is longer than any is.
    """
    model = version = sequence = request_id = b""
    reader = _Reader(message)
    for key, begin, end in reader.fields(0, len(message)):
        if key == _MODEL:
            model = reader.short("model", [(begin, end)])
        elif key == _VERSION:
            version = reader.short("version", [(begin, end)])
        elif key == _ID:
            request_id = message[begin : min(end, begin + _LONGEST_NAME)]
        elif key == _PARAMETERS and (values := reader.entry(begin, end, _SEQUENCE)) is not None:
            sequence = _read_parameter(reader.short("sequence_id", values))
    try:
        return Address(model.decode(), version.decode(), sequence, request_id.decode(errors="replace"))
    except UnicodeDecodeError as exc:
        raise MalformedMessageError(_MALFORMED) from exc


def check_inference(message: bytes) -> frozenset[str]:
    """Refuse a ModelInferRequest that harms whichever server is given it; return the outputs it wants as classes.

    Triton 2.51 multiplies the sides of a shape without looking: four values with a shape of [2^62, 4] have the size
    that it expects, and reach a backend that believes the shape. And whoever names a region of shared memory reads and
    writes what its owner has there.

    Raises:
        ConfigError: The sides of an input multiply to more than 64 bits hold, in the words of Triton's later versions;
            a tensor is in shared memory; or it has more than ``MAX_FIELDS`` fields.
        MalformedMessageError: This is no protocol buffer.
    """
    reader = _Reader(message)
    classified: set[str] = set()
    for key, begin, end in reader.fields(0, len(message)):
        if key == _INPUTS:
            reader.check_input(begin, end)
        elif key == _OUTPUTS:
            name = reader.check_output(begin, end)
            if name is not None:
                classified.add(name)
    return frozenset(classified)


def check_parts(message: bytes) -> None:
    """Refuse a ModelInferRequest that protobuf would take long, or much memory, to parse.

    Raises:
        ConfigError: It has more than ``MAX_FIELDS`` fields over all levels, or more than ``MAX_PACKED_BYTES`` of
            packed integers.
        MalformedMessageError: This is no protocol buffer.
    """
    _Reader(message).check_parts(0, len(message), _IN_REQUEST)


def split_request(message: bytes) -> tuple[bytes, list[Buffer]]:
    """Return a ModelInferRequest that is to be parsed without its raw data, which stays where it is.

    Raises:
        ConfigError: As ``check_parts``, or it has more than ``MAX_HEAD_BYTES`` besides its raw data.
        MalformedMessageError: This is no protocol buffer.
    """
    check_parts(message)
    heads, raws = _set_apart(message, _RAW_INPUT)
    size = sum(map(len, heads))
    if size > MAX_HEAD_BYTES:
        raise ConfigError(
            f"the message has {size} bytes besides its raw data, at most {MAX_HEAD_BYTES} are taken; "
            "send raw_input_contents"
        )
    return b"".join(heads), raws


def request_parts(request: Message, raws: Sequence[Buffer]) -> list[Buffer]:
    """Return a ModelInferRequest with its raw data, serialised: all but the raw data first, which stays where it is."""
    parts: list[Buffer] = [request.SerializeToString()]
    for raw in raws:
        parts += (bytes((_RAW_INPUT,)) + encode_varint(len(raw)), raw)
    return parts


def build_request(request: Message, raws: Sequence[Buffer]) -> bytes:
    """Return a serialised ModelInferRequest with its raw data, as ``join`` does."""
    return join(request_parts(request, raws))


def split_answer(answer: bytes) -> tuple[Message, list[Buffer]]:
    """Return the ModelInferResponse that is serialised, and its raw data, which stays where it is when it is much.

    Raises TransientError when this is none.
    """
    if len(answer) > COPY_STEP_BYTES:
        with suppress(SlimError):  # protobuf says what it thinks of it
            heads, raws = _set_apart(answer, _RAW_OUTPUT)
            if raws:
                return parse_answer(pb.ModelInferResponse, b"".join(heads)), raws
    response = parse_answer(pb.ModelInferResponse, answer)
    return response, list(response.raw_output_contents)


def _set_apart(message: bytes, key: int) -> tuple[list[memoryview], list[Buffer]]:
    """Return a message without a field, in parts, and the values of that field; raises SlimError."""
    view, position = memoryview(message), 0
    heads: list[memoryview] = []
    values: list[Buffer] = []
    for found, begin, end in _Reader(message).fields(0, len(message)):
        if found == key:
            values.append(view[begin:end])
        else:
            heads.append(view[position:end])
        position = end
    return heads, values


def join(parts: Sequence[Buffer]) -> bytes:
    """Return the parts as one, a large one copied in steps, between which other threads get their turn."""
    size = sum(map(len, parts))
    if size <= COPY_STEP_BYTES:
        return b"".join(parts)
    joined, position = bytearray(size), 0
    for part in parts:
        for begin in range(0, len(part), COPY_STEP_BYTES):
            step = memoryview(part)[begin : begin + COPY_STEP_BYTES]
            joined[position : position + len(step)] = step
            position += len(step)
    return cast(bytes, joined)  # as good as bytes to who does not change it


class _Reader:
    """Reads the fields of one message, no more than ``MAX_FIELDS`` over all levels."""

    def __init__(self, message: bytes) -> None:
        self._message = message
        self._left = MAX_FIELDS
        self._packed_left = MAX_PACKED_BYTES

    def fields(self, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Yield the key of each field in a part of the message, and where its value begins and ends."""
        message, position = self._message, begin
        while position < end:
            self._left -= 1
            if self._left < 0:
                self._refuse()
            key = message[position]
            position += 1
            if key >= 0x80:  # a field beyond 15
                key, position = self._read_number(position - 1, end, most_bytes=5, most=2**32 - 1)
            wire_type = key & 7
            start = position
            if wire_type == _BYTES:
                if position < end and message[position] < 0x80:  # most are short
                    size, start = message[position], position + 1
                else:
                    size, start = self._read_number(position, end, most_bytes=5, most=2**31 - 1)
                position = start + size
            elif wire_type == _VARINT:
                _, position = self._read_number(position, end)
            elif wire_type == _FIXED64:
                position += 8
            elif wire_type == _FIXED32:
                position += 4
            else:
                raise MalformedMessageError(_MALFORMED)
            if key < 1 << 3 or position > end:  # there is no field 0
                raise MalformedMessageError(_MALFORMED)
            yield key, start, position

    def entry(self, begin: int, end: int, name: bytes) -> list[tuple[int, int]] | None:
        """Return where the values of a map's entry of this name are, None when it has another name.

        Values that are repeated merge, which is to stand side by side. Whether an entry with other fields counts is
        what protobuf's own libraries differ in, so one that may have the name is refused.
        """
        if end - begin <= _LONGEST_NAME and self._message.find(name, begin, end) < 0:  # quicker than to read it
            return None
        is_wanted, values = False, []
        for key, start, stop in self.fields(begin, end):
            if key == _ENTRY_KEY:
                is_wanted = stop - start == len(name) and self._message[start:stop] == name
            elif key == _ENTRY_VALUE:
                values.append((start, stop))
            else:
                raise MalformedMessageError(_MALFORMED)
        return values if is_wanted else None

    def short(self, what: str, places: Sequence[tuple[int, int]]) -> bytes:
        """Return what is in some places, side by side; raises ConfigError when it is very long."""
        size = sum(end - begin for begin, end in places)
        if size > _LONGEST_NAME:
            raise ConfigError(f"the {what} has {size} bytes, at most {_LONGEST_NAME} are taken; give a shorter one")
        return b"".join(self._message[begin:end] for begin, end in places)

    def check_input(self, begin: int, end: int) -> None:
        """Check an InferInputTensor; raises as ``check_inference``."""
        sides: list[int] = []
        for key, start, stop in self.fields(begin, end):
            if key in (_INPUT_SHAPE, _INPUT_SIDE):
                while start < stop:
                    self._left -= 1
                    if self._left < 0:
                        self._refuse()
                    side, start = self._read_number(start, stop)
                    sides.append(side if side < 2**63 else 0)  # negative, which Triton refuses by itself
            elif key == _INPUT_PARAMETERS:
                self.refuse_shared_memory(start, stop, "input")
        count_elements(sides)

    def check_output(self, begin: int, end: int) -> str | None:
        """Return the name of an InferRequestedOutputTensor that is wanted as classes, else None; raises likewise."""
        name, is_classified = b"", False
        for key, start, stop in self.fields(begin, end):
            if key == _OUTPUT_NAME:
                name = self._message[start:stop]
            elif key == _OUTPUT_PARAMETERS:
                self.refuse_shared_memory(start, stop, "output")
                is_classified |= self.entry(start, stop, _CLASSIFICATION) is not None
        return name.decode(errors="replace") if is_classified else None

    def check_parts(self, begin: int, end: int, parts: _Parts) -> None:
        """Count the fields of a message and of those inside of it; raises as the function does."""
        for key, start, stop in self.fields(begin, end):
            if (inner := parts.get(key)) is not None:
                self.check_parts(start, stop, inner)
            elif (parts is _IN_CONTENTS and key in _PACKED_INTEGERS) or (parts is _IN_INPUT and key == _INPUT_SHAPE):
                self._packed_left -= stop - start
                if self._packed_left < 0:
                    raise ConfigError(
                        f"the message has more than {MAX_PACKED_BYTES} bytes of integers; send raw_input_contents"
                    )

    def refuse_shared_memory(self, begin: int, end: int, what: str) -> None:
        """Raise ConfigError when an entry of a tensor's parameters names a region of shared memory."""
        if self.entry(begin, end, _REGION) is not None:
            raise ConfigError(f"{what} is said to be in shared memory, which the gateway does not take; send it along")

    def _refuse(self) -> Never:
        raise ConfigError(f"the message has more than {MAX_FIELDS} fields; send less at once")

    def _read_number(self, position: int, end: int, *, most_bytes: int = 10, most: int = 2**64 - 1) -> tuple[int, int]:
        """Return the varint at a position and where it ends."""
        message, last = self._message, min(end, position + most_bytes)
        value = shift = 0
        while position < last:
            byte = message[position]
            position += 1
            if byte < 0x80:
                value |= byte << shift
                if value > most:
                    break
                return value, position
            value |= (byte & 0x7F) << shift
            shift += 7
        raise MalformedMessageError(_MALFORMED)


_REGION: Final = b"shared_memory_region"
_CLASSIFICATION: Final = b"classification"
_SEQUENCE: Final = b"sequence_id"


def _read_parameter(value: bytes) -> bytes:
    """Return an InferParameter as everybody serialises it, so that one sequence has one identity."""
    try:
        parameter = pb.InferParameter.FromString(value)
    except DecodeError as exc:
        raise MalformedMessageError(_MALFORMED) from exc
    parameter.DiscardUnknownFields()
    serialised: bytes = parameter.SerializeToString()
    return serialised
