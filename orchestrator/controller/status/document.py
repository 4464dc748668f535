"""The status page of a controller as plain values: what its JSON says and the terminal shows of a step's report.

The fields below are the keys of the JSON, and they stay: a field may be added, none changes its meaning. Units end
the names. What is unknown is null with its reason beside it, never 0. Times that a controller keeps on its own clock
are shown as wall-clock times or as seconds that are left, because no other process has that clock. Wall clocks of two
machines may be minutes apart, so the page says its own age, and its times are held against that. Kinds and reasons are
plain words here, where the planner has enums, so that those of a newer controller can be read and shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from enum import Enum
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from orchestrator.controller.report import StepReport
from orchestrator.errors import PermanentError
from orchestrator.planner.host import Batching, ModelSnapshot
from orchestrator.planner.rates import Rates
from orchestrator.telemetry.reading import HostReading, Reading
from orchestrator.validation import describe_problems

Numbers = Mapping[str, float | None]
"""The numbers behind a decision by their names, which end in units; None stands for infinity and for no number."""
T = TypeVar("T")


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
        request_j: What a request has drawn on average above idle, since the controller started; None while unknown.
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
    request_j: float | None = None


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
    detail: str = ""


@dataclass(frozen=True, slots=True)
class ControllerStatus:
    """What a controller knows, wants and did.

    Attributes:
        family: The only family of the models, whose name labels leave out; None where there are several, and while
            Triton could not be observed.
        families: All families of the models.
        unix_s: The wall-clock time of the observation.
        trouble: What could not be read of Triton and why; None when all could.
        server_id: The running Triton process; None: unknown.
        models: The widths, ascending; empty while Triton could not be observed.
        utilisation_ratio: How busy the device or Triton's CPUs are, 0..1.
        utilisation_ceiling_ratio: The utilisation above which nothing grows.
        energy_j: Energy drawn since some fixed moment; only differences mean something.
        server_threads: Threads of Triton's process; None: can't be seen.
        left_threads: Threads beyond those that as many instances had before.
        prices_s: The measured mean duration of each kind of action that has been seen.
        planned: The actions of this step's plan, as its refusals and notices are.
        actions: The last actions that were done, oldest first.
        step_s: The time that the step took without its actions.
        misfits: Why models that look meant for a family are left out, by name.
        driver: The gateway that holds the Triton, of several that share a fleet; None while none is known to.
        idle_w: The power that is drawn while nothing runs; None before that was seen.
        idle_j: The energy that idle power took since the controller started; None without a counter.
        age_s: The time since the observation when the page was asked for, on the controller's own clock, which never
            goes back; None: a controller of an earlier version, which does not say.
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
    server_threads: int | None = None
    left_threads: int = 0
    misfits: Mapping[str, str] = field(default_factory=dict)
    families: tuple[str, ...] = ()
    driver: str | None = None
    idle_w: float | None = None
    idle_j: float | None = None
    age_s: float | None = None

    def asked_unix_s(self, *, now_unix_s: float) -> float:
        """Return when the page was asked for, by the clock of its wall-clock times.

        That of a page that does not say its age is taken to be the reader's, ``now_unix_s``.
        """
        return now_unix_s if self.age_s is None else self.unix_s + self.age_s


def describe_status(report: StepReport, driver: str | None = None, *, now_s: float | None = None) -> ControllerStatus:
    """Return what a report says, as the status page shows it, and who drives the Triton.

    ``now_s`` is the time on the clock of the report's timers; None where the age of the page is not told.
    """
    snapshot, plan = report.seen.snapshot, report.plan
    seen = sorted(snapshot.models, key=_by_family) if snapshot else ()
    reading = report.seen.reading or HostReading.absent("the host has not been read yet")
    return ControllerStatus(
        server=report.server,
        family=_only_family(report),
        families=tuple(report.families),
        unix_s=report.unix_s,
        steps=report.steps,
        trouble=report.seen.trouble,
        misfits=report.seen.misfits,
        server_id=snapshot.server_id if snapshot else reading.server_id,
        models=tuple(_model(report, model) for model in seen),
        memory=_memory(report, reading),
        utilisation_ratio=reading.utilisation_ratio,
        utilisation_ceiling_ratio=report.limits.utilisation_ceiling_ratio,
        power_w=reading.power_w,
        energy_j=reading.energy_j,
        prices_s={kind.value: price_s for kind, price_s in sorted(report.state.prices.measured_s.items())},
        planned=tuple(_copy(PlannedAction, action) for action in plan.actions) if plan else (),
        refusals=tuple(_copy(RefusalStatus, refusal) for refusal in plan.refusals) if plan else (),
        notices=tuple(_copy(NoticeStatus, notice) for notice in plan.notices) if plan else (),
        actions=tuple(_copy(DoneAction, done, action=_copy(PlannedAction, done.action)) for done in report.recent),
        plan_s=report.plan_s,
        step_s=report.step_s,
        server_threads=reading.server_threads,
        driver=driver,
        idle_w=report.energy.idle_w,
        idle_j=None if report.energy.last is None else report.energy.idle_j,
        left_threads=report.state.threads.left_behind,
        age_s=None if now_s is None else now_s - report.seen.at_s,
    )


