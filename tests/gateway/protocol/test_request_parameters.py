"""What request parameters mean, and which are refused."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import pb, set_value
from orchestrator.gateway.protocol.request_parameters import KNOWN, parse_options
from orchestrator.request_options import RequestOptions
from orchestrator.snapshot import Preference, Width


def parameters(**values: object) -> object:
    request = pb.ModelInferRequest()
    for name, value in values.items():
        set_value(request.parameters, name, value)
    return request.parameters


def options(**more: Any) -> RequestOptions:
    return RequestOptions(family="fashion", **more)


def read(**values: object) -> RequestOptions:
    return parse_options(parameters(**values), "fashion")


def test_nothing_said_is_nothing_asked_for() -> None:
    assert read() == options()
    assert read(timeout=5, custom="x", sequence_id=7) == options()
    assert read(timeout=-1) == options()


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ({"slim_deadline_ms": 50}, options(deadline_ms=50.0)),
        ({"slim_deadline_ms": "12.5"}, options(deadline_ms=12.5)),
        ({"slim_deadline_ms": 0}, options(deadline_ms=0.0)),
        ({"slim_min_accuracy": 0.91}, options(min_accuracy=0.91)),
        ({"slim_min_accuracy": "1"}, options(min_accuracy=1.0)),
        ({"slim_min_accuracy": -0.25}, options(min_accuracy=-0.25)),
        ({"slim_min_accuracy": 37.5}, options(min_accuracy=37.5)),
        ({"slim_width": 25}, options(width=Width(25))),
        ({"slim_width": "75"}, options(width=Width(75))),
        ({"slim_width": 100.0}, options(width=Width(100))),
        ({"slim_width": 2**63}, None),
        ({"slim_max_joules": 0.5}, options(max_joules=0.5)),
        ({"slim_max_joules": "3"}, options(max_joules=3.0)),
        ({"slim_preference": "energy"}, options(preference=Preference(0.0, 0.0, 1.0))),
        ({"slim_preference": "accuracy=3,energy=1"}, options(preference=Preference(0.75, 0.0, 0.25))),
        ({"priority": 3}, options(priority=3)),
        ({"priority": 2**64 - 1}, options(priority=2**64 - 1)),
    ],
)
def test_numbers_come_in_every_type(given_values: dict[str, object], expected: RequestOptions | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError):
            read(**given_values)
    else:
        assert read(**given_values) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in KNOWN for value in (math.nan, math.inf, "x", "", "nan", "-inf", True)),
        *((name, value) for name in KNOWN if name != "slim_min_accuracy" for value in (-1, -0.5)),
        ("slim_width", 0),
        ("slim_width", 101),
        ("slim_width", 33.3),
        ("slim_widht", 25),
        ("slim_maximum_joules", 1.0),
        ("slim_preference", "speed"),
        ("slim_preference", "accuracy=nan"),
        ("slim_preference", 0.5),
        ("triton_foo", 1),
        ("priority", -1),
        ("priority", "high"),
        ("timeout", "soon"),
    ],
)
def test_what_is_wrong_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match="triton_" if name.startswith("triton_") else name):
        read(**{name: value})


@given(st.dictionaries(st.sampled_from([*KNOWN, "slim_x", "a"]), st.one_of(st.floats(), st.text(), st.booleans())))
def test_every_value_is_taken_or_refused(values: dict[str, object]) -> None:
    try:
        found = read(**values)
    except ConfigError:
        return
    assert found.deadline_ms is None or 0 <= found.deadline_ms < math.inf
    assert found.min_accuracy is None or 0 <= found.min_accuracy <= 1
    assert found.width is None or 1 <= found.width <= 100
    assert found.max_joules is None or 0 <= found.max_joules < math.inf
