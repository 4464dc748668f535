"""What is wrong with values that a person or a file gave, a line each: key path, value, what is allowed.

pydantic finds the problems; this words them as the whole project does, for settings (pydantic models) and for documents
(dataclasses) alike, so that nobody has to know Python to read them. The allowed keys are read from the types, so no
table of them can go stale.
"""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails, PydanticCustomError
from pydantic_core.core_schema import (
    CoreSchema,
    no_info_after_validator_function,
    no_info_wrap_validator_function,
)

Location = tuple[int | str, ...]
"""A path in nested values: keys and indices, from the outside in."""

_MOST_LISTED: Final = 10
"""Problems that one line lists; a file that has more is usually of another kind."""
_MOST_QUOTED: Final = 100
"""Characters of a value that are quoted."""
_CREDENTIALS: Final = re.compile(r"(?<=//)[^/@\s]*@")
_WHOLE_NUMBER: Final = "must be a whole number"
_NUMBER: Final = "must be a number"
_TRUE_OR_FALSE: Final = "must be true or false"
_TEXT: Final = "must be text; put quotes around what looks like something else"
_LIST: Final = "must be a list"
_WORDS: Final[Mapping[str, str]] = {
    "bool_parsing": _TRUE_OR_FALSE,
    "bool_type": _TRUE_OR_FALSE,
    "int_from_float": _WHOLE_NUMBER,
    "int_parsing": _WHOLE_NUMBER,
    "int_parsing_size": "must have fewer digits",
    "int_type": _WHOLE_NUMBER,
    "float_parsing": _NUMBER,
    "float_type": _NUMBER,
    "finite_number": "must be a finite number",
    "string_type": _TEXT,
    "string_unicode": _TEXT,
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "path_type": "must be a path",
    "list_type": _LIST,
    "tuple_type": _LIST,
    "too_short": "must have at least {min_length}, but has {actual_length}",
    "too_long": "must have at most {max_length}, but has {actual_length}",
    "dict_type": "must hold keys and values",
    "greater_than": "must be above {gt:g}",
    "greater_than_equal": "must be at least {ge:g}",
    "less_than": "must be below {lt:g}",
    "less_than_equal": "must be at most {le:g}",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_pattern_mismatch": "is not spelt as it has to be",
    "json_invalid": "is no JSON: {error}",
}
"""The words for each kind of problem that pydantic knows, with the fields of its context."""


class Problem(NamedTuple):
    """What is wrong with one value, in one line that begins with its key path."""

    location: Location
    text: str


@dataclasses.dataclass(frozen=True, slots=True)
class Spelling:
    """A form that text must have, to be put behind ``Annotated[str, …]``: as a pattern for programs, in words for us.

    Attributes:
        pattern: the regular expression, from ``^`` to ``$``.
        words: what the text must be, such as ``host:port``.
    """

    pattern: str
    words: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the check to those of the text."""
        return no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Add the pattern to what the JSON schema says of the text."""
        return {**handler(schema), "pattern": self.pattern}

    def _check(self, text: str) -> str:
        if re.fullmatch(self.pattern, text) is None:
            raise ValueError(f"must be {self.words}")
        return text