def encode_status(report: StepReport, driver: str | None = None, *, now_s: float | None = None) -> dict[str, Any]:
    """Return the status page of a report, ready for JSON; its keys are the fields of ControllerStatus."""
    encoded: dict[str, Any] = _adapter().dump_python(describe_status(report, driver, now_s=now_s), mode="json")
    return encoded


def short_name(model: str, family: str | None) -> str:
    """Return a model's name without its family's: ``w025`` for ``fashion_w025``."""
    return model.removeprefix(f"{family}_") if family else model


def parse_page(values: object) -> ControllerStatus:
    """Return the page that decoded JSON spells; keys that a newer controller added are passed over.

    Raises:
        PermanentError: when it is no status page.
    """
    try:
        return _adapter().validate_python(values)
    except ValidationError as exc:
        problem = describe_problems(exc, ControllerStatus)[0]
        raise PermanentError(f"this is no controller's status page ({problem.text})") from exc


@cache
def _adapter() -> TypeAdapter[ControllerStatus]:
    return TypeAdapter(ControllerStatus)


def _by_family(seen: ModelSnapshot) -> tuple[str, int, str]:
    return seen.model.family, seen.model.width, seen.name


def _only_family(report: StepReport) -> str | None:
    return report.families[0] if len(report.families) == 1 else None


def _model(report: StepReport, seen: ModelSnapshot) -> ModelState:
    assert report.seen.snapshot is not None
    desired = dict(report.plan.desired_instances) if report.plan else {}
    until_s, now_s = seen.demanded_until_s, report.seen.at_s
    return ModelState(
        model=seen.name,
        label=short_name(seen.name, _only_family(report)),
        width=seen.model.width,
        accuracy=seen.model.accuracy,
        status=seen.loaded.status.value,
        status_reason=seen.loaded.reason,
        instances=seen.loaded.instances,
        desired_instances=desired.get(seen.name),
        live_instances=seen.live_instances,
        batching=seen.loaded.batching if seen.is_ready else None,
        is_canonical=seen.loaded.is_canonical if seen.is_ready else None,
        rates=_rates(seen.rates, is_ready=seen.is_ready, trouble=report.seen.trouble),
        waiting_requests=seen.rates.waiting_requests if seen.is_ready else None,
        is_changing=seen.name in report.seen.snapshot.busy_models,
        demanded_for_s=until_s - now_s if until_s is not None and until_s > now_s else None,
        quarantine=_quarantine(report, seen.name),
        request_j=report.energy.of_request_j(seen.name),
    )


def _rates(rates: Rates, *, is_ready: bool, trouble: str | None) -> RatesStatus:
    if not is_ready:
        return RatesStatus(reason="not ready")
    if rates.window_s <= 0:
        return RatesStatus(reason=trouble or "no earlier reading")
    return _copy(RatesStatus, rates, reason="")


def _quarantine(report: StepReport, model: str) -> tuple[QuarantineStatus, ...]:
    return tuple(
        _copy(
            QuarantineStatus,
            entry,
            until_unix_s=_unix_s(report, entry.until_s),
            for_s=entry.until_s - report.seen.at_s,
            instances=instances,
            batching=batching,
        )
        for (name, instances, batching), entry in report.state.quarantine.at(report.seen.at_s).items()
        if name == model
    )


def _memory(report: StepReport, reading: HostReading) -> MemoryStatus:
    ledger = report.state.memory
    loads, further, sizes = ledger.loads_bytes, ledger.instances_bytes, ledger.seen_bytes
    # The largest of the last readings, as the plan takes it.
    learned = {
        str(model): LearnedMemory(
            max(loads.get(model, ()), default=None), max(further.get(model, ()), default=None), sizes.get(model)
        )
        for model in sorted({*loads, *further, *sizes})
    }
    return MemoryStatus(
        used_bytes=reading.memory_used_bytes,
        total_bytes=reading.memory_total_bytes,
        budget_bytes=report.limits.memory_budget_bytes,
        residue_bytes=ledger.residue_bytes,
        residue_limit_bytes=report.limits.leak_limit_bytes,
        residues=tuple(_copy(ResidueStatus, entry, at_unix_s=_unix_s(report, entry.at_s)) for entry in ledger.entries),
        learned=learned,
    )


def _copy(kind: type[T], source: object, **others: Any) -> T:
    """Return a part of the page with the fields of the same names of what it shows, and with others as given."""
    names = [each.name for each in fields(kind) if each.name not in others]  # type: ignore[arg-type]
    return kind(**{name: _plain(name, getattr(source, name)) for name in names}, **others)


def _plain(name: str, value: Any) -> Any:
    if name == "numbers":  # JSON has no infinity and no NaN, they are null
        return {key: number if math.isfinite(number) else None for key, number in value}
    return value.value if isinstance(value, Enum) else value


def _unix_s(report: StepReport, at_s: float) -> float:
    """Return the wall-clock time of a moment on the controller's clock."""
    return report.unix_s + (at_s - report.seen.at_s)
