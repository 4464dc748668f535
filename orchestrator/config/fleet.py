"""fleet.yaml: servers and router; the sections of gateway, controller and families are beside."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from orchestrator.config.controller import ControllerSettings
from orchestrator.config.failures import EjectionSettings, HedgeSettings, ProbeSettings, RetrySettings
from orchestrator.config.families import FamilySettings
from orchestrator.config.gateway import GatewaySettings
from orchestrator.config.rollout import RolloutSettings
from orchestrator.config.section import (
    Address,
    GpuUuid,
    Name,
    PolicyChecks,
    PolicyName,
    Section,
    Url,
    parse_settings,
    read_settings,
)
from orchestrator.errors import ConfigError
from orchestrator.files import read_file
from orchestrator.validation import Distinct, Location, quote_value

API_VERSION: Final = "slimsched/v1"
"""The version of fleet.yaml that is read; it changes when a file no longer means what it meant."""
_MOST_BYTES = 2**24
"""Largest fleet file; a thousand servers have a hundredth of it."""
_ANY_HOST: Final = ("0.0.0.0", "[::]")


class LimitSettings(Section):
    """What one server may use of its host."""

    memory_budget_mib: float | None = Field(default=None, gt=0)
    """GPU: of the device's memory in use, by whomever; CPU: of Triton's and its stubs' private memory. None: nine
    tenths of the device's memory, half of the host's."""
    utilisation_ceiling: float = Field(default=0.9, gt=0, le=1)
    """Nothing grows while the device, or the CPUs that Triton may use, are busier than this."""
    max_instances: int | None = Field(default=None, ge=1)
    """Most instances of one width; None: as many as Triton has CPUs, on GPU 4, beyond which more rarely help."""
    memory_limit_mib: float | None = Field(default=None, gt=0)
    """CPU: what the container of Triton may use, where the controller is in another one and can't see it; without a
    budget four fifths of it may be used, as nothing else runs there. None: what its control group allows."""
    gpu_index: int = Field(default=0, ge=0)
    """Index of the host's device in NVML's order."""
    gpu_uuid: GpuUuid | None = None
    """UUID of the device or of a MIG instance, as ``nvidia-smi -L`` lists them, instead of an index."""

    @property
    def gpu(self) -> int | str:
        """Index or UUID of the device."""
        return self.gpu_index if self.gpu_uuid is None else self.gpu_uuid

    def _contradictions(self) -> Iterator[str]:
        if self.gpu_uuid is not None and self.gpu_index:
            yield (f"gpu_index {self.gpu_index} and gpu_uuid {self.gpu_uuid} are both given; give one of them")


class PowerSettings(Section):
    """A power model, for energy where no counter can be read; what rests on it is labelled ``estimated``."""

    idle_w: float = Field(ge=0)
    """What the server draws while it runs nothing, in watts."""
    busy_w: float = Field(gt=0)
    """What it draws while it runs batches without a pause; of a device, no more than its board's limit."""

    def _contradictions(self) -> Iterator[str]:
        if self.busy_w < self.idle_w:
            yield f"busy_w {self.busy_w:g} is below idle_w {self.idle_w:g}; swap or correct them"


class ServerSettings(Section):
    """One Triton of the fleet."""

    name: Name
    """Unique in the fleet; appears in answers, logs and metrics."""
    grpc: Address
    """Address of its gRPC endpoint, ``host:port``."""
    metrics: Url | None = None
    """URL of its Prometheus endpoint, such as ``http://127.0.0.1:8002/metrics``; None when it has none."""
    device: Literal["cpu", "gpu"] = "cpu"
    """What its instances run on."""
    device_class: Name | None = None
    """The kind of machine, such as ``h100``, shown beside the name. It names the server's entry in ``router.profile``
    where there is none of its own name or its name in this file. None: not said."""
    emulated_slowdown: float | None = Field(default=None, ge=1)
    """Set only on embedded servers that play a slower machine; figures taken there are emulated."""
    repository: Path | None = None
    """Its model repository as the controller beside it sees it; None where no controller runs."""
    controller: Address | None = None
    """Address at which its controller answers, ``host:port``; None: the controller answers nowhere."""
    protocol_key_file: Path | None = None
    """File with one line ``KEY=VALUE``, as given to Triton's ``--grpc-restricted-protocol``; None: not restricted."""
    limits: LimitSettings = LimitSettings()
    telemetry: Name | None = None
    """Source of readings that another package brings to the host of the controller, by an entry point of the group
    ``slimsched.telemetry``; None: what the device and the processes show."""
    power: PowerSettings | None = None
    """Power model of the server; None: energy is known only where a counter can be read."""

    @property
    def digest(self) -> str:
        """What tells its address from others' without naming it."""
        return hashlib.sha256(self.grpc.encode()).hexdigest()[:12]

    @property
    def controller_address(self) -> str | None:
        """Where its controller is asked; one that listens everywhere is reached where its Triton is."""
        if self.controller is None:
            return None
        host, _, port = self.controller.rpartition(":")
        return f"{self.grpc.rpartition(':')[0]}:{port}" if host in _ANY_HOST else self.controller


