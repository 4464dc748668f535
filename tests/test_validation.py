from __future__ import annotations

from dataclasses import dataclass

import pytest
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from orchestrator.validation import describe_problem


@dataclass(frozen=True)
class Part:
    name: str
    size: int | None


@dataclass(frozen=True)
class Document:
    parts: tuple[Part, ...]
    main: Part | None


class Settings(BaseModel):
    model_config = ConfigDict(extra="forbid")
    part: Part | None = None
    inner: Settings | None = None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            '{"parts": [{"name": "a", "size": 1, "x": 0}], "main": null}',
            "unknown key parts[0].x; allowed here: name, size",
        ),
        ('{"parts": [], "main": {"name": "a", "size": 1, "y": 0}}', "unknown key main.y; allowed here: name, size"),
        ('{"parts": [], "main": null, "z": 0}', "unknown key z; allowed here: parts, main"),
        ('{"parts": [{"name": "a"}]}', "key parts[0].size is missing (and 1 more)"),
        (
            '{"parts": [{"name": "a", "size": "big"}], "main": null}',
            "parts[0].size: Input should be a valid integer, got 'big'",
        ),
        ('{"parts": [', "the file: Invalid JSON: EOF while parsing a list at line 1 column 11"),
    ],
)
def test_the_first_problem_of_a_document_is_one_line(text: str, problem: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Document).validate_json(text, strict=True, extra="forbid")
    assert describe_problem(caught.value, Document) == problem


def test_settings_are_described_alike_and_secrets_are_not_quoted() -> None:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"inner": {"token": 1}})
    assert describe_problem(caught.value, Settings) == "unknown key inner.token; allowed here: part, inner"
    assert describe_problem(caught.value, Settings, is_secret=True) == "unknown key in inner; allowed here: part, inner"
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate({"inner": "hush"})
    assert "hush" in describe_problem(caught.value, Settings)
    assert "hush" not in describe_problem(caught.value, Settings, is_secret=True)
