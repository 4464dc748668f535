"""A scenario: a fleet, a workload and objectives, with what goes wrong; frozen values, and YAML that spells them.

Loads are relative to what the fleet can serve at its quickest widths, or at one width (``load_of_width``), so that a
scenario means the same on any machines. Whatever is impossible is refused with key, value and remedy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field

from orchestrator.config import ControllerSettings
from orchestrator.config.section import Name, Section, parse_settings
from orchestrator.errors import ConfigError
from orchestrator.policies.fleet.qualities import relative_quality
from orchestrator.simulation.scenario.fleet import (
    SimulatedModel,
    SimulatedServer,
    check_fleet,
    most_instances,
    qualities_of,
    with_relative_qualities,
)
from orchestrator.simulation.scenario.hosts import HostSettings, check_hosts
from orchestrator.simulation.scenario.popularity import mean_shares
from orchestrator.simulation.scenario.server_settings import ServerSettings, servers_of
from orchestrator.simulation.scenario.workload_settings import ClassSettings, WorkloadSettings
from orchestrator.snapshot import Family


class FamilySettings(Section):
    """One of several families; what it leaves out is as for all."""

    share: float = Field(default=1.0, gt=0, le=1e9)
    """Of the requests, relative to the others'."""
    weight: float = Field(default=1.0, gt=0)
    """As ``router.family_weights`` in fleet.yaml."""
    deadline_ms: float | None = Field(default=None, gt=0)
    """From arrival; None: that of the objectives."""
    min_accuracy: float = Field(default=0.0, allow_inf_nan=False)
    """Only widths of at least this accuracy, on the family's own scale; left out: any."""


class ObjectiveSettings(Section):
    """What is asked of the fleet, and the router's bounds; names as in fleet.yaml, and defaults for the most part."""

    deadline_ms: float = Field(default=100.0, gt=0)
    """From arrival."""
    min_accuracy: float = Field(default=0.0, allow_inf_nan=False)
    """Only widths of at least this accuracy, on their own scale; left out: any."""
    slack_margin: float = Field(default=1.25, ge=1)
    """Expected times are multiplied by this before they are held against a deadline."""
    in_flight_groups: int = Field(default=2, ge=1)
    """Batches a server holds at a time, of a width with one instance."""
    queue_limit: int = Field(default=10_000, ge=1)
    """Items waiting; one more costs the least important its place."""
    shed_late: bool = False
    """Whether deadlines are the callers' own, so that a request that can't be answered in time is given up."""
    request_timeout_s: float = Field(default=30.0, gt=0)
    """A request that has waited for longer is given up."""
    max_attempts: int = Field(default=3, ge=1)
    """How often a request is sent at the most."""
    energy_weight: float = Field(default=2 / 15, ge=0, allow_inf_nan=False)
    """Accuracy, 0..1, that most joules of a request are worth in utility; see orchestrator.simulation.utility."""


AskedT = TypeVar("AskedT", ObjectiveSettings, ClassSettings, FamilySettings)


class FaultSettings(Section):
    """What goes wrong, at random."""

    fail_every_s: float | None = Field(default=None, gt=0)
    """Mean time from a server's return to its next failure, exponential; None: never."""
    down_s: float = Field(default=5.0, gt=0)
    """Mean time until it returns, exponential."""
    notice_s: float = Field(default=0.5, ge=0)
    """Until the router has noticed; what it sends meanwhile is lost too, and sent again."""
    throttle_every_s: float | None = Field(default=None, gt=0)
    """Mean time between throttlings of a server, exponential; None: never."""
    throttle_factor: float = Field(default=2.0, ge=1)
    """Of service times meanwhile."""
    throttle_s: float = Field(default=10.0, gt=0)
    """Mean time it lasts, exponential."""
    heat_s: float | None = Field(default=None, gt=0)
    """In so long a server warms up with its use, and cools, to 63 %; None: its load never throttles it."""
    hot_above: float = Field(default=0.8, gt=0, le=1)
    """Part of its time from which on its use throttles it, by ``throttle_factor``, until it has cooled by a tenth."""


