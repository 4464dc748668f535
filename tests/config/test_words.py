"""No wrong value of any key is answered in the words of Python, of pydantic or of a regular expression."""

from __future__ import annotations

import datetime
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from orchestrator.config import FleetSettings, load_fleet, parse_fleet, parse_tenants
from orchestrator.config.schema import entries_of, section_of, settings_schema
from orchestrator.config.tenants import TenantsSettings
from orchestrator.errors import ConfigError
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


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{[1]: 2}", "line 1, column 2: a key must be text, and this one is a list or holds keys itself"),
        ("a:\n  ? {b: 1}\n  : 2", "line 2, column 5: a key must be text, and this one is a list or holds keys itself"),
        ("a: 2026-02-30", "line 1, column 4: '2026-02-30' is no date; put quotes around it if it is text"),
        (
            "a: 2026-01-02T25:00:00Z",
            "line 1, column 4: '2026-01-02T25:00:00Z' is no date; put quotes around it if it is text",
        ),
        ("a: !!int x", "line 1, column 4: 'x' is no whole number; put quotes around it if it is text"),
        ("a: !!float x", "line 1, column 4: 'x' is no number; put quotes around it if it is text"),
        ("a: !!timestamp x", "line 1, column 4: 'x' is no date; put quotes around it if it is text"),
        ("b: 1\na: [!!bool x]", "line 2, column 5: 'x' is no true or false; put quotes around it if it is text"),
        ("a: !foo x", "line 1, column 4: the tag '!foo' means nothing here; remove it"),
        ("<<: 3", "line 1, column 5: the tag, or '<<', does not fit what stands behind it"),
        ("a: !!set [1]", "line 1, column 4: the tag, or '<<', does not fit what stands behind it"),
        ("a: *x", "line 1, column 4: *x repeats nothing; mark what it stands for with &x, above it"),
        ("a: &x 1\nb: &x 2", "line 2, column 4: the same &name is there twice; rename one"),
        ("a: 1\n---\nb: 2", "line 2, column 1: another document begins here; keep one"),
        ("a:\n\t- b", "line 2, column 1: there is a tab; use spaces"),
        ("a: @x", "line 1, column 4: text can't begin with '@'; put quotes around it"),
        ("a: b: c", "line 1, column 5: ':' can't stand here; put quotes around text that has it"),
        ("- a\nb: c", "line 2, column 1: it does not fit the lines above; check how far each is indented"),
        ("a: [1 2", "line 1, column 8: ',' or ']' is missing before this"),
        ("a: [", "line 1, column 5: there is no value where one belongs"),
        ("a\nb: 1", "line 2, column 2: ':' can't stand here; put quotes around text that has it"),
        ("a:\n  'x\n", "line 3, column 1: the text ends within quotes"),
        ('a: "\\q"', "line 1, column 6: \\q means nothing in double quotes; use single ones"),
        ("a: \x07", "it has the character number 7, which no text has"),
        ("[" * 3000, "lists and keys are nested too deeply in it"),
        ("- 1", None),
    ],
)  # fmt: skip
def test_what_is_no_yaml_is_told_in_words_with_its_place(text: str, problem: str | None) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_fleet(text)
    said = "fleet.yaml holds no keys; it starts with 'servers:'"
    assert str(caught.value) == (said if problem is None else f"fleet.yaml is no YAML: {problem}")
    with pytest.raises(ConfigError) as caught:
        parse_tenants(text)
    assert problem is None or re.fullmatch(
        r"tokens.yaml is no YAML: (see line \d+, column \d+|line unknown)", str(caught.value)
    )


def test_a_file_that_can_not_be_read_is_told_in_words(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^can't read .* \((Is a directory|it is no regular file)\)$"):
        load_fleet(tmp_path)
    (path := tmp_path / "fleet.yaml").write_bytes(b"a: \xff")
    with pytest.raises(ConfigError, match=r"^can't read .*: it is no UTF-8 text; save it as such$"):
        load_fleet(path)