class GuardSettings(Section):
    """When the fallback decides in place of the policy; see docs/architecture.md#how-the-router-decides."""

    fallback: PolicyName = "lert:reserve"
    """The policy that decides in its place."""
    policy_time_budget_ms: float | None = Field(default=10.0, gt=0)
    """A slower decision is not used. A tenth of the default deadline and some hundred times what those here take, so
    that a host's own stalls hardly ever count. None: any time."""
    faults: int = Field(default=5, ge=1)
    """Faults of the policy in ``faults_window_s``, after which it is not asked for a while."""
    faults_window_s: float = Field(default=10.0, gt=0)
    """Faults further apart don't add up."""
    pause_s: float = Field(default=30.0, gt=0)
    """Time for which the policy is not asked; then one decision is a trial."""
    stale_after_s: float | None = Field(default=None, gt=0)
    """While a server that could be chosen has not answered for longer, a request or what it serves, the fallback
    decides: it holds what is overdue against a server, which another policy may not. None: two and a half of
    ``discovery_period_s``, so that one that just misses its turn is not stale."""


class OverloadSettings(Section):
    """What is given up when more comes than can be answered; see docs/architecture.md#overload."""

    shed_late: bool = True
    """Refuse requests whose own deadline can't be kept any more, before it has passed, and let callers wait no longer
    than to their deadline for what was sent. False: a request waits up to ``request_timeout_s``, and its answer is
    given however late."""
    queue_limit_mib: float = Field(default=512.0, gt=0)
    """Most tensors waiting in the router, beside ``queue_limit``: ten thousand small images are some 100 MiB, as many
    of 224 × 224 pixels would be 6 GiB."""
    priority_levels: int = Field(default=3, ge=1)
    """Priorities are 1, the highest, to this; any other counts as the default, as in Triton."""
    default_priority: int = Field(default=2, ge=1)
    """Priority of requests that name none: the middle, so that there is something above and below."""

    def _contradictions(self) -> Iterator[str]:
        if self.default_priority > self.priority_levels:
            yield (
                f"default_priority {self.default_priority} is beyond priority_levels {self.priority_levels}; lower it"
            )


class DecisionLogSettings(Section):
    """Decisions as JSON lines; see docs/architecture.md#the-decision-log."""

    directory: Path
    """Directory of the log; each router process has a file there."""
    sample_ratio: float = Field(default=0.01, gt=0, le=1)
    """Share of the decisions that are written. One takes some hundred microseconds, which all of them would pay at a
    thousand a second."""
    max_mib: float = Field(default=32.0, gt=0)
    """Largest size of a file; one older file of the same router is kept."""
    files: int = Field(default=16, ge=2)
    """Most files in the directory; at the start of a router the oldest beyond them go."""


