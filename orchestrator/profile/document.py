"""profile.json as values: what every batch on every server costs, and how it was found out.

One ``ServerProfile`` a server, in it one ``ModelProfile`` a width, in it one ``BatchProfile`` a batch size. What is
unknown is None and comes with the reason, because a missing joule that reads as 0 makes the worst server look best.

A profile belongs to artefacts and to a Triton version, and says so (``sha256``, ``triton_version``); times of other
weights or of another server are not a worse guess, they are about something else. ``check_binding`` and
``orchestrator.profile.start`` hold them against what is served.

Latency is that of a direct request of one client, from sending to answer, with nothing else on the server: what the
router observes of a batch. Under load two numbers tell more (``busy_s`` and ``rested_s``, measured when asked for): a
part of a call is outside of the instance and passes while the next batch runs, and a server that had nothing to do is
slower than one that answers the same caller again and again. Energy is what the batch adds to the idle power, which
stands apart with its source.

The annotations carry the limits; ``orchestrator.profile.codec`` enforces them on what comes from a file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import Field

from orchestrator.profile.energy import EnergySource

# An upper limit of infinity, itself excluded, is what keeps Infinity and NaN out.
Seconds = Annotated[float, Interval(ge=0, lt=math.inf)]
PositiveSeconds = Annotated[float, Interval(gt=0, lt=math.inf)]
Joules = Annotated[float, Interval(ge=0, lt=math.inf)]
Watts = Annotated[float, Interval(ge=0, lt=math.inf)]
Ratio = Annotated[float, Interval(ge=0, lt=math.inf)]
Count = Annotated[int, Ge(0)]
Name = Annotated[str, MinLen(1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Origin(StrEnum):
    """How the figures of a server came about; shown wherever they are."""

    MEASURED = "measured"
    EMULATED = "emulated"
    """Measured on a machine that plays a slower one, see ``slowdown``."""
    SYNTHETIC = "synthetic"
    """Computed from stated assumptions; nothing was measured."""


@dataclass(frozen=True, slots=True)
class BatchProfile:
    """One batch size of one width on one server.

    Attributes:
        n: The number of measured batches; 0 in a synthetic profile.
        std_s: The standard deviation of their latencies.
        p50_s: The median latency by nearest rank, and ``p99_s``, which below n = 100 is the largest seen.
        energy_j: The energy of one batch above idle; None when unknown, as is its source then.
        energy_reason: The reason why the energy is unknown; empty otherwise.
        busy_s: The time that the batch takes of a server which is kept busy: from answer to answer, with one more batch
            under way than there are instances, an instance's share. None when it was not measured, and then
            ``rested_s`` was not.
        rested_s: The mean latency on a server that had rested.
    """

    items: Annotated[int, Ge(1)]
    n: Count
    mean_s: PositiveSeconds
    std_s: Seconds
    p50_s: PositiveSeconds
    p99_s: PositiveSeconds
    energy_j: Joules | None
    energy_source: EnergySource | None
    energy_reason: str
    busy_s: PositiveSeconds | None = None
    rested_s: PositiveSeconds | None = None


@dataclass(frozen=True, slots=True)
class FittedLine:
    """a·n + b through the mean latencies of all batch sizes.

    Attributes:
        per_item_s: The slope a, seconds an item; ``item_s`` in JSON.
        fixed_s: The fixed part b, seconds a batch; ``group_s`` in JSON.
        held_out: Batch sizes that a second fit, through the others alone, was asked about.
        held_out_error_ratio: Mean of its absolute errors there, each over what was measured (MAPE); None without any.
    """

    per_item_s: Annotated[Seconds, Field(alias="item_s")]
    fixed_s: Annotated[Seconds, Field(alias="group_s")]
    held_out: tuple[int, ...]
    held_out_error_ratio: Ratio | None


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a change of a server takes.

    Attributes:
        n: The number of times it was done; 0 in a synthetic profile.
    """

    n: Count
    mean_s: Seconds
    max_s: Seconds


