"""What is wrong with values that a person or a file gave, in one line: key path, value, what is allowed.

pydantic finds the problems; this words the first of them as the whole project does, for settings (pydantic models)
and for documents (dataclasses) alike. The allowed keys are read from the types, so no table of them can go stale.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

Location = tuple[int | str, ...]
"""A path in nested values: keys and indices, from the outside in."""


def describe_problem(error: ValidationError, root: type[Any], *, is_secret: bool = False) -> str:
    """Return the first problem in one line, and how many more there are; of secrets nothing is quoted.

    What was validated for is a pydantic model or a dataclass.
    """
    problems = error.errors(include_url=False)
    problem = problems[0]
    location = problem["loc"]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = ", ".join(_fields(_section_at(location[:-1], root)))
        if is_secret:  # a token may stand where a key should
            where = _key_path(location[:-1])
            return f"unknown key in {where or 'the file'}; allowed here: {allowed}{more}"
        return f"unknown key {_key_path(location)}; allowed here: {allowed}{more}"
    path = _key_path(location)
    if problem["type"] == "missing":
        return f"key {path} is missing{more}"
    # A whole section behind the problem of its values, or a whole file that is cut off, would hide the message.
    is_quoted = not (is_secret or isinstance(problem["input"], dict) or problem["type"] == "json_invalid")
    got = f", got {problem['input']!r}" if is_quoted else ""
    return f"{path or 'the file'}: {problem['msg'].removeprefix('Value error, ')}{got}{more}"


def _key_path(location: Location) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _section_at(location: Location, root: type[Any]) -> type[Any]:
    """Return the section that a key path leads to; list indices and type variants of pydantic's are skipped."""
    section = root
    for part in location:
        annotation = _fields(section).get(str(part))
        section = _section_in(annotation) or section
    return section


def _section_in(annotation: Any) -> type[Any] | None:
    if isinstance(annotation, type) and (issubclass(annotation, BaseModel) or dataclasses.is_dataclass(annotation)):
        return annotation
    parts = typing.get_args(annotation)
    return next((found for part in parts if (found := _section_in(part)) is not None), None)


def _fields(section: type[Any]) -> dict[str, Any]:
    if issubclass(section, BaseModel):
        return {name: info.annotation for name, info in section.model_fields.items()}
    hints = typing.get_type_hints(section, include_extras=True)
    return {_alias(annotation) or name: annotation for name, annotation in hints.items()}


def _alias(annotation: Any) -> str | None:
    """Return the key that a file has for a field where that is not the field's name."""
    found = (part.alias for part in typing.get_args(annotation) if isinstance(part, FieldInfo))
    return next(found, None)
