"""Requests for families, read without parsing those that are like one before.

A client sends the same message again and again, in which only the id and the tensor's data differ. Written in the order
of their fields, as every client's library does, that is a model's name, a version, an id, then what does not differ,
then the data of the one input. So when all but id and data is byte for byte what it was in a message of the same
length, it means what it meant, and the data is where it was, because its length is written before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from orchestrator.gateway.protocol.family import FamilyModel, FamilyRequest, read_request, require_version
from orchestrator.gateway.protocol.messages import parse, pb
from orchestrator.gateway.protocol.wire import MalformedMessageError, field_numbers
from orchestrator.triton.infer_wire import encode_varint

_MODEL, _VERSION, _ID, _RAW = b"\x0a", b"\x12", b"\x1a", b"\x3a"
"""Keys of fields 1 to 3 and 7, all of which have a length."""
_ONLY_ONCE: Final = frozenset({1, 2, 3, 7})
_MOST_KEPT: Final = 256
_LARGEST_KEPT: Final = 4096


@dataclass(frozen=True, slots=True)
class _Form:
    """What requests that are alike have in common.

    Attributes:
        family: that they are for.
        middle: what lies between id and data.
        request: one of them, without its data.
    """

    family: FamilyModel
    middle: bytes
    request: FamilyRequest


class FamilyRequests:
    """Reads ModelInferRequests for families."""

    def __init__(self) -> None:
        self._forms: dict[tuple[bytes, int], _Form] = {}

    def find(self, message: bytes, families: Mapping[str, FamilyModel]) -> tuple[FamilyModel, FamilyRequest] | None:
        """Return what a request asks of which family, where one like it was read; None where none was."""
        opening, request_id, rest_at = _split_opening(message)
        form = self._forms.get((opening, len(message) - rest_at))
        if form is None or not message.startswith(form.middle, rest_at):
            return None
        family, known = families.get(form.family.name), form.request
        if family is not form.family and family != form.family:
            return None
        data = np.frombuffer(message, known.batch.dtype, offset=rest_at + len(form.middle))
        try:
            name = request_id.decode()
        except UnicodeDecodeError:
            return None  # the parser says so in its own words
        return form.family, FamilyRequest(data.reshape(known.batch.shape), known.options, known.classes, name)

    def read(self, message: bytes, family: FamilyModel) -> FamilyRequest:
        """Return what a request asks of a family, and know those like it from now on.

        Raises:
            MalformedMessageError: It is no message.
            ModelNotFoundError: as ``require_version``.
            ConfigError: as ``read_request``.
        """
        parsed = parse(pb.ModelInferRequest, message)
        require_version(family, parsed.model_version)
        request = read_request(parsed, family)
        opening, request_id, rest_at = _split_opening(message)
        size = request.batch.nbytes
        middle = message[rest_at : len(message) - size]
        if (
            rest_at
            and len(middle) <= _LARGEST_KEPT
            and message.endswith(request.batch.tobytes())
            and request.id.encode() == request_id
            and _has_data_last(middle, size)
        ):
            if len(self._forms) >= _MOST_KEPT:
                self._forms.clear()
            self._forms[opening, len(message) - rest_at] = _Form(
                family, middle, replace(request, batch=np.empty_like(request.batch))
            )
        return request


def _split_opening(message: bytes) -> tuple[bytes, bytes, int]:
    """Return a message's first fields without the id, the id, and where the rest begins.

    Fields 1 to 3, each at most once and shorter than 128 bytes; where they are otherwise, the rest begins at 0.
    """
    if message[:1] != _MODEL:
        return b"", b"", 0
    position = _behind(message, 0)
    if message[position : position + 1] == _VERSION:
        position = _behind(message, position)
    opening = message[:position]
    request_id = b""
    if message[position : position + 1] == _ID:
        begin, position = position + 2, _behind(message, position)
        request_id = message[begin:position]
    return (opening, request_id, position) if position < len(message) else (b"", b"", 0)


def _behind(message: bytes, position: int) -> int:
    """Return where a field ends that begins here; beyond the end when its length is not of one byte."""
    size = message[position + 1] if position + 1 < len(message) else 128
    return position + 2 + size if size < 128 else len(message)


def _has_data_last(middle: bytes, size: int) -> bool:
    """Return whether the middle ends in the key and length of the only data, and repeats nothing from before."""
    head = _RAW + encode_varint(size)
    if not middle.endswith(head):
        return False
    try:
        return _ONLY_ONCE.isdisjoint(field_numbers(middle[: -len(head)]))
    except MalformedMessageError:  # what looks like a key and a length is something else's content
        return False
