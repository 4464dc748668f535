"""The servers of a simulated fleet, as values: what they are, made from a profile or from a few numbers.

Service times are the measured means of each batch size, with straight lines between them: a knee that a fit a·n + b
misses is in them, and the router, which learns such a fit, meets what it would meet. Their spread comes from the
measured 99th percentiles, as a lognormal factor of mean 1.

Where a profile says what a batch takes of a server that is kept busy, that is its service time, and what its call
takes beyond that is a delay of its answer. Else all of the call's latency is service time, and no answer travels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np

from orchestrator.config import LimitSettings
from orchestrator.errors import ConfigError
from orchestrator.policies.fleet.qualities import relative_quality
from orchestrator.profile.document import ModelProfile, ServerProfile
from orchestrator.profile.fit import LatencyFit
from orchestrator.profile.start import PRIOR_ITEMS, prior_fit, weigh_batches
from orchestrator.snapshot import Family, ServerName, Width

ONE_FAMILY: Final = Family("simulated")
"""The family of whoever does not say."""
LOAD_S: Final = 1.0
"""What a load takes where nobody has measured it; likewise a change in place and an unload."""
SCALE_S: Final = 0.3
UNLOAD_S: Final = 0.5
MAX_INSTANCES: Final = 4
"""Of a width, where limits say nothing; as on GPUs live."""
_P99 = 2.3263478740408408  # of the standard normal distribution


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """One width of a family on a server.

    Attributes:
        service_s: mean time of a batch of 1, 2, … items; its length is the most items of a batch.
        energy_j: of such a batch, above idle; None while unknown.
        instances: that serve it at the beginning; 0 when it is not loaded.
        sigma: of the lognormal factor of service times; 0 for none.
        start: what the router knows of it at the beginning.
        load_s: of a load, and of a full reload, where a controller does one.
        load_w: above idle meanwhile.
        delay_s: from the end of a batch until the router has its answer, while the next one runs.
        family: whose width it is.
        scale_s: of a change of its instances in place.
        unload_s: from the call until its memory is given back.
    """

    width: Width
    accuracy: float
    service_s: tuple[float, ...]
    energy_j: tuple[float, ...] | None = None
    instances: int = 1
    sigma: float = 0.0
    start: LatencyFit = field(default_factory=LatencyFit)
    load_s: float = LOAD_S
    load_w: float = 0.0
    instance_bytes: int = 0
    delay_s: float = field(default=0.0, repr=False)  # digest_scenario adds it where there is any
    family: Family = field(default=ONE_FAMILY, repr=False)  # likewise, where there are several
    scale_s: float = field(default=SCALE_S, repr=False)  # likewise, where there is a controller
    unload_s: float = field(default=UNLOAD_S, repr=False)

    @property
    def max_batch_size(self) -> int:
        """Items in a batch at the most."""
        return len(self.service_s)

    @property
    def capacity_rps(self) -> float:
        """Items a second at the batch size that gives the most, on all instances."""
        return max(self.instances * n / t for n, t in enumerate(self.service_s, start=1))

    def slowed(self, factor: float) -> SimulatedModel:
        """Return it with batches that take so many times as long."""
        return self if factor == 1 else replace(self, service_s=tuple(factor * t for t in self.service_s))


@dataclass(frozen=True, slots=True)
class SimulatedServer:
    """One server.

    Attributes:
        models: its widths by family, ascending.
        idle_w: that it draws while up; None while unknown.
        contention: part of its time for which a batch needs the device that instances share; 0: they do not hinder each
            other, 1: nothing is gained by more of them.
        limits: that its controller keeps to; None: it has no controller.
        dynamic_batching: batches of a width that wait together run as one, as Triton's dynamic batcher has it.
    """

    name: ServerName
    models: tuple[SimulatedModel, ...]
    idle_w: float | None = None
    contention: float = field(default=0.0, repr=False)  # digest_scenario adds these where there is any
    limits: LimitSettings | None = field(default=None, repr=False)
    dynamic_batching: bool = field(default=False, repr=False)

    def slow_down(self, running: int) -> float:
        """Return how many times as long as alone a batch takes of so many that run all the time."""
        return 1 + self.contention * (running - 1)


def most_instances(server: SimulatedServer) -> int:
    """Return the most instances that one of a server's widths may come to have."""
    now = max(1, *(model.instances for model in server.models))
    return now if server.limits is None else max(now, server.limits.max_instances or MAX_INSTANCES)


