"""What a request's parameters ask of the router.

A misspelt ``slim_`` parameter would silently give the default, which is found in production; so unknown ones are
refused, as Triton refuses unknown ``triton_`` ones. Numbers may come as strings, because not every client can send
all types. ``priority`` and ``timeout`` are checked as Triton checks them. Priorities mean what they mean to a Triton
model with priority levels, 1 the highest and 0 the default; ``timeout`` means what it means to one without a queue
policy: nothing.
"""

from __future__ import annotations

import math
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import Value, read_value
from orchestrator.policies.preference import parse_preference
from orchestrator.request_options import RequestOptions
from orchestrator.snapshot import Preference, Width

KNOWN = ("slim_deadline_ms", "slim_min_accuracy", "slim_width", "slim_max_joules", "slim_preference")
_TRITON_KNOWN = "triton_enable_empty_final_response"


def parse_options(parameters: Any, family: str) -> RequestOptions:
    """Return what a map of InferParameters asks of the router; raises ConfigError that names the one that is wrong."""
    if not parameters:
        return RequestOptions(family=family)
    found: dict[str, Value | None] = {}
    priority = 0
    for name, parameter in parameters.items():
        if name.startswith("slim_"):
            if name not in KNOWN:
                raise ConfigError(f"unknown parameter '{name}'; known are {', '.join(KNOWN)}")
            found[name] = read_value(parameter)
        elif name.startswith("triton_") and name != _TRITON_KNOWN:
            raise ConfigError(
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys "
                f"starting with 'triton_' are allowed: {_TRITON_KNOWN}"
            )
        elif name == "timeout":
            _read_number(name, parameter, "int64_param")  # below 0 too
        elif name == "priority":
            priority = _read_number(name, parameter, "int64_param", "uint64_param")
            if priority < 0:
                raise ConfigError(f"invalid value for '{name}', expected value >= 0.")
    return RequestOptions(
        deadline_ms=_number(found, "slim_deadline_ms"),
        min_accuracy=_number(found, "slim_min_accuracy", least=-math.inf),
        width=_width(found),
        family=family,
        max_joules=_number(found, "slim_max_joules"),
        preference=_preference(found),
        priority=priority,
    )


def _read_number(name: str, parameter: Any, *allowed: str) -> int:
    """Return a parameter that schedules, which has to be of one of the allowed fields."""
    which = parameter.WhichOneof("parameter_choice")
    if which not in allowed:
        raise ConfigError(f"invalid value type for '{name}' parameter, expected {' or '.join(allowed)}.")
    number: int = getattr(parameter, which)
    return number


def _number(found: dict[str, Value | None], name: str, *, least: float = 0.0, most: float = math.inf) -> float | None:
    if name not in found:
        return None
    value = found[name]
    try:
        number = math.nan if isinstance(value, bool) or value is None else float(value)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and least <= number <= most):
        bounds = "" if least == -math.inf else f" from {least:g}" + (" on" if most == math.inf else f" to {most:g}")
        raise ConfigError(f"parameter '{name}' is {value!r}; give a number{bounds}")
    return number


def _preference(found: dict[str, Value | None]) -> Preference | None:
    if "slim_preference" not in found:
        return None
    value = found["slim_preference"]
    if not isinstance(value, str):
        raise ConfigError(
            f"parameter 'slim_preference' is {value!r}; give a string such as 'energy' or 'accuracy=0.5,latency=0.5'"
        )
    try:
        return parse_preference(value)
    except ConfigError as exc:
        raise ConfigError(f"parameter 'slim_preference': {exc}") from exc


def _width(found: dict[str, Value | None]) -> Width | None:
    if "slim_width" not in found:
        return None
    try:
        number = _number(found, "slim_width", most=100.0)
    except ConfigError:
        number = None
    if number is None or number < 1 or number != int(number):
        raise ConfigError(f"parameter 'slim_width' is {found['slim_width']!r}; give a whole percentage from 1 to 100")
    return Width(int(number))