@dataclass(frozen=True, slots=True)
class ModelChanges:
    """What changes of one width cost on one server.

    Attributes:
        load: A load, from the call until it answers, with one instance, warm-up included.
        unload: An unload, from the call until its last instance is gone.
        reload: A reload of the full config in place of another, as a change of batching needs.
        scale_up: A change from one instance to two, in place.
        scale_down: A change from two instances to one, in place.
        instance_bytes: Memory of one instance after its warm-up; None when unreadable.
        memory_source: The source of that size; ``none`` when it could not be read, and then ``memory_reason`` says why.
    """

    load: Timing
    unload: Timing
    reload: Timing
    scale_up: Timing
    scale_down: Timing
    instance_bytes: Annotated[int, Gt(0)] | None
    memory_source: str
    memory_reason: str


@dataclass(frozen=True, slots=True)
class ModelProfile:
    """One width on one server.

    Attributes:
        width: The width in whole percent.
        accuracy: Top-1 on the family's test split, 0..1.
        flops: The work of an item; None when the exporter did not say.
        instances: The instances that it ran with.
        sha256: The digest of the weights file; None in a synthetic profile only.
        changes: What changes of it cost; None when they were not measured.
        batches: The batches, ascending by size, see ``batch_ladder``.
    """

    name: Name
    family: Name
    width: Annotated[int, Interval(ge=1, le=100)]
    accuracy: Annotated[float, Interval(ge=0, le=1)]
    flops: Annotated[int, Gt(0)] | None
    max_batch_size: Annotated[int, Ge(1)]
    instances: Annotated[int, Ge(1)]
    sha256: Sha256 | None
    line: FittedLine
    changes: ModelChanges | None
    batches: tuple[BatchProfile, ...]


@dataclass(frozen=True, slots=True)
class IdlePower:
    """What a server draws while it runs nothing; without power there is no source either, but a reason."""

    power_w: Watts | None
    source: EnergySource | None
    reason: str


@dataclass(frozen=True, slots=True)
class ServerProfile:
    """One server, as it was measured.

    Attributes:
        name: The server's name in fleet.yaml.
        description: The device, as it calls itself.
        slowdown: The emulated factor; None when it is as fast as its machine.
        triton_version: The version of its Triton; None in a synthetic profile only.
        memory_bytes: The memory of the device or host; None when unreadable.
        models: The models, ascending by name.
    """

    name: Name
    device: Literal["cpu", "gpu"]
    description: str
    origin: Origin
    slowdown: Annotated[float, Interval(gt=1, lt=math.inf)] | None
    triton_version: Name | None
    memory_bytes: Annotated[int, Gt(0)] | None
    idle: IdlePower
    models: Annotated[tuple[ModelProfile, ...], MinLen(1)]


@dataclass(frozen=True, slots=True)
class Conditions:
    """Under which a profile was taken.

    Attributes:
        date: The end of the measurement, ISO 8601 in UTC; in a synthetic profile the date of the assumptions.
        host: CPU model of the machine that measured, and its CPUs.
        onnxruntime: The version on that machine, which embedded servers there run; None when there is none.
        seed: The seed of the order of measurements.
        assumptions: What was not measured, one sentence each: power models, and all of a synthetic profile.
    """

    date: Name
    host: str
    onnxruntime: str | None
    seed: int
    assumptions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """The whole of profile.json; servers are ascending by name."""

    version: Literal[1]
    conditions: Conditions
    servers: Annotated[tuple[ServerProfile, ...], MinLen(1)]

    def server(self, name: str) -> ServerProfile | None:
        """Return the profile of a server, None when it has none."""
        return next((server for server in self.servers if server.name == name), None)

    def model(self, server: str, name: str) -> ModelProfile | None:
        """Return the profile of a model on a server, None when it has none."""
        found = self.server(server)
        return next((model for model in found.models if model.name == name), None) if found else None


def batch_ladder(max_batch_size: int) -> tuple[int, ...]:
    """Return the batch sizes that a profile holds: 1, 2, 4, … and the largest."""
    powers = [1 << exponent for exponent in range(max_batch_size.bit_length())]
    return tuple(sorted({*powers, max_batch_size}))