def linear_model(
    width: int,
    *,
    per_item_s: float,
    fixed_s: float = 0.0,
    max_batch_size: int = 32,
    accuracy: float | None = None,
    per_item_j: float | None = None,
    fixed_j: float = 0.0,
    instances: int = 1,
    sigma: float = 0.0,
    family: str = ONE_FAMILY,
) -> SimulatedModel:
    """Return a width whose batches of n take per_item_s · n + fixed_s, and per_item_j · n + fixed_j above idle.

    It has a parameter for each key of a width that a scenario writes out, but for those of a controller.
    """
    sizes = range(1, max_batch_size + 1)
    service_s = tuple(per_item_s * n + fixed_s for n in sizes)
    return SimulatedModel(
        Width(width),
        width / 100 if accuracy is None else accuracy,
        service_s,
        None if per_item_j is None else tuple(per_item_j * n + fixed_j for n in sizes),
        instances,
        sigma,
        weigh_batches([(n, service_s[n - 1]) for n in (1, min(PRIOR_ITEMS, max_batch_size))]),
        family=Family(family),
    )


def server_from_profile(profile: ServerProfile, name: str) -> SimulatedServer:
    """Return a server that behaves as a profile says."""
    models = tuple(_model_from_profile(m) for m in sorted(profile.models, key=lambda m: (m.family, m.width)))
    return SimulatedServer(ServerName(name), models, profile.idle.power_w)


def families_of(servers: Sequence[SimulatedServer]) -> list[Family]:
    """Return the names of all families of a fleet, ascending."""
    return sorted({model.family for server in servers for model in server.models})


def qualities_of(servers: Sequence[SimulatedServer]) -> dict[Family, list[float]]:
    """Return the qualities of all widths of a fleet, by family."""
    found: dict[Family, list[float]] = {family: [] for family in families_of(servers)}
    for server in servers:
        for model in server.models:
            found[model.family].append(model.accuracy)
    return found


def with_relative_qualities(servers: Sequence[SimulatedServer]) -> tuple[SimulatedServer, ...]:
    """Return a fleet with qualities as live policies see them, so that figures and bounds are of one scale, 0..1."""
    known = qualities_of(servers)

    def relative(model: SimulatedModel) -> SimulatedModel:
        return replace(model, accuracy=relative_quality(model.accuracy, known[model.family]))

    return tuple(replace(server, models=tuple(map(relative, server.models))) for server in servers)


def check_fleet(servers: Sequence[SimulatedServer]) -> None:
    """Check that a fleet can be simulated.

    Raises:
        ConfigError: when it has no servers, two of one name, or a server without widths or with one twice.
    """
    names = [s.name for s in servers]
    if not names:
        raise ConfigError("fleet.servers is empty; name at least one")
    for server in servers:
        if names.count(server.name) > 1:
            raise ConfigError(f"fleet.servers: the name {server.name!r} is used twice; names must be unique")
        if not server.models:
            raise ConfigError(f"fleet.servers: {server.name} has no widths; give it one at least")
        for family in families_of([server]):
            widths = [m.width for m in server.models if m.family == family]
            if len(set(widths)) < len(widths):
                raise ConfigError(f"fleet.servers: {server.name} has widths {widths} of {family}; give each once")


def _model_from_profile(model: ModelProfile) -> SimulatedModel:
    known_j = [b.energy_j for b in model.batches if b.energy_j is not None]
    busy_s = [b.busy_s for b in model.batches if b.busy_s is not None]
    service_s, delay_s = [b.mean_s for b in model.batches], 0.0
    if len(busy_s) == len(model.batches):
        service_s = busy_s
        delay_s = max(0.0, float(np.median([(b.rested_s or 0.0) - (b.busy_s or 0.0) for b in model.batches])))
    changes = model.changes
    built = SimulatedModel(
        width=Width(model.width),
        accuracy=model.accuracy,
        service_s=_between(model, service_s),
        energy_j=_between(model, known_j) if len(known_j) == len(model.batches) else None,
        instances=model.instances,
        sigma=float(np.median([lognormal_sigma(b.p99_s / b.mean_s) for b in model.batches])),
        start=prior_fit(model),
        delay_s=delay_s,
        family=Family(model.family),
    )
    if changes is None:
        return built
    return replace(
        built,
        load_s=changes.load.mean_s,
        scale_s=changes.scale_up.mean_s,
        unload_s=changes.unload.mean_s,
        instance_bytes=changes.instance_bytes or 0,
    )


def _between(model: ModelProfile, measured: Sequence[float]) -> tuple[float, ...]:
    """Return a value for each number of items, given those of the batches that were measured."""
    sizes = np.arange(1, model.max_batch_size + 1)
    return tuple(np.interp(sizes, [b.items for b in model.batches], measured).tolist())


def lognormal_sigma(p99_ratio: float) -> float:
    """Return σ of the lognormal factor of mean 1 whose 99th percentile is ``p99_ratio``; 0 when that is below 1.

    From p99 = exp(2.326 σ − σ²/2), the smaller root; beyond what any σ reaches, the σ that comes nearest.
    """
    return _P99 - math.sqrt(max(0.0, _P99 * _P99 - 2 * math.log(max(1.0, p99_ratio))))
