"""profile.json, as values and as text: what every batch on every server costs, and how it was found out.

One ``ServerProfile`` a server, in it one ``ModelProfile`` a width, in it one ``BatchProfile`` a batch size. What is
unknown is None and comes with the reason, because a missing joule that reads as 0 makes the worst server look best.

A profile belongs to artefacts and to a Triton version, and says so (``sha256``, ``triton_version``); times of other
weights or of another server are not a worse guess, they are about something else. ``check_binding`` and
``orchestrator.profile.start`` hold them against what is served.

Latency is that of a direct request of one client, from sending to answer, with nothing else on the server: what the
router observes of a batch. Under load two numbers say more (``busy_s`` and ``rested_s``, measured when asked for): a
part of a call is outside of the instance and passes while the next batch runs, and a server that had nothing to do is
slower than one that answers the same caller again and again. Energy is what the batch adds to the idle power, which
stands apart with its source.

The text is strict in, canonical out, replaced as a whole. Everything is checked before a number is used: types and
limits, which the annotations carry, unknown keys, cells that are missing, values that contradict each other. A refusal
names the key, the value and what to do; a profile that is silently half right makes every decision that rests on it
half wrong.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from annotated_types import Ge, Gt, Interval, MinLen
from pydantic import Field, TypeAdapter, ValidationError

from orchestrator.errors import ConfigError
from orchestrator.files import read_file, write_atomically
from orchestrator.validation import Spelling, describe_problems, join_problems

TAKE_AGAIN = "take it again with 'slimsched profile'"
_JSON_NAMES = {"per_item_s": "item_s", "fixed_s": "group_s"}

# An upper limit of infinity, itself excluded, is what keeps Infinity and NaN out.
Seconds = Annotated[float, Interval(ge=0, lt=math.inf)]
PositiveSeconds = Annotated[float, Interval(gt=0, lt=math.inf)]
Joules = Annotated[float, Interval(ge=0, lt=math.inf)]
Watts = Annotated[float, Interval(ge=0, lt=math.inf)]
Ratio = Annotated[float, Interval(ge=0, lt=math.inf)]
Quality = Annotated[float, Interval(gt=-math.inf, lt=math.inf)]
Count = Annotated[int, Ge(0)]
Name = Annotated[str, MinLen(1)]
Sha256 = Annotated[str, Spelling("^[0-9a-f]{64}$", "64 hexadecimal digits")]


class EnergySource(StrEnum):
    """The source of joules; reported wherever they are."""

    ENERGY_COUNTER = "energy-counter"
    """The device counts energy itself; differences of its counter."""
    INSTANT = "instant"
    """Power readings integrated over time."""
    RAPL = "rapl"
    """The counters of the CPU packages."""
    PLUGIN = "plug-in"
    """A counter that another package reads, by ``servers[].telemetry``."""
    ESTIMATED = "estimated"
    """A stated power model times a measured duration; nothing was measured in joules."""


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
    """How long a change of a server takes, done ``n`` times; 0 in a synthetic profile."""

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
        accuracy: The quality of the width, as its config or the fleet file says it: top-1, 0..1, or of any scale.
        flops: The work of an item; None when the exporter did not say.
        sha256: The digest of the weights file; None where nobody says it.
        changes: What changes of it cost; None when they were not measured.
        batches: The batches, ascending by size, see ``batch_ladder``.
    """

    name: Name
    family: Name
    width: Annotated[int, Interval(ge=1, le=100)]
    accuracy: Quality
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
    """One server by its name in fleet.yaml, as it was measured, with its models ascending by name.

    Attributes:
        description: The device, as it calls itself.
        slowdown: The emulated factor; None when it is as fast as its machine.
        triton_version: The version of its Triton; None where nobody says it.
        memory_bytes: The memory of the device or host; None when unreadable.
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
        assumptions: What was not measured, or not then and there, one sentence each: power models, servers that an
            earlier run measured, and all of a synthetic profile.
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


_ADAPTER = TypeAdapter(Profile)


def parse_profile(text: str | bytes, *, source: str = "profile.json") -> Profile:
    """Return the profile that JSON ``text`` spells; errors name ``source``.

    Raises:
        ConfigError: when it is cut off, has a key too many or too few, a value out of range, a batch size that is
            missing, or contradicts itself.
    """
    try:
        profile = _ADAPTER.validate_json(text, strict=True, extra="forbid")
    except ValidationError as exc:
        problems = [problem.text for problem in describe_problems(exc, Profile)]
        raise ConfigError(f"{join_problems(source, problems)}; {TAKE_AGAIN}") from exc
    for path, problem in _contradictions(profile):
        raise ConfigError(f"{source}: {path}: {problem}; {TAKE_AGAIN}")
    return profile


def render_profile(profile: Profile) -> str:
    """Return the profile as JSON; ``parse_profile`` gives it back."""
    values = asdict(profile, dict_factory=_by_json_names)
    for batch in (b for server in values["servers"] for model in server["models"] for b in model["batches"]):
        for key in ("busy_s", "rested_s"):  # there when they were measured
            if batch[key] is None:
                del batch[key]
    return json.dumps(values, indent=1, allow_nan=False) + "\n"


def _by_json_names(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    return {_JSON_NAMES.get(name, name): value for name, value in fields}


_MOST_BYTES: Final = 64 * 2**20
"""A profile has a line a batch size, width and server."""


def read_profile(path: Path) -> Profile:
    """Return the profile in a file; raises ConfigError when it can't be read, and as ``parse_profile``."""
    try:
        data = read_file(path, most_bytes=_MOST_BYTES)
    except FileNotFoundError:
        raise ConfigError(
            f"no profile at {path}; 'slimsched profile --fleet fleet.yaml --out {path}' takes one"
        ) from None
    except OSError as exc:
        raise ConfigError(f"can't read {path} ({exc.strerror}); check its permissions") from exc
    return parse_profile(data, source=str(path))


