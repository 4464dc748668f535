"""Responses of families as bytes: what is the same in all answers of a width of a server is put together once.

Filling the generated classes takes longer than anything else that is done with an answer. What they would write is the
sum of its fields, so those that differ from answer to answer are put between those that do not. Answers as text
(``classification``) are few and go through ``build_response``, which says what a response is; a test holds both
against each other.
"""

from __future__ import annotations

import struct
from typing import Final

from orchestrator.gateway.protocol.family import VERSION, FamilyModel, build_response
from orchestrator.router import Answer
from orchestrator.triton.infer_wire import encode_varint

_MODEL, _VERSION, _ID, _PARAMETER, _OUTPUT, _RAW = (bytes((number << 3 | 2,)) for number in (1, 2, 3, 4, 5, 6))
_KEY, _VALUE = b"\x0a", b"\x12"
"""Of a map's entry."""
_INTEGER, _TEXT, _DOUBLE = b"\x10", b"\x1a", b"\x21"
"""Kinds of a parameter, with their field's key."""
_NAME, _DATATYPE, _SHAPE = b"\x0a", b"\x12", b"\x1a"
"""Of an output."""
_MOST_KEPT: Final = 1024


class FamilyResponses:
    """Writes ModelInferResponses."""

    def __init__(self) -> None:
        self._known: dict[object, tuple[FamilyModel, bytes, bytes]] = {}

    def render(self, request_id: str, family: FamilyModel, answer: Answer, classes: int | None) -> bytes:
        """Return what ``build_response`` builds, serialised; in another order of fields, which means nothing."""
        if classes is not None:
            built: bytes = build_response(request_id, family, answer, classes).SerializeToString()
            return built
        output = answer.output
        key = (family.name, answer.server, answer.width, answer.expected_accuracy, answer.policy, output.shape)
        known = self._known.get(key)
        if known is None or known[0] is not family:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            known = self._known[key] = (family, *_render_constant(family, answer))
        _, head, rest = known
        parts = [
            head,
            _text(_ID, request_id) if request_id else b"",
            rest,
            _parameter(b"slim_batch", _INTEGER + encode_varint(answer.batch)),
            _parameter(b"slim_queue_us", _INTEGER + encode_varint(round(answer.queue_s * 1e6))),
            _parameter(b"slim_decision_id", _text(_TEXT, answer.decision_id)),
        ]
        if answer.energy_j is not None:
            parts.append(_parameter(b"slim_energy_j", _DOUBLE + struct.pack("<d", answer.energy_j)))
        raw = output.tobytes()
        parts += (_RAW, encode_varint(len(raw)), raw)
        return b"".join(parts)


def _render_constant(family: FamilyModel, answer: Answer) -> tuple[bytes, bytes]:
    """Return what stands before the id, and what of the rest is the same in every such answer."""
    sides = b"".join(map(encode_varint, answer.output.shape))
    output = _text(_NAME, family.output.name) + _text(_DATATYPE, family.output.datatype) + _field(_SHAPE, sides)
    rest = (
        _parameter(b"slim_server", _text(_TEXT, answer.server)),
        _parameter(b"slim_width", _INTEGER + encode_varint(answer.width)),
        _parameter(b"slim_expected_accuracy", _DOUBLE + struct.pack("<d", answer.expected_accuracy)),
        _parameter(b"slim_policy", _text(_TEXT, answer.policy)),
        _field(_OUTPUT, output),
    )
    return _text(_MODEL, family.name) + _text(_VERSION, VERSION), b"".join(rest)


def _parameter(name: bytes, value: bytes) -> bytes:
    return _field(_PARAMETER, _field(_KEY, name) + _field(_VALUE, value))


def _text(key: bytes, text: str) -> bytes:
    return _field(key, text.encode())


def _field(key: bytes, value: bytes) -> bytes:
    return key + encode_varint(len(value)) + value
