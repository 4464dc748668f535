"""What every section of a settings file shares: strictness, addresses, and errors that name the key path."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from orchestrator.config.environment import override
from orchestrator.config.yaml_document import read_yaml, say_problem
from orchestrator.errors import ConfigError, SettingsError
from orchestrator.validation import (
    Location,
    Spelling,
    describe_problems,
    join_problems,
    key_path,
    problem_details,
)


class PolicyChecks(NamedTuple):
    """What layers above know of policies; each raises ConfigError, where a name or a router's section is refused."""

    of_name: Callable[[str], object]
    of_router: Callable[[Any], object]


class Section(BaseModel):
    """Refuses unknown keys and numbers that are none, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @field_validator("*", mode="before")
    @classmethod
    def _hold_no_null_byte(cls, value: Any) -> Any:
        """Refuse what no path and no name may hold, and what opening a file answers with an error of another kind."""
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it holds a null byte; remove that")
        return value

    def _contradictions(self) -> Iterator[str]:
        """Yield what is wrong with values beside one another; asked when each of the section is allowed."""
        yield from ()

    def _refusals(self, policies: PolicyChecks) -> Iterator[str]:
        """Yield what layers above refuse of values that are allowed; asked beside ``_contradictions``."""
        yield from ()

    @model_validator(mode="after")
    def _tell_all_contradictions(self, info: ValidationInfo) -> Self:
        refusals = () if info.context is None else self._refusals(info.context)
        if found := [problem_details(words, (), {}) for words in (*self._contradictions(), *refusals)]:
            raise ValidationError.from_exception_data("", found)
        return self


SectionT = TypeVar("SectionT", bound=Section)


def _check_address(address: str) -> str:
    host, _, port = address.rpartition(":")
    if not 1 <= int(port) <= 65535:
        raise ValueError(f"port {port} is outside 1 to 65535")
    try:
        host.encode("idna")  # as looking it up does
    except UnicodeError:
        raise ValueError(
            "the host is no name: between its dots there must be 1 to 63 characters that names may have; correct it"
        ) from None
    return address


def _check_policy(name: str, info: ValidationInfo) -> str:
    """Refuse what the checks that were given refuse, if any: policies are known in a layer above."""
    if info.context is not None:
        try:
            info.context.of_name(name)
        except ConfigError as exc:
            raise ValueError(str(exc)) from exc
    return name


def _check_url(*schemes: str, example: str) -> AfterValidator:
    def check(url: str) -> str:
        try:
            parts = urlsplit(url)
            is_one = parts.scheme in schemes and bool(parts.hostname) and " " not in url and parts.port != 0
        except ValueError:  # a port that is no number or above 65535, brackets that don't close
            is_one = False
        if not is_one:
            kinds = " or ".join(f"{scheme}://" for scheme in schemes)
            raise ValueError(
                f"must be an {kinds} URL with a host, and a port from 1 to 65535 if any; give a URL such as {example}"
            )
        return url

    return AfterValidator(check)


Address = Annotated[
    str,
    Spelling(
        r"^([^:/\s]+|\[[0-9a-fA-F:]+\]):\d{1,5}$", "host:port, such as 127.0.0.1:8001 or [::1]:8001 or triton-a:8001"
    ),
    AfterValidator(_check_address),
    Field(json_schema_extra={"format": "host-port"}),
]
"""``host:port``, with the host in brackets when it is an IPv6 address, and a port that can be one."""
Name = Annotated[
    str,
    Spelling(r"^[A-Za-z0-9][A-Za-z0-9._-]*$", "letters, digits, dots, underscores and hyphens after a letter or digit"),
]
"""A name for answers, logs and metrics."""
GpuUuid = Annotated[
    str, Spelling(r"^(GPU|MIG)-[0-9A-Za-z/-]+$", "the UUID of a GPU or a MIG instance, as 'nvidia-smi -L' lists them")
]
"""A device of the host, whatever its place among others."""
PolicyName = Annotated[str, AfterValidator(_check_policy)]
"""A policy by its name, see orchestrator.policies.parsing."""
_IS_URL = Field(json_schema_extra={"format": "uri"})
Url = Annotated[str, _check_url("http", example="http://127.0.0.1:8002/metrics"), _IS_URL]
"""An ``http://`` URL with a host, and a port that can be one if it names any."""
CollectorUrl = Annotated[str, _check_url("http", "https", example="http://127.0.0.1:4318/v1/traces"), _IS_URL]
"""The same, or one with ``https://``."""


def parse_settings(kind: type[SectionT], text: str, *, source: str, start: str, is_secret: bool = False) -> SectionT:
    """Return the settings that the YAML ``text`` spells; errors name the ``source`` and quote nothing of secrets.

    ``start`` is the key that such a file begins with, for the message when it holds no keys. Raises ConfigError for
    that, for text that is no YAML, and for keys and values that are not allowed.
    """
    return read_settings(kind, text, source=source, start=start, is_secret=is_secret, environment={})[0]


def read_settings(
    kind: type[SectionT],
    text: str,
    *,
    source: str,
    start: str,
    environment: Mapping[str, str],
    policies: PolicyChecks | None = None,
    is_secret: bool = False,
) -> tuple[SectionT, Mapping[Location, str]]:
    """Return the settings, and where each key and entry that is no default was given: a line, or a variable.

    As ``parse_settings``; what ``environment`` holds of them counts in place of what ``text`` says, and what
    ``policies`` refuse is not allowed.
    """
    try:
        document = read_yaml(text)
    except (yaml.YAMLError, RecursionError) as exc:
        problem = say_problem(exc, is_secret=is_secret)
        raise ConfigError(f"{source} is no YAML: {problem}") from (None if is_secret else exc)
    if not isinstance(document.values, dict):
        raise ConfigError(f"{source} holds no keys; it starts with '{start}:'")
    values, variables, refusals = override(kind, document.values, environment)
    origins = {at: f"line {line}" for at, line in document.lines.items()} | dict(variables)
    twice = "a key is" if is_secret else "{} is"
    problems = [
        *refusals,
        *(f"line {document.lines[at]}: {twice.format(key_path(at))} given twice" for at in document.doubled),
    ]
    try:
        settings = kind.model_validate(values, context=policies)
    except ValidationError as exc:
        for found in describe_problems(exc, kind, is_secret=is_secret):
            at = found.location
            origin = next((origins[at[:end]] for end in range(len(at), 0, -1) if at[:end] in origins), None)
            problems.append(found.text if origin is None else f"{origin}: {found.text}")
        # The chained exception would show the values too.
        raise SettingsError(join_problems(source, problems), problems) from (None if is_secret else exc)
    if problems:
        raise SettingsError(join_problems(source, problems), problems)
    return settings, origins
