"""A step's report turned into the status page; ``document`` says what is on it."""

from __future__ import annotations

import math
from typing import Any

from orchestrator.controller.report import StepReport
from orchestrator.controller.status.document import (
    ControllerStatus,
    DoneAction,
    LearnedMemory,
    MemoryStatus,
    ModelState,
    NoticeStatus,
    PlannedAction,
    QuarantineStatus,
    RatesStatus,
    RefusalStatus,
    ResidueStatus,
    encode_page,
)
from orchestrator.controller.status.wording import short_name
from orchestrator.planner import Action, ModelSnapshot, Rates
from orchestrator.planner.actions import Numbers
from orchestrator.telemetry.reading import HostReading


def describe_status(report: StepReport) -> ControllerStatus:
    """Return what a report says, as the status page shows it."""
    snapshot, plan = report.snapshot, report.plan
    seen = sorted(snapshot.models, key=lambda model: (model.model.width, model.name)) if snapshot else ()
    reading = report.reading or HostReading.absent("the host has not been read yet")
    return ControllerStatus(
        server=report.server,
        family=report.family,
        unix_s=report.unix_s,
        steps=report.steps,
        trouble=report.trouble,
        server_id=snapshot.server_id if snapshot else reading.server_id,
        models=tuple(_model(report, model) for model in seen),
        memory=_memory(report, reading),
        utilisation_ratio=reading.utilisation_ratio,
        utilisation_ceiling_ratio=report.limits.utilisation_ceiling_ratio,
        power_w=reading.power_w,
        energy_j=reading.energy_j,
        prices_s={kind.value: price_s for kind, price_s in sorted(report.state.prices.measured_s.items())},
        planned=tuple(_planned(action) for action in plan.actions) if plan else (),
        refusals=tuple(
            RefusalStatus(each.kind.value, each.model, each.reason.value, _finite(each.numbers), each.detail)
            for each in (plan.refusals if plan else ())
        ),
        notices=tuple(
            NoticeStatus(each.kind.value, each.model, _finite(each.numbers)) for each in (plan.notices if plan else ())
        ),
        actions=tuple(
            DoneAction(_planned(each.action), each.ended_unix_s, each.took_s, each.error, each.is_under_way)
            for each in report.recent
        ),
        plan_s=report.plan_s,
        step_s=report.step_s,
    )


def encode_status(report: StepReport) -> dict[str, Any]:
    """Return the status page of a report, ready for JSON; its keys are the fields of ControllerStatus."""
    return encode_page(describe_status(report))


def _model(report: StepReport, seen: ModelSnapshot) -> ModelState:
    assert report.snapshot is not None
    desired = dict(report.plan.desired_instances) if report.plan else {}
    until_s = seen.demanded_until_s
    return ModelState(
        model=seen.name,
        label=short_name(seen.name, seen.model.family),
        width=seen.model.width,
        accuracy=seen.model.accuracy,
        status=seen.loaded.status.value,
        status_reason=seen.loaded.reason,
        instances=seen.loaded.instances,
        desired_instances=desired.get(seen.name),
        live_instances=seen.live_instances,
        batching=seen.loaded.batching if seen.is_ready else None,
        is_canonical=seen.loaded.is_canonical if seen.is_ready else None,
        rates=_rates(seen.rates, is_ready=seen.is_ready, trouble=report.trouble),
        waiting_requests=seen.rates.waiting_requests if seen.is_ready else None,
        is_changing=seen.name in report.snapshot.busy_models,
        demanded_for_s=until_s - report.now_s if until_s is not None and until_s > report.now_s else None,
        quarantine=_quarantine(report, seen.name),
    )


def _rates(rates: Rates, *, is_ready: bool, trouble: str | None) -> RatesStatus:
    if not is_ready:
        return RatesStatus(reason="not ready")
    if rates.window_s <= 0:
        return RatesStatus(reason=trouble or "no earlier reading")
    return RatesStatus(
        rates.window_s,
        rates.requests_per_s,
        rates.failures_per_s,
        rates.items_per_s,
        rates.executions_per_s,
        rates.busy_instances,
        rates.items_per_execution,
        rates.service_s,
    )


def _quarantine(report: StepReport, model: str) -> tuple[QuarantineStatus, ...]:
    return tuple(
        QuarantineStatus(
            until_unix_s=_unix_s(report, entry.until_s),
            for_s=entry.until_s - report.now_s,
            failures=entry.failures,
            reason=entry.reason,
            instances=instances,
            batching=batching,
        )
        for (name, instances, batching), entry in report.state.quarantine.at(report.now_s).items()
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
        residues=tuple(
            ResidueStatus(_unix_s(report, entry.at_s), entry.model, entry.expected_bytes, entry.returned_bytes)
            for entry in ledger.entries
        ),
        learned=learned,
    )


def _planned(action: Action) -> PlannedAction:
    return PlannedAction(
        kind=action.kind.value,
        model=action.model,
        reason=action.reason.value,
        instances=action.instances,
        batching=action.batching,
        is_forced=action.is_forced,
        needed_bytes=action.needed_bytes,
        numbers=_finite(action.numbers),
    )


def _finite(numbers: Numbers) -> dict[str, float | None]:
    """Return the numbers by name; JSON has no infinity and no NaN, they are null."""
    return {name: value if math.isfinite(value) else None for name, value in numbers}


def _unix_s(report: StepReport, at_s: float) -> float:
    """Return the wall-clock time of a moment on the controller's clock."""
    return report.unix_s + (at_s - report.now_s)
