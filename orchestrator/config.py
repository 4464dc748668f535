"""fleet.yaml as frozen settings, one section a component.

A component receives only its own section; only the command line reads files. Unknown keys, wrong types and
values out of range are refused with the key path, the value and what is allowed, because a misspelt key that is
silently ignored is found in production. Defaults live here and nowhere else, each with its unit and reason.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from orchestrator.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


_ADDRESS = r"^[^:/\s]+:\d{1,5}$|^\[[0-9a-fA-F:]+\]:\d{1,5}$"


def _check_port(address: str | None) -> str | None:
    """Return the address as it is; ValueError when its port can't be one."""
    if address is not None and not 1 <= int(address.rpartition(":")[2]) <= 65535:
        raise ValueError(f"port {address.rpartition(':')[2]} is outside 1 to 65535")
    return address


def _check_url(url: str | None) -> str | None:
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


class LimitSettings(_Section):
    """What one server may use of its host."""

    memory_budget_mib: float | None = Field(default=None, gt=0)
    """GPU: of the device's memory in use, by whomever; CPU: of Triton's and its stubs' private memory. None: nine
    tenths of the device's memory, half of the host's."""
    utilisation_ceiling: float = Field(default=0.9, gt=0, le=1)
    """Nothing grows while the device, or the CPUs that Triton may use, are busier than this."""
    max_instances: int | None = Field(default=None, ge=1)
    """Of one width; None: as many as Triton has CPUs, on GPU 4, beyond which instances rarely add throughput."""
    gpu_index: int = Field(default=0, ge=0)
    """Which device of the host, in NVML's order."""


class ServerSettings(_Section):
    """One Triton of the fleet."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Unique in the fleet; appears in answers, logs and metrics."""
    grpc: str = Field(pattern=_ADDRESS)
    """Address of its gRPC endpoint, ``host:port``."""
    metrics: str | None = None
    """URL of its Prometheus endpoint, such as ``http://127.0.0.1:8002/metrics``; None when it has none."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What its instances run on."""
    emulated_slowdown: float | None = Field(default=None, ge=1)
    """Set only on embedded servers that play a slower machine; figures taken there are emulated."""
    repository: Path | None = None
    """Its model repository as the controller beside it sees it; None where no controller runs."""
    controller: str | None = Field(default=None, pattern=_ADDRESS)
    """Where its controller answers with status and metrics, ``host:port``; None: the controller answers nowhere."""
    protocol_key_file: Path | None = None
    """File with one line ``KEY=VALUE``, as given to Triton's ``--grpc-restricted-protocol``; None: not restricted."""
    limits: LimitSettings = LimitSettings()

    @field_validator("metrics")
    @classmethod
    def _metrics_is_url(cls, url: str | None) -> str | None:
        return _check_url(url)

    @field_validator("grpc", "controller")
    @classmethod
    def _port_is_one(cls, address: str | None) -> str | None:
        return _check_port(address)


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


class ControllerSettings(_Section):
    """What a controller keeps loaded and how quickly it changes it; the same for every server."""

    family: str | None = None
    """To look after; None takes the only one in the repository."""
    minimum_widths: tuple[int, ...] | None = Field(default=None, min_length=1)
    """Always resident; None: the narrowest, which answers when nothing else can."""
    wanted_widths: tuple[int, ...] | None = None
    """Loaded whenever the budget has room, most wanted first; None: all, the narrowest first. Other widths are loaded
    when asked for and unloaded when idle."""
    period_s: float = Field(default=1.0, gt=0)
    """Between two steps; one costs some milliseconds."""
    grow_busy_ratio: float = Field(default=0.7, gt=0, le=1)
    """A width whose instances are busier than this while requests wait gets another one."""
    grow_after_s: float = Field(default=1.0, ge=0)
    """For how long they must have been; shorter bursts are cheaper to sit out."""
    shrink_busy_ratio: float = Field(default=0.4, ge=0, lt=1)
    """An instance is taken away when the others would stay below this; the gap to grow_busy_ratio is the hysteresis."""
    idle_s: float = Field(default=30.0, gt=0)
    """For how long they must have; also before a width makes room for another."""
    unload_after_s: float = Field(default=300.0, gt=0)
    """Without a request, before a width that is neither wanted nor asked for is unloaded."""
    cooldown_s: float = Field(default=2.0, ge=0)
    """Between two changes of one width, so that the second sees what the first did."""
    deadline_budget_ms: float = Field(default=50.0, gt=0)
    """Of a request's deadline, what waiting for a batch and running it may take; half of the router's default."""
    batching: bool = True
    """Whether batching parameters are sized at all; False leaves what config.pbtxt says."""
    batching_horizon_s: float = Field(default=60.0, gt=0)
    """Over which a batching's gain is held against the price of the reload."""
    batching_cooldown_s: float = Field(default=60.0, ge=0)
    """Between two batching changes of one width."""
    memory_margin: float = Field(default=0.1, ge=0)
    """Estimates of memory are taken this part larger before they are held against the budget."""
    unmeasured_instance_mib: float | None = Field(default=None, gt=0)
    """What an instance is taken for until one has been measured; None: 128 on CPU, 1024 on GPU, where a first
    session brings its libraries along."""
    leak_limit_mib: float = Field(default=512.0, gt=0)
    """Of memory that unloads have not given back, above which a restart of Triton is advised."""
    repair_after_s: float = Field(default=2.0, ge=0)
    """For how long an instance must be missing, or every answer an error, before a width is reloaded."""
    quarantine_s: float = Field(default=5.0, gt=0)
    """How long a config that failed to load is left alone; doubles with each failure."""
    quarantine_max_s: float = Field(default=300.0, gt=0)
    """And no longer than this."""
    stuck_after_s: float = Field(default=60.0, gt=0)
    """Of loading, before it is reported as stuck."""
    action_timeout_s: float = Field(default=10.0, ge=0.5)
    """How long a step waits for one action; a slower one goes on by itself and its width is left alone meanwhile.
    Hardly any is done in less than half a second."""

    @model_validator(mode="after")
    def _do_not_contradict(self) -> ControllerSettings:
        if self.shrink_busy_ratio >= self.grow_busy_ratio:
            raise ValueError(
                f"shrink_busy_ratio {self.shrink_busy_ratio:g} must be below grow_busy_ratio "
                f"{self.grow_busy_ratio:g}; else instances come and go under constant load"
            )
        if self.quarantine_max_s < self.quarantine_s:
            raise ValueError(
                f"quarantine_max_s {self.quarantine_max_s:g} is below quarantine_s {self.quarantine_s:g}; raise it"
            )
        if self.stuck_after_s < self.action_timeout_s:
            raise ValueError(
                f"stuck_after_s {self.stuck_after_s:g} is below action_timeout_s {self.action_timeout_s:g}, for which "
                "an action is waited for; raise it"
            )
        if self.idle_s > self.unload_after_s:
            raise ValueError(
                f"idle_s {self.idle_s:g} is above unload_after_s {self.unload_after_s:g}; an instance goes before its "
                "width does: lower it"
            )
        return self

    @field_validator("minimum_widths", "wanted_widths")
    @classmethod
    def _widths_are_percent(cls, widths: tuple[int, ...] | None) -> tuple[int, ...] | None:
        for width in widths or ():
            if not 1 <= width <= 100:
                raise ValueError(f"width {width} is no whole percentage from 1 to 100")
        if widths is not None and len(set(widths)) != len(widths):
            raise ValueError("a width is named twice; name each once")
        return widths


