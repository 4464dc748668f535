"""What happens to a fleet whatever its router decides: arrivals, noise, uniform draws, faults and stalls, drawn before.

Each kind has a random stream of its own, spawned from one seed, so that a scenario with failures has the arrivals of
the same scenario without. Policies that are given the same trace meet the same world.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ConfigError
from orchestrator.simulation.scenario.capacity import capacity_rps
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.hosts import HostSettings
from orchestrator.simulation.scenario.popularity import draw_families
from orchestrator.simulation.scenario.settings import (
    FaultSettings,
    ScenarioSettings,
    SharingSettings,
    TelemetrySettings,
    eligible_fleet,
)
from orchestrator.simulation.scenario.workloads import scaled
from orchestrator.simulation.world import columns as sim

Floats = NDArray[np.float64]

COMMON_STEPS: Final = 8
"""Of ``Trace.common``, in the time in which it is mostly forgotten."""
_MOST_DRAIN_S = 60.0
_MOST_DRIFTS = 1e6
"""Times that what a host's batches have in common is forgotten in a trace; it takes memory for each."""
_OF_REQUESTS: Final = ("arrived_s", "deadline_s", "priority", "items", "family", "of_class", "noise", "wakes")


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """One realisation of a scenario, in arrays of float64, [requests] where nothing else is said."""

    arrived_s: Floats  # ascending
    deadline_s: Floats
    priority: Floats  # 1 is the highest
    items: Floats
    family: Floats  # by index, in the order of names
    of_class: Floats  # by index; 0 where there are none
    noise: Floats  # standard normal
    wakes: Floats  # exponential of mean 1
    uniforms: Floats  # [2, requests], in [0, 1)
    schedule: Floats  # [EVENT_FIELDS, entries], by time
    believed_speed: Floats  # [servers], factors on the service times that the router assumes at the beginning
    common: Floats  # [hosts, steps], normal scores of what a host's batches have in common; see COMMON_STEPS
    rate_rps: float  # mean items a second that the arrivals were scaled to


def draw_trace(settings: ScenarioSettings, servers: Sequence[SimulatedServer], seed: int) -> Trace:
    """Return the trace of a seed; equal seeds give equal traces.

    Raises:
        ConfigError: when the load can't be scaled, because no server serves what is asked for.
    """
    arrivals, noise, uniforms, faults, reports, beliefs, priorities, hosts, families, deadlines, classes, sharing = (
        np.random.Generator(np.random.PCG64(child)) for child in np.random.SeedSequence(seed).spawn(12)
    )
    workload, objectives = settings.workload, settings.objectives
    shares = settings.family_shares()
    most_rps = capacity_rps(eligible_fleet(settings, servers), width=workload.load_of_width, shares=shares)
    rate_rps = workload.load_ratio * most_rps
    count = workload.requests
    arrived_s = scaled(workload.shape(), count, rate_rps / workload.items, arrivals)
    # Faults and reports go on for a while after the last arrival, in which the queue drains; those that lie after the
    # last answer never happen (orchestrator.simulation.world.loop).
    horizon_s = float(arrived_s[-1]) + min(objectives.request_timeout_s, _MOST_DRAIN_S)
    stalls, commons, wakes = hosts.spawn(3)
    entries = [
        *_faults(settings.faults, len(servers), horizon_s, faults),
        *_reports(settings.telemetry, len(servers), _reported_s(settings, servers, float(arrived_s[-1])), reports),
        *_shared(settings.sharing, len(servers), horizon_s, sharing),
        *_stalls(settings.hosts, horizon_s, stalls),
        *_competing(settings.hosts, horizon_s),
    ]
    schedule = np.zeros((sim.EVENT_FIELDS, len(entries)))
    fields = [sim.AT_S, sim.EVENT_SERVER, sim.KIND, sim.VALUE]
    schedule[fields] = np.array(sorted(entries), dtype=float).reshape(-1, len(fields)).T
    schedule[sim.ORDER] = np.arange(len(entries))
    sigma = settings.telemetry.noise
    family = np.zeros(count)
    if shares is not None:
        own = [settings.families[name].share for name in shares]
        drift = {"amplitude": workload.drift_amplitude, "periods": workload.drift_periods}
        family = draw_families(arrived_s / max(float(arrived_s[-1]), 1e-300), own, families, **drift)
    of_class = np.zeros(count)
    if workload.classes:
        of_class = _drawn({index: own.share for index, own in enumerate(workload.classes)}, count, classes)
    return Trace(
        arrived_s=arrived_s,
        deadline_s=arrived_s + _allowed_s(settings, of_class if workload.classes else family, deadlines),
        family=family,
        of_class=of_class,
        priority=np.ones(count) if workload.priorities is None else _drawn(workload.priorities, count, priorities),
        items=np.full(count, float(workload.items)),
        noise=noise.standard_normal(count),
        wakes=wakes.standard_exponential(count) if settings.hosts else np.ones(count),
        uniforms=uniforms.random((2, count)),
        schedule=schedule,
        believed_speed=np.exp(sigma * beliefs.standard_normal(len(servers)) - sigma * sigma / 2),
        common=_common(settings.hosts, horizon_s, commons),
        rate_rps=rate_rps,
    )


