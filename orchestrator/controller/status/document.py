"""The status page of a controller as plain values: what its JSON says and the terminal shows.

The fields below are the keys of the JSON, and they stay: a field may be added, none changes its meaning. Units end
the names. What is unknown is null with its reason beside it, never 0. Times that a controller keeps on its own clock
are told as wall-clock times or as seconds that are left, because no other process has that clock.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.errors import PermanentError
from orchestrator.planner import Batching
from orchestrator.telemetry.reading import Reading


@dataclass(frozen=True, slots=True)
class RatesStatus:
    """What a model did in the last window; every rate is None when there is a reason why there is none.

    Attributes:
        window_s: between the two readings that the rates come from.
        requests_per_s: answered with success.
        failures_per_s: answered with an error.
        items_per_s: answered.
        executions_per_s: batches run.
        busy_instances: that were running on average.
        items_per_execution: mean batch; None also when nothing ran.
        service_s: mean duration of a batch; None also when nothing ran.
        reason: why there are no rates; empty when there are.
    """

    window_s: float | None = None
    requests_per_s: float | None = None
    failures_per_s: float | None = None
    items_per_s: float | None = None
    executions_per_s: float | None = None
    busy_instances: float | None = None
    items_per_execution: float | None = None
    service_s: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True)
class QuarantineStatus:
    """A config that failed and is left alone for now.

    Attributes:
        until_unix_s: wall-clock time.
        for_s: that are left.
        failures: in a row.
        reason: Triton's.
        instances: of the config that failed.
        batching: of the config that failed.
    """

    until_unix_s: float
    for_s: float
    failures: int
    reason: str
    instances: int
    batching: Batching


@dataclass(frozen=True, slots=True)
class ModelState:
    """One width.

    Attributes:
        model: its name in Triton.
        label: short form of the name for people.
        width: in percent.
        accuracy: top-1, 0..1.
        status: absent, loading, ready, unloading or failed.
        status_reason: Triton's, why it is not ready; empty otherwise.
        instances: that it runs with.
        desired_instances: that it should run with; None while there is no plan.
        live_instances: stub processes alive; None where instances are no processes or can't be seen.
        batching: that it runs with; None while it is not ready.
        rates: of the last window.
        waiting_requests: on average in the window, or right now, whichever is more; None while it is not ready.
        is_changing: an action on it has not ended.
        demanded_for_s: that a demand still lasts; None: nobody asked for it.
        quarantine: its configs that are left alone.
        is_canonical: whether it runs with what its files say, but for instances and batching; None while it is not
            ready.
    """

    model: str
    label: str
    width: int
    accuracy: float
    status: str
    status_reason: str
    instances: int
    desired_instances: int | None
    live_instances: int | None
    batching: Batching | None
    rates: RatesStatus
    waiting_requests: float | None
    is_changing: bool
    demanded_for_s: float | None
    quarantine: tuple[QuarantineStatus, ...] = ()
    is_canonical: bool | None = None


@dataclass(frozen=True, slots=True)
class LearnedMemory:
    """What a model was measured to take; a plan takes the largest of what there is.

    Attributes:
        load_bytes: of a load with one instance; None: not measured yet.
        further_instance_bytes: of one instance more; None: not measured yet.
        seen_bytes: of its largest instance as last seen; None where instances are no processes.
    """

    load_bytes: int | None
    further_instance_bytes: int | None
    seen_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ResidueStatus:
    """What one unload or scale-down did not give back; negative when it gave back more than was expected.

    Attributes:
        at_unix_s: wall-clock time.
        model: its name in Triton.
        expected_bytes: learned when it grew.
        returned_bytes: that the reading fell by.
    """

    at_unix_s: float
    model: str
    expected_bytes: int
    returned_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """Memory that the budget is about.

    Attributes:
        used_bytes: with source, and reason when it is unknown.
        total_bytes: of the device or the host, likewise.
        budget_bytes: that is never to be exceeded.
        residue_bytes: that unloads have not given back since Triton started.
        residue_limit_bytes: above which a restart of Triton is advised.
        residues: the last entries of the ledger, oldest first.
        learned: by the model's name in Triton.
    """

    used_bytes: Reading
    total_bytes: Reading
    budget_bytes: int
    residue_bytes: int
    residue_limit_bytes: int
    residues: tuple[ResidueStatus, ...] = ()
    learned: Mapping[str, LearnedMemory] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PlannedAction:
    """One change that the plan of this step calls for.

    Attributes:
        kind: load, scale-up, scale-down, reload or unload.
        model: its name in Triton.
        reason: why.
        instances: afterwards.
        batching: afterwards.
        is_forced: a reload in spite of an equal config.
        needed_bytes: that it may add at its peak, margin included.
        numbers: behind it, units in the names.
    """

    kind: str
    model: str
    reason: str
    instances: int
    batching: Batching
    is_forced: bool
    needed_bytes: int
    numbers: Mapping[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DoneAction:
    """One change that was made, failed, or is still under way.

    Attributes:
        action: that was done.
        ended_unix_s: wall-clock time at which it ended, or was left to itself.
        took_s: until then.
        error: why it failed; None when it did not.
        is_under_way: it has not ended.
    """

    action: PlannedAction
    ended_unix_s: float
    took_s: float
    error: str | None
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class RefusalStatus:
    """Something that would be done and may not.

    Attributes:
        kind: of change.
        model: its name in Triton.
        reason: why.
        numbers: behind it, units in the names.
        detail: such as Triton's reason; empty when the numbers say it all.
    """

    kind: str
    model: str
    reason: str
    numbers: Mapping[str, float | None]
    detail: str


@dataclass(frozen=True, slots=True)
class NoticeStatus:
    """Something an operator should know.

    Attributes:
        kind: of notice.
        model: it is about; None: the whole host.
        numbers: behind it, units in the names.
    """

    kind: str
    model: str | None
    numbers: Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """What a controller knows, wants and did.

    Attributes:
        server: that it looks after.
        family: of the models; None while Triton could not be observed.
        unix_s: wall-clock time of the observation.
        steps: so far.
        trouble: what could not be read of Triton and why; None when all could.
        server_id: of the running Triton process; None: unknown.
        models: by width; empty while Triton could not be observed.
        memory: used, allowed, learned and lost.
        utilisation_ratio: of the device or of Triton's CPUs, 0..1.
        utilisation_ceiling_ratio: above which nothing grows.
        power_w: drawn now.
        energy_j: drawn since some fixed moment; only differences mean something.
        prices_s: measured mean duration of each kind of action that has been seen.
        planned: by the plan of this step.
        refusals: of the plan of this step.
        notices: of the plan of this step.
        actions: the last ones, oldest first.
        plan_s: that planning took.
        step_s: that the step took without its actions.
    """

    server: str
    family: str | None
    unix_s: float
    steps: int
    trouble: str | None
    server_id: str | None
    models: tuple[ModelState, ...]
    memory: MemoryStatus
    utilisation_ratio: Reading
    utilisation_ceiling_ratio: float
    power_w: Reading
    energy_j: Reading
    prices_s: Mapping[str, float]
    planned: tuple[PlannedAction, ...]
    refusals: tuple[RefusalStatus, ...]
    notices: tuple[NoticeStatus, ...]
    actions: tuple[DoneAction, ...]
    plan_s: float
    step_s: float


def encode_page(status: ControllerStatus) -> dict[str, Any]:
    """Return the page ready for JSON."""
    encoded: dict[str, Any] = _adapter().dump_python(status, mode="json")
    return encoded


def parse_page(values: object) -> ControllerStatus:
    """Return the page that decoded JSON spells; keys that a newer controller added are passed over.

    Raises:
        PermanentError: when it is no status page.
    """
    try:
        return _adapter().validate_python(values)
    except ValidationError as exc:
        problem = exc.errors(include_url=False)[0]
        path = ".".join(map(str, problem["loc"]))
        raise PermanentError(f"this is no controller's status page ({path or 'all of it'}: {problem['msg']})") from exc


@cache
def _adapter() -> TypeAdapter[ControllerStatus]:
    return TypeAdapter(ControllerStatus)