class RouterSettings(Section):
    """How the router queues, batches and sends."""

    policy: PolicyName = "lert:brownout"
    """Policy that decides. The default is the one that was right and in time most often on real servers. Or
    ``fitted``, what ``policy_file`` holds, rule or learned; ``ppo-slim`` and ``ppo-paper``, which are learned; or
    another rule, ``SERVER_RULE[:WIDTH_RULE]``, see orchestrator.policies.registry; ``thrift`` and ``ppo-slim`` save
    joules."""
    policy_file: Path | None = None
    """File of a policy, see docs/learning.md; None: of a learned one, that which ships with the project. A router that
    runs follows it, see ``rollout``."""
    shadow_policy: PolicyName | None = None
    """Policy that is asked about every decision as well, compared and logged, and never obeyed; None: none is."""
    rollout: RolloutSettings | None = RolloutSettings()
    """How ``policy_file`` goes live when it has changed; None: at once, at the router's next start or reload."""
    binding: Literal["policy", "late", "early"] = "policy"
    """Moment at which a request gets its server and width: on arrival, when a server has room, or as the policy
    says."""
    guard: GuardSettings = GuardSettings()
    family: str | None = None
    """The family of requests that name none; None takes the only one there is."""
    family_weights: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    """What each family counts for where several compete, for the servers' time here and for their memory in their
    controllers; one that is not named counts for 1. With weights of 2 and 1 the first gets two thirds of what both want
    all of; what a family does not use is the others'."""
    deadline_ms: float = Field(default=100.0, gt=0)
    """Deadline of requests that bring none: ten times the latency of a small CNN on one core."""
    slack_margin: float = Field(default=1.25, ge=1)
    """Expected times are multiplied by this before they are held against a deadline, until so much was observed of a
    server and width that it is known how much 97 % of its answers take, see docs/policies.md#knobs. The least by which
    a request is given up."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """Time after which a caller gets an error whatever its deadline."""
    queue_limit: int = Field(default=10_000, ge=1)
    """Items waiting in the router; one more costs the least important its place, see docs/architecture.md#overload."""
    overload: OverloadSettings = OverloadSettings()
    in_flight_groups: int = Field(default=4, ge=1)
    """Batches a server holds at a time: one runs, the others wait so that it never idles while answers travel to
    callers and their next requests back. With two it does idle where batches are short, see
    docs/benchmarks/overhead-profile.md. Where what it has takes longer than 16 ms one waits, whatever this says: the
    more there are, the earlier a width is chosen and the more must be sent again when a server dies."""
    group_timeout_s: float = Field(default=10.0, gt=0)
    """A server that has not answered a batch after this is taken out until it answers blank items."""
    discovery_period_s: float = Field(default=2.0, gt=0)
    """How often servers are asked what they serve."""
    connect_timeout_s: float = Field(default=5.0, gt=0)
    """How long a server may take to say what it serves."""
    warm_up: bool = True
    """Run each newly found width a few times on blank items, so that the first decisions rest on measured times."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a request is sent at the most; see docs/router.md#attempts."""
    resolve_period_s: float = Field(default=10.0, gt=0)
    """How often host names of servers are looked up, each address of which is a server; once a second while one has
    none, and for a minute while a Triton behind one has not said what it is called."""
    retries: RetrySettings = RetrySettings()
    hedge: HedgeSettings | None = None
    """Second copies; None: there are none beside what is overdue."""
    ejection: EjectionSettings = EjectionSettings()
    probes: ProbeSettings | None = ProbeSettings()
    """Checks of servers by known answers; None: answers are believed as they come."""
    decision_log: DecisionLogSettings | None = None
    """Log of decisions; None: they are not written."""
    drain_s: float = Field(default=10.0, ge=0)
    """How long closing waits for answers under way; behind a gateway no longer than the rest of ``gateway.drain_s``."""
    seed: int = 0
    """Seed of policies that draw random numbers."""
    energy_weight: float = Field(default=2 / 15, ge=0, allow_inf_nan=False)
    """What joules count for where policies are fitted, judged and rolled out: accuracy, 0..1, that all the joules are
    worth which a request could cost. By default 15 % of them are worth 2 points; 0: accuracy in time is all that
    counts."""
    profile: Path | None = None
    """profile.json of 'slimsched profile', from which expected times and joules start; None: each width is warmed up
    and its energy unknown."""

    @property
    def stale_after_s(self) -> float:
        """What ``guard.stale_after_s`` says or stands for."""
        given_s = self.guard.stale_after_s
        return 2.5 * self.discovery_period_s if given_s is None else given_s

    def _contradictions(self) -> Iterator[str]:
        if self.stale_after_s <= self.discovery_period_s:
            yield (
                f"guard.stale_after_s {self.stale_after_s:g} is not above discovery_period_s "
                f"{self.discovery_period_s:g}, so that the fallback would decide between any two questions; raise it"
            )


