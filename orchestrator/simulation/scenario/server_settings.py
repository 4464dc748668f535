"""The servers of a scenario as its file spells them: written out, or measured by a profile."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from orchestrator.config import LimitSettings
from orchestrator.config.section import Name, Section
from orchestrator.errors import ConfigError
from orchestrator.profile.document import read_profile
from orchestrator.shipped import find_shipped
from orchestrator.simulation.scenario.fleet import (
    LOAD_S,
    ONE_FAMILY,
    SCALE_S,
    UNLOAD_S,
    SimulatedModel,
    SimulatedServer,
    families_of,
    linear_model,
    server_from_profile,
)
from orchestrator.snapshot import ServerName

MIB = 1 << 20
_LONGEST_MS: Final = 1e9
"""Above a week; capacities of fleets are reckoned with ratios of these."""
Percent = Annotated[int, Field(ge=1, le=100)]


class WidthSettings(Section):
    """A width of a server that is written out."""

    accuracy: float | None = Field(default=None, allow_inf_nan=False)
    """Of any scale, the larger the better; None: the width itself as a ratio, a placeholder."""
    item_ms: float = Field(gt=0, le=_LONGEST_MS)
    """An item adds this to a batch."""
    group_ms: float = Field(default=0, ge=0, le=_LONGEST_MS)
    """And this a batch takes besides."""
    max_batch_size: int = Field(default=32, ge=1, le=4096)
    """Items of a batch at the most."""
    instances: int = Field(default=1, ge=1, le=1024)
    """That serve it."""
    item_mj: float | None = Field(default=None, ge=0)
    """Millijoules that an item adds, above idle; None: unknown."""
    group_mj: float = Field(default=0, ge=0)
    """And a batch besides."""
    sigma: float = Field(default=0, ge=0, le=2)
    """Of the lognormal factor of service times."""
    instance_mib: float | None = Field(default=None, gt=0)
    """Memory of an instance; needed where there is a controller."""
    load_ms: float = Field(default=1e3 * LOAD_S, gt=0)
    """A load or a full reload takes so long."""
    scale_ms: float = Field(default=1e3 * SCALE_S, gt=0)
    """And a change of its instances in place."""
    unload_ms: float = Field(default=1e3 * UNLOAD_S, gt=0)
    """And an unload."""


class ServerSettings(Section):
    """One server, or ``count`` like ones."""

    name: Name
    """With ``count`` above 1 a number is put behind it."""
    count: int = Field(default=1, ge=1, le=100_000)
    """How many of them."""
    profile: Path | None = None
    """A profile.json, relative to the scenario's file, or one that ships; else ``widths`` or ``families``."""
    profile_server: str | None = None
    """Which server of the profile; None: its only one."""
    widths: dict[Percent, WidthSettings] | None = None
    """By percentage."""
    families: dict[Name, dict[Percent, WidthSettings]] | None = None
    """The widths of each family, where the scenario has several."""
    idle_w: float | None = Field(default=None, ge=0)
    """Drawn while up; None: what the profile says, or unknown."""
    contention: float = Field(default=0.0, ge=0, le=1)
    """Part of its time for which a batch needs the device that instances share: beside n others it takes 1 + contention
    · n times as long. 0: they do not hinder each other; 1: a device gains nothing by more of them."""
    dynamic_batching: bool = False
    """Batches of a width that wait together run as one, as by Triton's dynamic batcher without a delay; else each that
    the router sends runs by itself."""
    limits: LimitSettings | None = None
    """As in fleet.yaml, for its controller; needed where ``controller`` is given."""

    def _contradictions(self) -> Iterator[str]:
        if (self.profile is not None) + bool(self.widths) + bool(self.families) != 1:
            yield f"server {self.name!r} needs either profile or widths, or of several families, families"

    def names(self) -> list[str]:
        """Return the name of each of them."""
        if self.count == 1:
            return [self.name]
        digits = len(str(self.count - 1))
        return [f"{self.name}{index:0{digits}d}" for index in range(self.count)]


def servers_of(settings: ServerSettings, folder: Path, families: Collection[str]) -> list[SimulatedServer]:
    """Return the servers of an entry, with the widths of these families; without any, of the only one that they have.

    The profile that an entry may name is relative to ``folder``.

    Raises:
        ConfigError: when the profile can't be read or has no such server, or it is not clear whose widths they are.
    """
    if families and settings.widths:
        raise ConfigError(f"servers: {settings.name}: has widths of no family; give them under its families")
    one = _server(settings, folder)
    if families:
        one = replace(one, models=tuple(model for model in one.models if model.family in families))
    elif len(found := families_of([one])) > 1:
        raise ConfigError(f"servers: {settings.name}: has {', '.join(found)}; name those to simulate in families")
    else:
        one = replace(one, models=tuple(replace(model, family=ONE_FAMILY) for model in one.models))
    one = replace(
        one, contention=settings.contention, limits=settings.limits, dynamic_batching=settings.dynamic_batching
    )
    return [replace(one, name=ServerName(name)) for name in settings.names()]


def _written(family: str, widths: Mapping[int, WidthSettings]) -> list[SimulatedModel]:
    return [_one_width(family, width, written) for width, written in sorted(widths.items())]


def _one_width(family: str, width: int, written: WidthSettings) -> SimulatedModel:
    model = linear_model(
        width,
        per_item_s=written.item_ms / 1e3,
        fixed_s=written.group_ms / 1e3,
        max_batch_size=written.max_batch_size,
        accuracy=written.accuracy,
        per_item_j=None if written.item_mj is None else written.item_mj / 1e3,
        fixed_j=written.group_mj / 1e3,
        instances=written.instances,
        sigma=written.sigma,
        family=family,
    )
    return replace(
        model,
        instance_bytes=int((written.instance_mib or 0) * MIB),
        load_s=written.load_ms / 1e3,
        scale_s=written.scale_ms / 1e3,
        unload_s=written.unload_ms / 1e3,
    )


def _server(settings: ServerSettings, folder: Path) -> SimulatedServer:
    if settings.profile is None:
        written = settings.families or {ONE_FAMILY: settings.widths or {}}
        models = [model for family, widths in sorted(written.items()) for model in _written(family, widths)]
        return SimulatedServer(ServerName(settings.name), tuple(models), settings.idle_w)
    profile = read_profile(find_shipped(settings.profile, folder))
    names = ", ".join(s.name for s in profile.servers)
    if settings.profile_server is None and len(profile.servers) > 1:
        raise ConfigError(f"servers: {settings.name}: name one of the profile's servers in profile_server: {names}")
    found = profile.servers[0] if settings.profile_server is None else profile.server(settings.profile_server)
    if found is None:
        raise ConfigError(
            f"servers: {settings.name}: no server {settings.profile_server!r} in the profile, only {names}"
        )
    server = server_from_profile(found, settings.name)
    idle_w = server.idle_w if settings.idle_w is None else settings.idle_w
    return SimulatedServer(server.name, server.models, idle_w)
