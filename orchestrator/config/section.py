"""What every section of a settings file shares: strictness, addresses, and errors that name the key path."""

from __future__ import annotations

from typing import Any, TypeVar, get_args
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from orchestrator.errors import ConfigError

ADDRESS = r"^[^:/\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"


class Section(BaseModel):
    """Refuses unknown keys and numbers that are none, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def check_port(address: str | None) -> str | None:
    """Return the address as it is; ValueError when its port can't be one."""
    if address is not None and not 1 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError(f"port {address.rpartition(':')[2]} is outside 1 to 65535")
    return address


def check_url(url: str | None) -> str | None:
    """Return the URL as it is; ValueError when it names no host, or no port that can be one."""
    if url is None:
        return None
    remedy = "give a URL such as http://127.0.0.1:8002/metrics"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as exc:  # a port that is no number or above 65535, brackets that don't close
        raise ValueError(f"{exc}; {remedy}") from None
    if parts.scheme != "http" or not parts.hostname or " " in url:
        raise ValueError(f"this is no http:// URL with a host; {remedy}")
    if port == 0:
        raise ValueError(f"port 0 is outside 1 to 65535; {remedy}")
    return url


def parse_settings(kind: type[SectionT], text: str, *, source: str, start: str, is_secret: bool = False) -> SectionT:
    """Return the settings that the YAML ``text`` spells.

    Args:
        kind: of the settings.
        text: of the file.
        source: named by errors.
        start: the key that such a file begins with, for the message when it holds no mapping.
        is_secret: whether errors must quote nothing of the text.

    Raises:
        ConfigError: when the text is no YAML mapping, or a key or value is not allowed.
    """
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as exc:
        raise ConfigError(f"{source} is no YAML: {_place(exc) if is_secret else ' '.join(str(exc).split())}") from (
            None if is_secret else exc
        )
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds no mapping; it starts with '{start}:'")
    try:
        return kind.model_validate(values)
    except ValidationError as exc:
        # The chained exception would show the values too.
        raise ConfigError(f"{source}: {_first_problem(exc, kind, is_secret=is_secret)}") from (
            None if is_secret else exc
        )


def _place(error: Exception) -> str:
    """Return where YAML ends, without the text there."""
    mark = getattr(error, "problem_mark", None)
    return "line unknown" if mark is None else f"see line {mark.line + 1}, column {mark.column + 1}"


def _first_problem(error: ValidationError, root: type[Section], *, is_secret: bool) -> str:
    problems = error.errors(include_url=False)
    problem = problems[0]
    location = problem["loc"]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(_section_at(location[:-1], root).model_fields)
        if is_secret:  # a token may stand where a key should
            where = _key_path(location[:-1])
            return f"unknown key in {where or 'the file'}; allowed here: {allowed}{more}"
        return f"unknown key {_key_path(location)}; allowed here: {allowed}{more}"
    path = _key_path(location)
    if problem["type"] == "missing":
        return f"key {path} is missing{more}"
    # Settings that contradict each other are told with their values; a whole section behind them would hide that.
    got = "" if is_secret or isinstance(problem["input"], dict) else f", got {problem['input']!r}"
    return f"{path or 'the file'}: {problem['msg'].removeprefix('Value error, ')}{got}{more}"


def _key_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _section_at(location: tuple[int | str, ...], root: type[Section]) -> type[Section]:
    """Return the section that a key path leads to; list indices and type variants of pydantic's are passed over."""
    section = root
    for part in location:
        field = section.model_fields.get(str(part))
        if field is not None:
            section = _section_in(field.annotation) or section
    return section


def _section_in(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section_in(part)) is not None), None)