@dataclasses.dataclass(frozen=True, slots=True)
class Distinct:
    """Paths in the entries of a list that lead to no value twice, to be put behind ``Annotated[tuple[…], …]``.

    Entries that are wrong in another way are compared all the same, so that all is told at once.

    Attributes:
        paths: keys with dots between; ``*`` is each entry of a list in there, and an empty path the entry itself.
    """

    paths: tuple[str, ...]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Add the check to those of the list."""
        return no_info_wrap_validator_function(self._check, handler(source))

    def _check(self, entries: Any, validate: Callable[[Any], Any]) -> Any:
        found: list[InitErrorDetails] = []
        try:
            entries = validate(entries)
        except ValidationError as exc:
            found += [
                problem_details(each["msg"], each["loc"], each["input"], each["type"], each.get("ctx"))
                for each in exc.errors(include_url=False)
            ]
        for path in self.paths:
            seen: set[Any] = set()
            for at, value in _values_at(entries, ["*", *filter(None, path.split("."))], ()):
                if value in seen:
                    found.append(problem_details("is there twice; must be unique", at, value))
                seen.add(value)
        if found:
            raise ValidationError.from_exception_data("", found)
        return entries


def problem_details(
    words: str, location: Location, value: Any, kind: str = "value_error", context: dict[str, Any] | None = None
) -> InitErrorDetails:
    """Return a problem for a ValidationError, which the values around the invalid one add to theirs."""
    return InitErrorDetails(type=PydanticCustomError(kind, words, context), loc=location, input=value)


def _values_at(value: Any, path: Sequence[str], at: Location) -> Iterator[tuple[Location, str | float]]:
    """Yield the texts and numbers that a path leads to, in what was validated or not."""
    if not path:
        if isinstance(value, str | int | float):
            yield at, value
    elif path[0] != "*":
        inner = value.get(path[0]) if isinstance(value, dict) else getattr(value, path[0], None)
        yield from _values_at(inner, path[1:], (*at, path[0]))
    elif isinstance(value, list | tuple):
        for index, entry in enumerate(value):
            yield from _values_at(entry, path[1:], (*at, index))


def describe_problems(error: ValidationError, root: type[Any], *, is_secret: bool = False) -> tuple[Problem, ...]:
    """Return all problems in the order of the fields; of secrets nothing is quoted.

    What was validated for is ``root``, a pydantic model or a dataclass.
    """
    found = error.errors(include_url=False)
    return tuple(
        Problem(each["loc"], _describe(each, root, is_secret=is_secret)) for each in found if not _follows(each)
    )


def join_problems(source: str, problems: Sequence[str]) -> str:
    """Return the one line for all problems of a ``source``, of which there is at least one; of many the first few."""
    if len(problems) == 1:
        return f"{source}: {problems[0]}"
    listed = "; ".join(f"({rank}) {problem}" for rank, problem in enumerate(problems[:_MOST_LISTED], start=1))
    more = f"; and {len(problems) - _MOST_LISTED} more" if len(problems) > _MOST_LISTED else ""
    return f"{source} has {len(problems)} problems: {listed}{more}"


def hide_credentials(text: str) -> str:
    """Return a text with the user and password of every URL in it hidden."""
    return _CREDENTIALS.sub("***@", text)


def _follows(problem: Mapping[str, Any]) -> bool:
    """Return whether a list is said to be too short only because entries of it, which are not allowed, don't count."""
    return bool(problem["type"] == "too_short" and len(problem["input"]) >= problem["ctx"]["min_length"])


def _describe(problem: Mapping[str, Any], root: type[Any], *, is_secret: bool) -> str:
    location, kind, value = problem["loc"], problem["type"], problem["input"]
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        allowed = f"allowed here: {_keys_at(location[:-1], root)}"
        if is_secret:  # a token may stand where a key should
            return f"unknown key in {key_path(location[:-1]) or 'the file'}; {allowed}"
        return f"unknown key {key_path(location)}; {allowed}"
    if kind == "invalid_key":  # its location is the key in Python's words
        got = "" if is_secret else f", got {quote_value(value)}"
        return f"{key_path(location[:-1]) or 'the file'}: a key must be text{got}"
    path = key_path(location)
    if kind == "missing":
        return f"key {path} is missing"
    words, quoted = _word(problem, root), quote_value(value)
    # A whole section behind the problem of its values, or a whole file that is cut off, would hide the message.
    is_hiding = isinstance(value, dict) or kind in ("json_invalid", "too_short", "too_long")
    is_said = isinstance(value, str) and quoted in words
    got = "" if is_secret or is_hiding or is_said else f", got {quoted}"
    return f"{path}{': ' if path else ''}{words}{got}"


def _word(problem: Mapping[str, Any], root: type[Any]) -> str:
    kind, message = problem["type"], str(problem["msg"])
    if kind in ("model_type", "model_attributes_type", "dataclass_type", "dataclass_exact_type"):
        return f"must hold keys; allowed here: {_keys_at(problem['loc'], root)}"
    words = _WORDS.get(kind)
    return message.removeprefix("Value error, ") if words is None else words.format(**problem.get("ctx", {}))


def quote_value(value: object) -> str:
    """Return a value as it could stand in a file, cut off where it is long, or what it is."""
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if isinstance(value, int) and value.bit_length() > _MOST_QUOTED:
        return "a number of many digits"
    if isinstance(value, dict):  # which may hold itself, by an alias
        return "keys"
    text = hide_credentials(repr(value) if isinstance(value, str) else json.dumps(value, default=str))
    return text if len(text) <= _MOST_QUOTED else f"{text[:_MOST_QUOTED]}…"


def _keys_at(location: Location, root: type[Any]) -> str:
    return ", ".join(_fields(_section_at(location, root)))


def key_path(location: Location) -> str:
    """Return a path as it is written, such as ``servers[0].grpc``."""
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
        return {info.alias or name: info.annotation for name, info in section.model_fields.items()}
    hints = typing.get_type_hints(section, include_extras=True)
    return {_alias(annotation) or name: annotation for name, annotation in hints.items()}


def _alias(annotation: Any) -> str | None:
    """Return the key that a file has for a field where that is not the field's name."""
    found = (part.alias for part in typing.get_args(annotation) if isinstance(part, FieldInfo))
    return next(found, None)