def only_family(trace: Trace, family: int) -> Trace:
    """Return the requests of one family, by index, at least one, in the same world; ``rate_rps`` stays that of all."""
    kept = trace.family == family
    own = {name: getattr(trace, name)[kept] for name in _OF_REQUESTS}
    return replace(trace, uniforms=trace.uniforms[:, kept], **own)


def _allowed_s(settings: ScenarioSettings, queue: Floats, rng: np.random.Generator) -> Floats:
    """Return the time from arrival to deadline of each request, whose classes are by index."""
    if settings.workload.deadlines_ms is not None:
        return _drawn(settings.workload.deadlines_ms, len(queue), rng) / 1e3
    of_families = [settings.families[name] for name in sorted(settings.families)]
    given_ms = [own.deadline_ms for own in settings.workload.classes or of_families] or [None]
    allowed_s = np.array([(settings.objectives.deadline_ms if ms is None else ms) / 1e3 for ms in given_ms])
    return np.asarray(allowed_s[queue.astype(int)])


def _drawn(shares: Mapping[int, float] | Mapping[float, float], count: int, rng: np.random.Generator) -> Floats:
    """Return so many numbers, each as often as its share says."""
    total = sum(shares.values())
    return rng.choice(np.array(list(shares), float), count, p=[share / total for share in shares.values()])


Entry = tuple[float, float, float, float]
"""When, server or host, kind, value."""


def _faults(settings: FaultSettings, servers: int, horizon_s: float, rng: np.random.Generator) -> list[Entry]:
    entries: list[Entry] = []
    for server, own in enumerate(rng.spawn(servers)):
        failures, throttles = own.spawn(2)
        for at_s, back_s in _spells(settings.fail_every_s, settings.down_s, horizon_s, failures):
            entries += [(at_s, server, sim.FAILS, 0.0), (back_s, server, sim.RETURNS, 0.0)]
            if at_s + settings.notice_s < back_s:
                entries.append((at_s + settings.notice_s, server, sim.NOTICED, 0.0))
        for at_s, back_s in _spells(settings.throttle_every_s, settings.throttle_s, horizon_s, throttles):
            entries += [(at_s, server, sim.THROTTLES, settings.throttle_factor), (back_s, server, sim.THROTTLES, 1.0)]
    return entries


def _spells(
    every_s: float | None, lasts_s: float, horizon_s: float, rng: np.random.Generator
) -> Iterator[tuple[float, float]]:
    """Yield begin and end of what comes again and again, after pauses of ``every_s`` on average; None: never."""
    end_s = 0.0
    while every_s is not None and (begin_s := end_s + rng.exponential(every_s)) <= horizon_s:
        end_s = begin_s + rng.exponential(lasts_s)
        yield begin_s, end_s