def write_profile(profile: Profile, path: Path) -> None:
    """Replace the file by the profile; a reader, or a crash, finds the old file or the new one.

    Raises:
        ConfigError: when it can't be written, or would be refused when read.
    """
    text = render_profile(profile)
    parse_profile(text, source=f"the profile for {path}")
    try:
        write_atomically(path, text)
    except OSError as exc:
        raise ConfigError(f"can't write {path} ({exc.strerror}); give another place") from exc


def _contradictions(profile: Profile) -> Iterator[tuple[str, str]]:
    """Yield (key path, problem) of what no single limit shows."""
    yield from _twice("servers", [server.name for server in profile.servers])
    for index, server in enumerate(profile.servers):
        path = f"servers[{index}]"
        yield from _server_contradictions(path, server)
        for at, model in enumerate(server.models):
            yield from _model_contradictions(f"{path}.models[{at}]", model, server.origin)


def _server_contradictions(path: str, server: ServerProfile) -> Iterator[tuple[str, str]]:
    if (server.origin is Origin.EMULATED) != (server.slowdown is not None) and server.origin is not Origin.SYNTHETIC:
        yield f"{path}.slowdown", f"{server.slowdown} does not go with origin {server.origin.value!r}"
    if server.triton_version is None and server.origin is not Origin.SYNTHETIC:
        yield f"{path}.triton_version", "null is allowed in synthetic profiles only"
    idle = server.idle
    if not (idle.power_w is None) == (idle.source is None) == bool(idle.reason):
        yield f"{path}.idle", "power_w and source are null together, and then there is a reason"
    yield from _twice(f"{path}.models", [model.name for model in server.models])


def _model_contradictions(path: str, model: ModelProfile, origin: Origin) -> Iterator[tuple[str, str]]:
    found = [batch.items for batch in model.batches]
    wanted = list(batch_ladder(model.max_batch_size))
    if found != wanted:
        missing = ", ".join(str(items) for items in wanted if items not in found)
        what = f"batch sizes {missing} are missing" if missing else "there are others, or they are out of order"
        yield f"{path}.batches", f"{what}; it takes {', '.join(map(str, wanted))}, got {found}"
    if len({batch.busy_s is None for batch in model.batches}) > 1:
        yield f"{path}.batches", "busy_s is known of some batch sizes and not of others"
    for at, batch in enumerate(model.batches):
        yield from _batch_contradictions(f"{path}.batches[{at}]", batch, origin)


def _batch_contradictions(path: str, batch: BatchProfile, origin: Origin) -> Iterator[tuple[str, str]]:
    if (batch.n == 0) != (origin is Origin.SYNTHETIC):
        yield f"{path}.n", f"{batch.n} does not go with origin {origin.value!r}"
    if batch.p50_s > batch.p99_s:
        yield f"{path}.p99_s", f"{batch.p99_s} is below p50_s, {batch.p50_s}"
    if (batch.busy_s is None) != (batch.rested_s is None):
        yield f"{path}.busy_s", "it and rested_s are measured together; one of them is missing"
    if not (batch.energy_j is None) == (batch.energy_source is None) == bool(batch.energy_reason):
        yield f"{path}.energy_j", "it and energy_source are null together, and then there is an energy_reason"


def _twice(path: str, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for index, name in enumerate(names):
        if name in names[:index]:
            yield f"{path}[{index}].name", f"{name!r} is there twice"
