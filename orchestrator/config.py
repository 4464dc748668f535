"""fleet.yaml as frozen settings, one section a component.

A component receives only its own section; only the command line reads files. Unknown keys, wrong types and
values out of range are refused with the key path, the value and what is allowed, because a misspelt key that is
silently ignored is found in production. Defaults live here and nowhere else, each with its unit and reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ServerSettings(_Section):
    """One Triton of the fleet."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Unique in the fleet; appears in answers, logs and metrics."""
    grpc: str = Field(pattern=r"^[^:/\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$")
    """Address of its gRPC endpoint, ``host:port``."""
    metrics: str | None = Field(default=None, pattern=r"^http://")
    """URL of its Prometheus endpoint; None when it has none."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What its instances run on."""
    emulated_slowdown: float | None = Field(default=None, ge=1)
    """Set only on embedded servers that play a slower machine; figures taken there are emulated."""

    @field_validator("grpc")
    @classmethod
    def _port_is_one(cls, address: str) -> str:
        port = int(address.rpartition(":")[2])
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} is outside 1 to 65535")
        return address


class RouterSettings(_Section):
    """How the router queues, groups and sends."""

    policy: str = "lert:slack"
    """``SERVER_RULE[:WIDTH_RULE]``, see orchestrator.routing.registry."""
    family: str | None = None
    """The family to serve; None takes the only one there is."""
    deadline_ms: float = Field(default=100.0, gt=0)
    """For requests that bring none. Ten times the latency of a small CNN on one core."""
    slack_margin: float = Field(default=1.25, ge=1)
    """Expected times are multiplied by this before they are held against a deadline."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """After this a caller gets an error, late as its answer may be; deadlines are shorter and soft."""
    queue_limit: int = Field(default=10_000, ge=1)
    """Items waiting in the router; one more is refused at once."""
    in_flight_groups: int = Field(default=2, ge=1)
    """Groups a server holds at a time: one runs, one waits so that the server never idles between them."""
    group_timeout_s: float = Field(default=10.0, gt=0)
    """A server that has not answered a group after this is taken out until it answers blank items."""
    discovery_period_s: float = Field(default=2.0, gt=0)
    """How often servers are asked what they serve."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """How long a server may take to say what it serves."""
    warm_up: bool = True
    """Run each newly found width a few times on blank items, so that the first decisions rest on measured times."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a request is sent at the most; only requests that no server has run are sent again."""
    drain_s: float = Field(default=10.0, ge=0)
    """How long closing waits for answers under way."""
    seed: int = 0
    """Of policies that draw lots."""


class FleetSettings(_Section):
    """All of fleet.yaml."""

    servers: tuple[ServerSettings, ...] = Field(min_length=1)
    router: RouterSettings = RouterSettings()

    @field_validator("servers")
    @classmethod
    def _names_are_unique(cls, servers: tuple[ServerSettings, ...]) -> tuple[ServerSettings, ...]:
        names = [server.name for server in servers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"name {twice[0]!r} is used twice; names must be unique")
        return servers

    @model_validator(mode="after")
    def _addresses_are_unique(self) -> FleetSettings:
        seen: dict[str, str] = {}
        for server in self.servers:
            if server.grpc in seen:
                raise ValueError(f"servers {seen[server.grpc]!r} and {server.name!r} share the address {server.grpc}")
            seen[server.grpc] = server.name
        return self


def load_fleet(path: Path) -> FleetSettings:
    """Return the settings in ``path``.

    Raises:
        ConfigError: when the file can't be read, is no YAML mapping, or a key or value is not allowed.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        raise ConfigError(f"no fleet file at {path}; 'slimsched local up' writes one") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read {path} ({exc})") from exc
    return parse_fleet(text, source=str(path))


def parse_fleet(text: str, *, source: str = "fleet.yaml") -> FleetSettings:
    """Return the settings that the YAML ``text`` spells; errors name ``source``.

    Raises:
        ConfigError: as for load_fleet.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise ConfigError(f"{source} is no YAML: {' '.join(str(exc).split())}") from exc
    if not isinstance(values, dict):
        raise ConfigError(f"{source} holds no mapping; it starts with 'servers:'")
    try:
        return FleetSettings.model_validate(values)
    except ValidationError as exc:
        raise ConfigError(f"{source}: {_first_problem(exc)}") from exc


def render_fleet(fleet: FleetSettings) -> str:
    """Return the settings as YAML, without what equals the defaults; ``parse_fleet`` gives them back."""
    values = fleet.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text


def _first_problem(error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    problem = problems[0]
    path = _key_path(problem["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        allowed = ", ".join(_allowed_keys(problem["loc"]))
        return f"unknown key {path}; allowed here: {allowed}{more}"
    if problem["type"] == "missing":
        return f"key {path} is missing{more}"
    return f"{path or 'the file'}: {problem['msg']}, got {problem['input']!r}{more}"


def _key_path(location: tuple[int | str, ...]) -> str:
    path = ""
    for part in location:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else part
    return path


def _allowed_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys of the section in which ``location`` lies."""
    section: Any = FleetSettings
    for part in location[:-1]:
        if part == "servers":
            section = ServerSettings
        elif part == "router":
            section = RouterSettings
    return list(section.model_fields)
