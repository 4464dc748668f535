"""No wrong value of any key is answered in the words of Python, of pydantic or of a regular expression."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.config import FleetSettings
from orchestrator.config.schema import entries_of, section_of, settings_schema
from orchestrator.config.tenants import TenantsSettings
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.validation import describe_problems

JARGON = re.compile(
    r"Input|Value error|[Tt]uple|dict|instance of|\b(None|True|False|int|str|float|bool|valid)\b|\^|\\[dsw]"
    r"|pydantic|datetime|mapping"
)
WRONG = (
    None, True, -1, 0.5, 1 << 300, float("inf"), float("nan"), "", "x y", "h:99999", "http://[", "a\0", b"\xff",
    datetime.date(2026, 1, 2), [], [None], [[]], ["x", 7], [1, 1], {}, {"a": 1}, {1: 2},
)  # fmt: skip


def keys_of(schema: dict[str, Any], section: dict[str, Any], path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    for key, node in section["properties"].items():
        yield (*path, key)
        if (inner := section_of(schema, node)) is not None:
            entry = {"list": ("[]",), "names": ("any",), None: ()}[entries_of(node)]
            yield from keys_of(schema, inner, (*path, key, *entry))


def nested(path: tuple[str, ...], value: object) -> object:
    for key in reversed(path):
        value = [value] if key == "[]" else {key: value}
    return value


@pytest.mark.parametrize("kind", [FleetSettings, TenantsSettings, ScenarioSettings], ids=lambda kind: kind.__name__)
def test_every_wrong_value_of_every_key_is_told_in_words(kind: type[BaseModel]) -> None:
    schema = settings_schema(kind)
    refused = 0
    for path in keys_of(schema, schema, ()):
        for value in WRONG:
            try:
                kind.model_validate(nested(path, value))
            except ValidationError as exc:
                for problem in describe_problems(exc, kind):
                    refused += 1
                    assert not JARGON.search(problem.text), problem.text
                    assert "\n" not in problem.text
    assert refused > 500
