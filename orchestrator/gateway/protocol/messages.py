"""KServe's messages as bytes and as JSON, and parameters as Python values.

The generated code has no types, so a message is ``Any``.
"""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.wire import MalformedMessageError
from orchestrator.triton.messages import Message as Message
from orchestrator.triton.messages import pb as pb

Value = bool | int | float | str


def parse(kind: Any, message: bytes) -> Message:
    """Return the message of a kind that the bytes hold; raises MalformedMessageError when they hold none."""
    try:
        return kind.FromString(message)
    except DecodeError as exc:
        raise MalformedMessageError("Unable to parse request") from exc


def parse_request(method: str, message: bytes) -> Message:
    """Return the request of a method of KServe's service; raises as ``parse``."""
    return parse(getattr(pb, f"{method}Request"), message)


def build_answer(method: str, **fields: Any) -> bytes:
    """Return the serialised answer of a method with these fields."""
    return serialise(getattr(pb, f"{method}Response")(**fields))


def serialise(message: Message) -> bytes:
    """Return a message as bytes."""
    serialised: bytes = message.SerializeToString()
    return serialised


def read_value(parameter: Message) -> Value | None:
    """Return what a parameter holds, None when nothing."""
    which = parameter.WhichOneof("parameter_choice")
    value: Value | None = getattr(parameter, which) if which else None
    return value


def set_value(parameters: Any, name: str, value: object) -> None:
    """Put a value into a map of parameters; raises ConfigError when it is no bool, string or number of 64 bits."""
    require_text("a parameter's name", name)
    if isinstance(value, bool):
        parameters[name].bool_param = value
    elif isinstance(value, int) and -(2**63) <= value < 2**63:
        parameters[name].int64_param = value
    elif isinstance(value, int) and 0 <= value < 2**64:
        parameters[name].uint64_param = value
    elif isinstance(value, float):
        parameters[name].double_param = value
    elif isinstance(value, str):
        parameters[name].string_param = require_text(name, value)
    else:
        raise ConfigError(f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'.")


def require_text(name: str, text: str) -> str:
    """Return the text; raise ConfigError when it has a lone surrogate, which JSON can spell and UTF-8 can't."""
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise ConfigError(f"{name} is no Unicode text") from exc
    return text


def to_json_value(message: Message) -> dict[str, Any]:
    """Return a message as JSON the way Triton writes it: the field names of the protocol, defaults written out.

    protobuf's own conversion makes strings of 64-bit integers, which Triton's clients don't expect.
    """
    found: dict[str, Any] = {}
    for field in message.DESCRIPTOR.fields:
        if not field.has_presence or message.HasField(field.name):
            found[field.name] = _field_value(getattr(message, field.name), field)
    return found


def _field_value(value: Any, field: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, str | bool | float):
        return value
    if isinstance(value, int):
        return field.enum_type.values_by_number[value].name if field.enum_type else value
    if hasattr(value, "DESCRIPTOR"):
        return to_json_value(value)
    if hasattr(value, "items"):
        entry = field.message_type.fields_by_name["value"]
        return {str(key): _field_value(value[key], entry) for key in sorted(value)}
    return [_field_value(element, field) for element in value]