class FleetSettings(Section):
    """The whole of fleet.yaml."""

    api_version: Literal["slimsched/v1"] = Field(default=API_VERSION, alias="apiVersion")
    """Version of the file's keys and of what they mean. A file without it is of the first, `slimsched/v1`."""
    servers: Annotated[tuple[ServerSettings, ...], Distinct(("name", "grpc"))] = Field(min_length=1)
    router: RouterSettings = RouterSettings()
    controller: ControllerSettings = ControllerSettings()
    gateway: GatewaySettings = GatewaySettings()
    families: Annotated[tuple[FamilySettings, ...], Distinct(("name", "variants.*.model"))] = ()
    """Families of models whose own configs don't say so."""

    @field_validator("families")
    @classmethod
    def _names_say_what_is_meant(cls, families: tuple[FamilySettings, ...]) -> tuple[FamilySettings, ...]:
        models = [variant.model for family in families for variant in family.variants]
        both = next((family.name for family in families if family.name in models), None)
        if both is not None:
            raise ValueError(f"{both!r} is a family and a model, and a caller's request would be of either; rename it")
        return families

    @model_validator(mode="before")
    @classmethod
    def _is_of_a_version_that_is_read(cls, values: Any) -> Any:
        """Refuse another version before its keys are looked at: they may all be others."""
        version = values.get("apiVersion", API_VERSION) if isinstance(values, dict) else API_VERSION
        if version != API_VERSION:
            raise ValueError(
                f"apiVersion is {quote_value(version)}, and this release reads {API_VERSION!r}; see docs/settings.md "
                "for what changed, or take the release that the file was written for"
            )
        return values

    def server(self, name: str) -> ServerSettings:
        """Return the server of a name; raises ConfigError, which lists those there are, when there is none."""
        for server in self.servers:
            if server.name == name:
                return server
        raise ConfigError(f"no server {name!r} in the fleet; it has {', '.join(s.name for s in self.servers)}")

    def _contradictions(self) -> Iterator[str]:
        budget_ms, deadline_ms = self.controller.deadline_budget_ms, self.router.deadline_ms
        if budget_ms is not None and budget_ms > deadline_ms:
            yield (
                f"controller.deadline_budget_ms {budget_ms:g} is above router.deadline_ms {deadline_ms:g}, of which it "
                "is a part; lower it, or leave it out for half of that"
            )
        users = defaultdict[str, list[str]](list)
        for key, address in self._addresses():
            users[address].append(key)
        for address, keys in users.items():
            if len(keys) > 1:
                yield f"{address} is given for {' and '.join(keys)}; each needs its own"

    def _addresses(self) -> Iterator[tuple[str, str]]:
        """Yield where something answers, by the key that says so; the gateway's own are compared in its section."""
        for key in ("grpc", "http", "metrics"):
            if (address := getattr(self.gateway, key)) is not None:
                yield f"gateway.{key}", address
        for server in self.servers:
            for key in ("grpc", "metrics", "controller_address"):
                if (address := getattr(server, key)) is not None:
                    yield f"{key.removesuffix('_address')} of server {server.name}", address

    def _refusals(self, policies: PolicyChecks) -> Iterator[str]:
        try:
            policies.of_router(self.router)
        except ConfigError as exc:
            yield f"router: {exc}"


def load_fleet(path: Path) -> FleetSettings:
    """Return the settings in a file; raises ConfigError when it can't be read, or says what is not allowed.

    Addresses and paths in the environment count in place of the file's; see orchestrator.config.environment.
    """
    return read_fleet(path, os.environ)[0]


def read_fleet(
    path: Path, environment: Mapping[str, str], policies: PolicyChecks | None = None
) -> tuple[FleetSettings, Mapping[Location, str]]:
    """Return the settings in a file, and where each that is no default was given; see ``read_settings``."""
    try:
        text = read_file(path, most_bytes=_MOST_BYTES).decode()
    except FileNotFoundError:
        raise ConfigError(f"no fleet file at {path}; 'slimsched local up' writes one") from None
    except OSError as exc:
        raise ConfigError(f"can't read {path} ({exc.strerror or exc})") from exc
    except UnicodeDecodeError:
        raise ConfigError(f"can't read {path}: it is no UTF-8 text; save it as such") from None
    return read_settings(
        FleetSettings, text, source=str(path), start="servers", environment=environment, policies=policies
    )


def parse_fleet(text: str, *, source: str = "fleet.yaml") -> FleetSettings:
    """Return the settings that the YAML ``text`` spells; raises ConfigError, which names ``source``."""
    return parse_settings(FleetSettings, text, source=source, start="servers")


def render_fleet(fleet: FleetSettings) -> str:
    """Return the settings as YAML, the version first, without what equals the defaults; ``parse_fleet`` inverts it."""
    values = {"apiVersion": fleet.api_version, **fleet.model_dump(mode="json", exclude_defaults=True)}
    text: str = yaml.safe_dump(values, sort_keys=False)
    return text