class SharingSettings(Section):
    """Other gateways on the same servers, as one of them sees it: a server goes to another one, and comes back.

    What it has it answers. One server stays at least. Load is relative to all of them.
    """

    away_every_s: float | None = Field(default=None, gt=0)
    """Mean time from a server's return until it goes again, exponential; None: there is no other gateway."""
    away_s: float = Field(default=5.0, gt=0)
    """Mean time until it comes back, exponential."""


class TelemetrySettings(Section):
    """What the router learns of its servers, and when."""

    learns: bool = True
    """Whether expected times are fitted to what is observed, as live; else they stay as they begin."""
    report_every_s: float | None = Field(default=None, gt=0)
    """The router learns what a server has done only by such reports, as one of many routers does; None: at once."""
    delay_s: float = Field(default=0.0, ge=0)
    """Age of a report."""
    lost_ratio: float = Field(default=0.0, ge=0, lt=1)
    """Of reports that never arrive."""
    read_every_s: float | None = Field(default=None, gt=0)
    """Devices are read this often, as controllers tell what they show; None: the router knows nothing of them."""
    noise: float = Field(default=0.0, ge=0, le=2)
    """σ of a lognormal factor on the speeds that the router assumes at the beginning."""


class ScenarioSettings(Section):
    """All of a scenario's file."""

    name: str = Field(min_length=1)
    """For tables and files."""
    servers: tuple[ServerSettings, ...] = Field(min_length=1)
    families: dict[Name, FamilySettings] = Field(default_factory=dict)
    """Those that share the servers. Without any all widths are of one family, whatever profiles call it."""
    workload: WorkloadSettings = WorkloadSettings()
    objectives: ObjectiveSettings = ObjectiveSettings()
    faults: FaultSettings = FaultSettings()
    telemetry: TelemetrySettings = TelemetrySettings()
    sharing: SharingSettings = SharingSettings()
    hosts: tuple[HostSettings, ...] = ()
    """Machines that servers and router share; a server that is on none is one of its own."""
    controller: ControllerSettings | None = None
    """As in fleet.yaml: a controller beside each server loads widths and scales them; None: what is there stays."""

    def _contradictions(self) -> Iterator[str]:
        check_hosts(self.hosts, [server.name for server in self.servers])
        for server in self.servers:
            for family in server.families or ():
                if family not in self.families:
                    yield f"server {server.name!r} has widths of {family!r}; name it in families as well"
        for server in self.servers if self.controller is not None else ():
            if server.limits is None or server.limits.memory_budget_mib is None:
                yield f"server {server.name!r} has a controller and no limits.memory_budget_mib; name what it may use"
        if self.families and self.workload.classes:
            yield "workload.classes are of one family; of several give each its own deadline_ms and min_accuracy"
        if self.workload.classes and self.workload.deadlines_ms is not None:
            yield "workload.deadlines_ms: there are classes; give each its own deadline_ms"
        if self.families and self.objectives.min_accuracy != 0:
            yield "objectives.min_accuracy is of one family's scale; of several give each its own"

    def family_shares(self) -> dict[Family, float] | None:
        """Return the part of all requests that is each family's, by name, ascending; None where there is one family."""
        if not self.families:
            return None
        names = sorted(self.families)
        workload, shares = self.workload, [self.families[name].share for name in names]
        means = mean_shares(shares, amplitude=workload.drift_amplitude, periods=workload.drift_periods)
        return {Family(name): share for name, share in zip(names, means, strict=True)}

    def core_ratios(self, host: HostSettings) -> dict[str, float]:
        """Return which part of their time batches need a core for, by the names of a host's servers."""
        return {
            name: host.servers[entry.name]
            for entry in self.servers
            if entry.name in host.servers
            for name in entry.names()
        }

    def with_workload(self, **changes: Any) -> ScenarioSettings:
        """Return the scenario with some settings of its workload changed, which are not checked again."""
        return self.model_copy(update={"workload": self.workload.model_copy(update=changes)})


