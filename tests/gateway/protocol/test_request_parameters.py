"""What request parameters mean, and which are refused."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.errors import ConfigError
from orchestrator.gateway.protocol.messages import pb, set_value
from orchestrator.gateway.protocol.request_parameters import KNOWN, NO_WISHES, Wishes, parse_wishes
from orchestrator.snapshot import Preference, Width


def parameters(**values: object) -> object:
    request = pb.ModelInferRequest()
    for name, value in values.items():
        set_value(request.parameters, name, value)
    return request.parameters


def test_nothing_said_is_nothing_wished() -> None:
    assert parse_wishes(parameters()) is NO_WISHES
    assert parse_wishes(parameters(timeout=5, custom="x", sequence_id=7)) == NO_WISHES


@pytest.mark.parametrize(
    ("given_values", "expected"),
    [
        ({"slim_deadline_ms": 50}, Wishes(deadline_ms=50.0)),
        ({"slim_deadline_ms": "12.5"}, Wishes(deadline_ms=12.5)),
        ({"slim_deadline_ms": 0}, Wishes(deadline_ms=0.0)),
        ({"slim_min_accuracy": 0.91}, Wishes(min_accuracy=0.91)),
        ({"slim_min_accuracy": "1"}, Wishes(min_accuracy=1.0)),
        ({"slim_width": 25}, Wishes(width=Width(25))),
        ({"slim_width": "75"}, Wishes(width=Width(75))),
        ({"slim_width": 100.0}, Wishes(width=Width(100))),
        ({"slim_width": 2**63}, None),
        ({"slim_max_joules": 0.5}, Wishes(max_joules=0.5)),
        ({"slim_max_joules": "3"}, Wishes(max_joules=3.0)),
        ({"slim_preference": "energy"}, Wishes(preference=Preference(0.0, 0.0, 1.0))),
        ({"slim_preference": "accuracy=3,energy=1"}, Wishes(preference=Preference(0.75, 0.0, 0.25))),
        ({"priority": 3}, Wishes(priority=3)),
        ({"priority": 2**64 - 1}, Wishes(priority=2**64 - 1)),
    ],
)
def test_numbers_come_in_every_type(given_values: dict[str, object], expected: Wishes | None) -> None:
    if expected is None:
        with pytest.raises(ConfigError):
            parse_wishes(parameters(**given_values))
    else:
        assert parse_wishes(parameters(**given_values)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, value) for name in KNOWN for value in (math.nan, math.inf, -1, -0.5, "x", "", "nan", "-inf", True)),
        ("slim_min_accuracy", 1.01),
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
        parse_wishes(parameters(**{name: value}))


@given(st.dictionaries(st.sampled_from([*KNOWN, "slim_x", "a"]), st.one_of(st.floats(), st.text(), st.booleans())))
def test_every_value_is_taken_or_refused(values: dict[str, object]) -> None:
    try:
        wishes = parse_wishes(parameters(**values))
    except ConfigError:
        return
    assert wishes.deadline_ms is None or 0 <= wishes.deadline_ms < math.inf
    assert wishes.min_accuracy is None or 0 <= wishes.min_accuracy <= 1
    assert wishes.width is None or 1 <= wishes.width <= 100
    assert wishes.max_joules is None or 0 <= wishes.max_joules < math.inf