def _shared(settings: SharingSettings, servers: int, horizon_s: float, rng: np.random.Generator) -> list[Entry]:
    """Return when servers go to other gateways and come back; a server that were the last to go stays."""
    spells = [
        (*spell, float(server))
        for server, own in enumerate(rng.spawn(servers))
        for spell in _spells(settings.away_every_s, settings.away_s, horizon_s, own)
    ]
    entries: list[Entry] = []
    away: list[float] = []
    for at_s, back_s, server in sorted(spells):
        away = [end_s for end_s in away if end_s > at_s]
        if len(away) + 1 < servers:
            away.append(back_s)
            entries += [(at_s, server, sim.LEAVES, 0.0), (back_s, server, sim.COMES_BACK, 0.0)]
    return entries


def _reported_s(settings: ScenarioSettings, servers: Sequence[SimulatedServer], last_s: float) -> float:
    """Return until when servers report: without it nothing would be sent any more, so as long as a queue may drain.

    That is no longer than one server needs for all requests, one after the other, at its slowest.
    """
    alone_s = max((max(model.service_s) for server in servers for model in server.models), default=0.0)
    drains_s = settings.workload.requests * settings.workload.items * alone_s
    return last_s + min(settings.objectives.request_timeout_s, max(_MOST_DRAIN_S, drains_s))


def _reports(settings: TelemetrySettings, servers: int, horizon_s: float, rng: np.random.Generator) -> list[Entry]:
    if settings.report_every_s is None:
        return []
    entries: list[Entry] = []
    for server in range(servers):
        at_s = np.arange(rng.random(), horizon_s / settings.report_every_s) * settings.report_every_s
        kept = at_s[rng.random(len(at_s)) >= settings.lost_ratio] + settings.delay_s
        entries += [(float(t), float(server), sim.REPORTS, settings.delay_s) for t in kept]
    return entries


def _stalls(hosts: Sequence[HostSettings], horizon_s: float, rng: np.random.Generator) -> list[Entry]:
    entries: list[Entry] = []
    for host, (settings, own) in enumerate(zip(hosts, rng.spawn(len(hosts)), strict=True)):
        stalls = settings.stalls
        if stalls is None:
            continue
        times, lengths = own.spawn(2)
        count = int(times.poisson(horizon_s / stalls.every_s))
        begins_s = np.sort(times.random(count)) * horizon_s
        kinds = {"both": (sim.STALLS_SERVERS, sim.STALLS_ROUTER), "servers": (sim.STALLS_SERVERS,)}
        for begin_s, lasts_s in zip(begins_s.tolist(), stalls.draw_lengths_s(count, lengths).tolist(), strict=True):
            for kind in kinds.get(stalls.stops, (sim.STALLS_ROUTER,)):
                entries += [(begin_s, host, kind, 1.0), (begin_s + lasts_s, host, kind, -1.0)]
    return entries


def _competing(hosts: Sequence[HostSettings], horizon_s: float) -> list[Entry]:
    return [
        (at_s, host, sim.COMPETES, processes)
        for host, settings in enumerate(hosts)
        for at_s, processes in settings.competing
        if at_s <= horizon_s
    ]


def _common(hosts: Sequence[HostSettings], horizon_s: float, rng: np.random.Generator) -> Floats:
    """Return stationary first-order autoregressions of mean 0 and variance 1, padded to the longest of them.

    Raises:
        ConfigError: when one of them drifts too often to be kept.
    """
    for index, settings in enumerate(hosts):
        drift_s = math.inf if settings.residuals is None else settings.residuals.drift_s
        if horizon_s > _MOST_DRIFTS * drift_s:
            raise ConfigError(
                f"hosts[{index}].residuals.drift_s = {drift_s:g} is too short for the {horizon_s:g} s in which "
                f"requests come; give at least {horizon_s / _MOST_DRIFTS:.3g}, or raise workload.load_ratio"
            )
    steps = [
        0 if host.residuals is None else 1 + int(COMMON_STEPS * horizon_s / host.residuals.drift_s) for host in hosts
    ]
    found = np.zeros((len(hosts), max(steps, default=0)))
    kept = math.exp(-1 / COMMON_STEPS)
    for host, (count, own) in enumerate(zip(steps, rng.spawn(len(hosts)), strict=True)):
        shocks = own.standard_normal(count)
        shocks[1:] *= math.sqrt(1 - kept * kept)
        score = 0.0
        for step, shock in enumerate(shocks.tolist()):
            score = kept * score + shock
            found[host, step] = score
    return found
