"""The status page of a controller as plain values: what its JSON says and the terminal shows.

The fields below are the keys of the JSON, and they stay: a field may be added, none changes its meaning. Units end
the names. What is unknown is null with its reason beside it, never 0. Times that a controller keeps on its own clock
are told as wall-clock times or as seconds that are left, because no other process has that clock. Kinds and reasons
are plain words here, where the planner has enums, so that those of a newer controller can be read and shown.
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

Numbers = Mapping[str, float | None]
"""The numbers behind a decision by their names, which end in units; None stands for infinity and for no number."""


@dataclass(frozen=True, slots=True)
class RatesStatus:
    """What a model did in the last window, as ``planner.Rates``; every rate is None where ``reason`` says why."""

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
    """A config, of so many instances and such batching, that failed and is left alone until then, for ``for_s`` more.

    Attributes:
        failures: The number of failures in a row.
        reason: Triton's reason for the last of them.
    """

    until_unix_s: float
    for_s: float
    failures: int
    reason: str
    instances: int
    batching: Batching


@dataclass(frozen=True, slots=True)
class ModelState:
    """One width of the repository.

    Attributes:
        label: The short form of that name, for people.
        width: The width of the network in percent.
        accuracy: Top-1 on the family's test split, 0..1.
        status: One of absent, loading, ready, unloading and failed.
        status_reason: Triton's reason why it is not ready; empty otherwise.
        desired_instances: The instances that it should run with; None while there is no plan.
        live_instances: Stub processes alive; None where instances are no processes or can't be seen.
        batching: The batching that it runs with; None while it is not ready.
        waiting_requests: The mean of those that waited in the window, or those that wait now, whichever is more; None
            while it is not ready.
        is_changing: Whether an action on it has not ended.
        demanded_for_s: The seconds that a demand still lasts; None: nobody asked for it.
        quarantine: Its configs that are left alone.
        is_canonical: Whether it runs with what its files say, but for instances and batching; None while it is not
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
        load_bytes: What a load with one instance takes; None: not measured yet.
        further_instance_bytes: What one instance more takes; None: not measured yet.
        seen_bytes: The size of its largest instance as last seen; None where instances are no processes.
    """

    load_bytes: int | None
    further_instance_bytes: int | None
    seen_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class ResidueStatus:
    """What one change was expected to give back, and what it did, as ``planner.LedgerEntry``."""

    at_unix_s: float
    model: str
    expected_bytes: int
    returned_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryStatus:
    """Memory that the budget is about.

    Attributes:
        total_bytes: Memory of the device or the host.
        budget_bytes: Memory that is never to be exceeded.
        residue_bytes: Memory that unloads have not given back since Triton started.
        residue_limit_bytes: The residue above which a restart of Triton is advised.
        residues: The last entries of the ledger, oldest first.
        learned: What each model takes, by its name in Triton.
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
    """One change that the plan of this step calls for; the fields are those of ``planner.Action``."""

    kind: str
    model: str
    reason: str
    instances: int
    batching: Batching
    is_forced: bool
    needed_bytes: int
    numbers: Numbers = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DoneAction:
    """One change that was made, failed, or is still under way; the fields are those of ``report.ActionRecord``."""

    action: PlannedAction
    ended_unix_s: float
    took_s: float
    error: str | None
    is_under_way: bool


@dataclass(frozen=True, slots=True)
class RefusalStatus:
    """Something that would be done and may not; the fields are those of ``planner.Refusal``."""

    kind: str
    model: str
    reason: str
    numbers: Numbers
    detail: str


@dataclass(frozen=True, slots=True)
class NoticeStatus:
    """Something an operator should know; the fields are those of ``planner.Notice``."""

    kind: str
    model: str | None
    numbers: Numbers


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """What a controller knows, wants and did.

    Attributes:
        family: The family of the models; None while Triton could not be observed.
        unix_s: The wall-clock time of the observation.
        trouble: What could not be read of Triton and why; None when all could.
        server_id: The running Triton process; None: unknown.
        models: The widths, ascending; empty while Triton could not be observed.
        utilisation_ratio: How busy the device or Triton's CPUs are, 0..1.
        utilisation_ceiling_ratio: The utilisation above which nothing grows.
        energy_j: Energy drawn since some fixed moment; only differences mean something.
        prices_s: The measured mean duration of each kind of action that has been seen.
        planned: The actions of this step's plan.
        refusals: What this step's plan would do and may not.
        notices: What this step's plan has to tell.
        actions: The last actions that were done, oldest first.
        step_s: The time that the step took without its actions.
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