def load_scenario(path: Path) -> tuple[ScenarioSettings, tuple[SimulatedServer, ...]]:
    """Return a scenario and its fleet; files that it names are read, and qualities of any scale become relative.

    Raises:
        ConfigError: when a file can't be read or used, or a key or value is not allowed.
    """
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read the scenario in {path} ({exc})") from exc
    return parse_scenario(text, source=str(path), folder=path.parent)


def parse_scenario(text: str, *, source: str, folder: Path) -> tuple[ScenarioSettings, tuple[SimulatedServer, ...]]:
    """Return a scenario and its fleet from YAML; files that it names are relative to ``folder``, and read.

    Raises:
        ConfigError: as ``load_scenario``, calling the text ``source``.
    """
    settings = parse_settings(ScenarioSettings, text, source=source, start="name")
    if settings.workload.file is not None:
        settings = settings.with_workload(file=folder / settings.workload.file)
    hosts = tuple(host.with_files(folder) for host in settings.hosts)
    settings = settings.model_copy(update={"hosts": hosts})
    fleet = tuple(server for entry in settings.servers for server in servers_of(entry, folder, settings.families))
    if settings.controller is None:
        fleet = tuple(replace(server, limits=None) for server in fleet)
    check_fleet(fleet)
    known = qualities_of(fleet)
    if settings.families and settings.workload.deadlines_ms is not None:
        raise ConfigError(f"{source}: workload.deadlines_ms: there are families; give each its own deadline_ms")
    if settings.workload.callers is not None and settings.telemetry.report_every_s is not None:
        raise ConfigError(
            f"{source}: telemetry.report_every_s: reports are drawn beforehand, and how long a run takes with "
            "workload.callers is not known; leave one of them out"
        )
    for name in settings.families:
        if name not in known:
            raise ConfigError(f"{source}: families: no server has widths of {name}; there are {', '.join(known)}")
    objectives = settings.objectives
    if not settings.families:
        (qualities,) = known.values()
        objectives = _with_relative(objectives, qualities, f"{source}: objectives")
        classes = settings.workload.classes
        where = f"{source}: workload.classes"
        settings = settings.with_workload(
            classes=tuple(_with_relative(own, qualities, f"{where}.{index}") for index, own in enumerate(classes))
        )
    families = {
        name: _with_relative(family, known[Family(name)], f"{source}: families.{name}")
        for name, family in settings.families.items()
    }
    changed = settings.model_copy(update={"objectives": objectives, "families": families})
    return changed, with_relative_qualities(fleet)


def _with_relative(asked: AskedT, qualities: Sequence[float], where: str) -> AskedT:
    """Return what requests ask for with the least quality that counts on the scale of policies."""
    if "min_accuracy" not in asked.model_fields_set:
        return asked
    if asked.min_accuracy > max(qualities):
        raise ConfigError(
            f"{where}.min_accuracy is {asked.min_accuracy:g}, the most that any width has is {max(qualities):g}; lower "
            "it"
        )
    least = max(0.0, relative_quality(asked.min_accuracy, qualities))
    return asked.model_copy(update={"min_accuracy": least})


def eligible_fleet(settings: ScenarioSettings, servers: Sequence[SimulatedServer]) -> tuple[SimulatedServer, ...]:
    """Return a scenario's fleet with only those widths that requests take."""

    def is_taken(model: SimulatedModel) -> bool:
        bound = settings.families.get(model.family, settings.objectives)
        return model.accuracy >= bound.min_accuracy

    return tuple(replace(server, models=tuple(filter(is_taken, server.models))) for server in servers)


def fullest_fleet(settings: ScenarioSettings, servers: Sequence[SimulatedServer]) -> tuple[SimulatedServer, ...]:
    """Return a scenario's eligible fleet with as many instances as controllers may give: what bounds are of.

    So many instances on one device, which hinder each other, are one that is as quick as all of them.
    """
    taken = eligible_fleet(settings, servers)
    if settings.controller is None:
        return taken

    def all_of(server: SimulatedServer, model: SimulatedModel) -> SimulatedModel:
        count = most_instances(server)
        return replace(model.slowed(server.slow_down(count) / count), instances=1)

    return tuple(replace(server, models=tuple(all_of(server, m) for m in server.models)) for server in taken)