class GatewaySettings(_Section):
    """Where the gateway listens and what it takes from a client."""

    grpc: str | None = Field(default="127.0.0.1:8081", pattern=_ADDRESS)
    """KServe v2 over gRPC, ``host:port``; None: not offered. 8000 to 8002 are left to a Triton of the same machine."""
    http: str | None = Field(default="127.0.0.1:8080", pattern=_ADDRESS)
    """KServe v2 over HTTP, ``host:port``; None: not offered."""
    metrics: str | None = Field(default="127.0.0.1:8082", pattern=_ADDRESS)
    """Prometheus metrics, ``host:port``; None: not offered."""
    max_message_mib: float = Field(default=64.0, gt=0, le=2047)
    """A larger request is refused, before and after decompression; Triton's own bound over HTTP from 25.06 on."""
    stream_window: int = Field(default=256, ge=1)
    """Requests of one stream under way at a time; the stream is read no further until one of them is answered."""
    statistics_period_s: float = Field(default=10.0, gt=0)
    """Between two readings of the servers' statistics, so that little is lost to a reload that sets them back."""
    drain_s: float = Field(default=20.0, ge=0)
    """How long a stopping gateway waits for what it has accepted."""

    @field_validator("grpc", "http", "metrics")
    @classmethod
    def _port_is_one(cls, address: str | None) -> str | None:
        return _check_port(address)

    @model_validator(mode="after")
    def _listens_somewhere(self) -> GatewaySettings:
        if self.grpc is None and self.http is None:
            raise ValueError("grpc and http are both null; give one of them an address")
        given = [address for address in (self.grpc, self.http, self.metrics) if address is not None]
        for address in given:
            if given.count(address) > 1:
                raise ValueError(f"the address {address} is used twice; grpc, http and metrics need one each")
        return self


class FleetSettings(_Section):
    """All of fleet.yaml."""

    servers: tuple[ServerSettings, ...] = Field(min_length=1)
    router: RouterSettings = RouterSettings()
    controller: ControllerSettings = ControllerSettings()
    gateway: GatewaySettings = GatewaySettings()

    @field_validator("servers")
    @classmethod
    def _names_are_unique(cls, servers: tuple[ServerSettings, ...]) -> tuple[ServerSettings, ...]:
        names = [server.name for server in servers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"name {twice[0]!r} is used twice; names must be unique")
        return servers

    def server(self, name: str) -> ServerSettings:
        """Return the server of a name.

        Raises:
            ConfigError: when there is none; lists those there are.
        """
        for server in self.servers:
            if server.name == name:
                return server
        raise ConfigError(f"no server {name!r} in the fleet; it has {', '.join(s.name for s in self.servers)}")

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
    sections = {
        "servers": ServerSettings,
        "router": RouterSettings,
        "controller": ControllerSettings,
        "gateway": GatewaySettings,
    }
    section: Any = FleetSettings
    for part in location[:-1]:
        section = LimitSettings if part == "limits" else sections.get(str(part), section)
    return list(section.model_fields)
