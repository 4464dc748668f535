"""Makes the profile of what was measured: pure.

The energy of a batch is what its server drew above idle while batches of that size ran without a pause, over their
number; all windows of a cell are added up before idle power is taken off, because the difference of two noisy numbers
must not be cut at 0 window by window. Where no counter can be read a power model stands in, labelled so: the
difference of busy and idle power for as long as a batch takes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from orchestrator.config import PowerSettings
from orchestrator.errors import ConfigError
from orchestrator.profile.document import (
    TAKE_AGAIN,
    BatchProfile,
    Conditions,
    EnergySource,
    IdlePower,
    ModelChanges,
    ModelProfile,
    Origin,
    Profile,
    ServerProfile,
    Timing,
    batch_ladder,
)
from orchestrator.profile.fit import fit_latency
from orchestrator.profile.start import find_start
from orchestrator.profiling.records import Cycle, ModelKey
from orchestrator.profiling.sampling import Cell, Visit, Window, quantile
from orchestrator.snapshot import ServedModel, ServerName

SOURCES = {
    "nvml-energy-counter": EnergySource.ENERGY_COUNTER,
    "nvml-power-integrated": EnergySource.INSTANT,
    "rapl": EnergySource.RAPL,
}
"""Sources of energy by the name that telemetry gives them; one of any other name is of another package."""


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What is known of a server besides measurements.

    Attributes:
        slowdown: The emulated factor; None when it is as fast as its machine.
        memory_bytes: Memory of the device or host; None when unreadable.
        power: The model of its power to use without a counter; None when fleet.yaml states none.
        no_counter: Why no counter is read; empty where one may be.
    """

    name: ServerName
    device: Literal["cpu", "gpu"]
    description: str
    slowdown: float | None
    triton_version: str
    memory_bytes: int | None
    power: PowerSettings | None
    no_counter: str
    models: tuple[ServedModel, ...]


def assemble_profile(
    servers: Sequence[ServerFacts],
    conditions: Conditions,
    *,
    visits: Mapping[Cell, Sequence[Visit]],
    idles: Mapping[ServerName, Sequence[Window]],
    cycles: Mapping[ModelKey, Sequence[Cycle]],
) -> Profile:
    """Return the profile; every cell must have been visited."""
    return Profile(
        version=1,
        conditions=conditions,
        servers=tuple(
            _server(server, visits, find_idle(server, idles.get(server.name, ())), cycles)
            for server in sorted(servers, key=lambda each: each.name)
        ),
    )


def keep_others(taken: Profile, earlier: Profile) -> Profile:
    """Return a profile with the servers of an earlier one that it lacks.

    Its conditions say of each when and where it was measured.
    """
    again = {server.name for server in taken.servers}
    kept = [server for server in earlier.servers if server.name not in again]
    then = earlier.conditions
    about = [text for text in then.assumptions if text.split(" ", 1)[0] not in again]
    for server in kept:
        begins = f"{server.name} was measured"
        if not any(text.startswith(f"{begins} ") for text in about):
            about.append(f"{begins} until {then.date} by {then.host}")
    return replace(
        taken,
        conditions=replace(taken.conditions, assumptions=(*taken.conditions.assumptions, *about)),
        servers=tuple(sorted((*taken.servers, *kept), key=lambda each: each.name)),
    )


def check_binding(profile: Profile, server: ServerFacts, *, source: str) -> None:
    """Check that a profile is about a server, and all models that it serves, as they are now.

    Raises:
        ConfigError: when it lacks the server or one of its models, or was taken of other weights, another Triton or
            another emulation.
    """
    entry = profile.server(server.name)
    if entry is None:
        raise ConfigError(f"{source}: it has no server {server.name}; {TAKE_AGAIN}")
    if entry.triton_version != server.triton_version:
        raise ConfigError(
            f"{source}: server {server.name}: triton_version {entry.triton_version} is not the server's "
            f"{server.triton_version}; {TAKE_AGAIN}"
        )
    for model in server.models:
        start = find_start(profile, server.name, model, slowdown=server.slowdown)
        if isinstance(start, str):
            raise ConfigError(f"{source}: {start}")


def find_idle(server: ServerFacts, windows: Sequence[Window]) -> IdlePower:
    """Return a server's idle power: by the counter, else of its power model, else unknown with the reason."""
    energy_j, duration_s, source = _pool(windows)
    if energy_j is not None and source is not None:
        return IdlePower(energy_j / duration_s, source, "")
    if server.power is not None:
        return IdlePower(server.power.idle_w, EnergySource.ESTIMATED, "")
    return IdlePower(None, None, _reason(server, windows))


