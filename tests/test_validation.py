from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from orchestrator.validation import Spelling, describe_problems, join_problems

Word = Annotated[str, Spelling("^[a-z]+$", "small letters")]


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
    word: Word = "a"
    size: int = 0


def problems_of(values: object, *, is_secret: bool = False) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        Settings.model_validate(values)
    return [problem.text for problem in describe_problems(caught.value, Settings, is_secret=is_secret)]


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (
            '{"parts": [{"name": "a", "size": 1, "x": 0}], "main": null}',
            ["unknown key parts[0].x; allowed here: name, size"],
        ),
        ('{"parts": [], "main": {"name": "a", "size": 1, "y": 0}}', ["unknown key main.y; allowed here: name, size"]),
        ('{"parts": [], "main": null, "z": 0}', ["unknown key z; allowed here: parts, main"]),
        ('{"parts": [{"name": "a"}]}', ["key parts[0].size is missing", "key main is missing"]),
        (
            '{"parts": [{"name": "a", "size": "big"}], "main": 3}',
            [
                "parts[0].size: must be a whole number, got 'big'",
                "main: must hold keys; allowed here: name, size, got 3",
            ],
        ),
        ('{"parts": [', ["is no JSON: EOF while parsing a list at line 1 column 11"]),
    ],
)
def test_every_problem_of_a_document_is_one_line(text: str, problems: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(Document).validate_json(text, strict=True, extra="forbid")
    assert [problem.text for problem in describe_problems(caught.value, Document)] == problems


def test_settings_are_described_alike_and_secrets_are_not_quoted() -> None:
    token = {"inner": {"token": 1}}
    assert problems_of(token) == ["unknown key inner.token; allowed here: part, inner, word, size"]
    assert problems_of(token, is_secret=True) == ["unknown key in inner; allowed here: part, inner, word, size"]
    assert "hush" in problems_of({"inner": "hush"})[0]
    assert "hush" not in problems_of({"inner": "hush"}, is_secret=True)[0]


@pytest.mark.parametrize(
    ("value", "quoted"),
    [
        (None, "null"),
        (True, "true"),
        ("http://me:secret@host/", "'http://***@host/'"),
        (f"http://me:{'s' * 200}@host/", "'http://***@host/'"),
        ("A" * 200, f"'{'A' * 99}…"),
        ([1, [2]], "a list"),
        (1 << 20_000, "a number of many digits"),
        (float("nan"), "NaN"),
    ],
    ids=["null", "boolean", "url", "long password", "long", "list", "digits", "nan"],
)
def test_a_value_is_quoted_as_a_file_spells_it_without_credentials_and_cut_off(value: Any, quoted: str) -> None:
    (problem,) = problems_of({"word": value})
    assert problem.endswith(f", got {quoted}")


class Fleet(BaseModel):
    parts: tuple[Part, ...] = Field(min_length=1)


def test_a_list_is_not_also_too_short_because_its_entries_are_wrong() -> None:
    for values, problem in (
        ([{"name": "a"}], "key parts[0].size is missing"),
        ([], "parts: must have at least 1, but has 0"),
    ):
        with pytest.raises(ValidationError) as caught:
            Fleet.model_validate({"parts": values})
        assert [found.text for found in describe_problems(caught.value, Fleet)] == [problem]


def test_a_spelling_is_told_in_words_and_is_a_pattern_in_the_schema() -> None:
    assert problems_of({"word": "a1"}) == ["word: must be small letters, got 'a1'"]
    assert problems_of({"word": "a\n"}) == ["word: must be small letters, got 'a\\n'"]
    assert TypeAdapter(Word).json_schema() == {"type": "string", "pattern": "^[a-z]+$"}


def test_the_line_for_many_problems_lists_the_first_few() -> None:
    assert join_problems("a.yaml", ["x"]) == "a.yaml: x"
    assert join_problems("a.yaml", ["x", "y"]) == "a.yaml has 2 problems: (1) x; (2) y"
    assert join_problems("a.yaml", ["x"] * 12).endswith("; (10) x; and 2 more")