def _server(
    server: ServerFacts,
    visits: Mapping[Cell, Sequence[Visit]],
    idle: IdlePower,
    cycles: Mapping[ModelKey, Sequence[Cycle]],
) -> ServerProfile:
    return ServerProfile(
        name=server.name,
        device=server.device,
        description=server.description,
        origin=Origin.MEASURED if server.slowdown is None else Origin.EMULATED,
        slowdown=server.slowdown,
        triton_version=server.triton_version,
        memory_bytes=server.memory_bytes,
        idle=idle,
        models=tuple(
            _model(server, model, visits, idle, cycles.get((server.name, model.name), ()))
            for model in sorted(server.models, key=lambda each: each.name)
        ),
    )


def _model(
    server: ServerFacts,
    model: ServedModel,
    visits: Mapping[Cell, Sequence[Visit]],
    idle: IdlePower,
    cycles: Sequence[Cycle],
) -> ModelProfile:
    batches = tuple(
        _batch(server, items, visits[Cell(server.name, model.name, items)], idle)
        for items in batch_ladder(model.max_batch_size)
    )
    return ModelProfile(
        name=model.name,
        family=model.family,
        width=model.width,
        accuracy=model.accuracy,
        flops=model.flops,
        max_batch_size=model.max_batch_size,
        instances=model.instances,
        sha256=model.sha256,
        line=fit_latency([(batch.items, batch.mean_s) for batch in batches]),
        changes=_changes(cycles),
        batches=batches,
    )


def _batch(server: ServerFacts, items: int, visits: Sequence[Visit], idle: IdlePower) -> BatchProfile:
    times_s = [latency_s for visit in visits for latency_s in visit.latencies_s]
    mean_s = math.fsum(times_s) / len(times_s)
    energy_j, source, reason = _batch_energy(server, visits, idle, mean_s=mean_s)
    busy_s = [each_s for visit in visits for each_s in visit.busy_s]
    rested_s = [latency_s for visit in visits for latency_s in visit.rested_s]
    return BatchProfile(
        items=items,
        n=len(times_s),
        mean_s=mean_s,
        std_s=statistics.stdev(times_s) if len(times_s) > 1 else 0.0,
        p50_s=quantile(times_s, 0.5),
        p99_s=quantile(times_s, 0.99),
        energy_j=energy_j,
        energy_source=source,
        energy_reason=reason,
        busy_s=statistics.fmean(busy_s) if busy_s else None,
        rested_s=statistics.fmean(rested_s) if rested_s else None,
    )


def _batch_energy(
    server: ServerFacts, visits: Sequence[Visit], idle: IdlePower, *, mean_s: float
) -> tuple[float | None, EnergySource | None, str]:
    """Return joules of a batch above idle with their source, or the reason why they are unknown."""
    windows = [visit.window for visit in visits if visit.window is not None]
    energy_j, duration_s, source = _pool(windows)
    if energy_j is not None and source is not None and idle.source is source and idle.power_w is not None:
        batches = sum(len(visit.latencies_s) for visit in visits if visit.window is not None)
        return max(0.0, energy_j - idle.power_w * duration_s) / batches, source, ""
    if server.power is not None:
        return (server.power.busy_w - server.power.idle_w) * mean_s, EnergySource.ESTIMATED, ""
    return None, None, _reason(server, windows)


def _pool(windows: Sequence[Window]) -> tuple[float | None, float, EnergySource | None]:
    """Return the energy and duration of all windows together; None unless all are readable and of one known source."""
    sources = {SOURCES.get(window.source, EnergySource.PLUGIN) for window in windows}
    readings_j = [window.energy_j for window in windows if window.energy_j is not None]
    duration_s = math.fsum(window.duration_s for window in windows)
    source = next(iter(sources)) if len(sources) == 1 else None
    if source is None or len(readings_j) < len(windows) or duration_s <= 0:
        return None, duration_s, None
    return math.fsum(readings_j), duration_s, source


def _reason(server: ServerFacts, windows: Sequence[Window]) -> str:
    reason = server.no_counter or next((window.reason for window in windows if window.reason), "")
    return f"{reason or 'no counter was read over a whole window'}; fleet.yaml states no 'power' for the server"


def _changes(cycles: Sequence[Cycle]) -> ModelChanges | None:
    if not cycles:
        return None
    known = [cycle for cycle in cycles if cycle.instance_bytes is not None]
    memory = known[0] if known else cycles[0]
    sizes = [cycle.instance_bytes for cycle in known if cycle.instance_bytes is not None]
    return ModelChanges(
        load=_timing([cycle.load_s for cycle in cycles]),
        unload=_timing([cycle.unload_s for cycle in cycles]),
        reload=_timing([cycle.reload_s for cycle in cycles]),
        scale_up=_timing([cycle.scale_up_s for cycle in cycles]),
        scale_down=_timing([cycle.scale_down_s for cycle in cycles]),
        instance_bytes=max(sizes, default=None),
        memory_source=memory.memory_source,
        memory_reason=memory.memory_reason,
    )


def _timing(times_s: Sequence[float]) -> Timing:
    return Timing(len(times_s), math.fsum(times_s) / len(times_s), max(times_s))
