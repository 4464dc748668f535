"""Step reports to show, made of the real values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from orchestrator.controller.observer import Observation
from orchestrator.controller.report import ActionRecord, StepReport
from orchestrator.planner.actions import (
    Action,
    ActionKind,
    ActionReason,
    Notice,
    NoticeKind,
    Plan,
    Refusal,
    RefusalReason,
)
from orchestrator.planner.host import (
    Batching,
    HostSnapshot,
    Limits,
    LoadedModel,
    ModelSnapshot,
    ModelStatus,
    RepositoryModel,
)
from orchestrator.planner.ledgers.memory_ledger import LedgerEntry, MemoryLedger
from orchestrator.planner.rates import Rates
from orchestrator.planner.state import Prices, Quarantine, QuarantineEntry, SchedulerState
from orchestrator.snapshot import Family, ModelName, ServerName, Width
from orchestrator.telemetry.reading import HostReading, Reading

MIB = 1 << 20
UNIX_S = 1_700_000_000.0
NOW_S = 5_000.0
LIMITS = Limits(memory_budget_bytes=300 * MIB, minimum=(ModelName("fashion_w025"),))
NO_WAIT = Batching()
QUIET = Rates(window_s=1.0)
UNREADABLE = "no such file: /sys/class/powercap/intel-rapl:0/energy_uj"


def name(width: int) -> ModelName:
    return ModelName(f"fashion_w{width:03d}")


def repository_model(width: int) -> RepositoryModel:
    return RepositoryModel(name(width), Family("fashion"), Width(width), 0.9, 64, 1000)


def ready(
    width: int,
    *,
    instances: int = 1,
    batching: Batching = NO_WAIT,
    rates: Rates = QUIET,
    live_instances: int | None = None,
    demanded_until_s: float | None = None,
    is_canonical: bool = True,
) -> ModelSnapshot:
    loaded = LoadedModel(
        name(width), ModelStatus.READY, instances=instances, batching=batching, is_canonical=is_canonical
    )
    return ModelSnapshot(repository_model(width), loaded, rates, live_instances, demanded_until_s)


def not_ready(width: int, status: ModelStatus, reason: str = "") -> ModelSnapshot:
    return ModelSnapshot(repository_model(width), LoadedModel(name(width), status, reason))


READING = HostReading(
    memory_used_bytes=Reading(250.0 * MIB, "smaps"),
    memory_total_bytes=Reading(8192.0 * MIB, "psutil"),
    utilisation_ratio=Reading(0.35, "psutil"),
    power_w=Reading.absent(UNREADABLE),
    energy_j=Reading.absent(UNREADABLE),
    server_id="123-456",
)
SCALE_UP = Action(
    ActionKind.SCALE_UP,
    name(25),
    ActionReason.QUEUEING,
    instances=2,
    needed_bytes=20 * MIB,
    numbers=(("waiting_requests", 3.25), ("busy_ratio", 0.95)),
)
FAILED_LOAD = Action(ActionKind.LOAD, name(75), ActionReason.WANTED, instances=1)
RELOAD = Action(
    ActionKind.RELOAD,
    name(50),
    ActionReason.BATCHING_GAIN,
    instances=1,
    batching=Batching((8, 16), 500),
    numbers=(("saved_instances", 0.21), ("price_s", 1.5)),
)
REFUSAL = Refusal(
    ActionKind.LOAD,
    name(100),
    RefusalReason.MEMORY_BUDGET,
    (("budget_bytes", 300.0 * MIB), ("used_bytes", 250.0 * MIB), ("needed_bytes", 80.0 * MIB)),
)
RESTART = Notice(NoticeKind.RESTART_ADVISED, None, (("residue_bytes", 600.0 * MIB), ("limit_bytes", 512.0 * MIB)))
TRITONS_REASON = (
    "failed to load 'fashion_w075', failed to poll from model repository: "
    "Internal: onnx runtime error 2: not enough space: expected 4096, got 1024"
)
STATE = SchedulerState(
    memory=MemoryLedger(
        loads_bytes={name(25): (30 * MIB, 40 * MIB), name(50): (60 * MIB,)},
        instances_bytes={name(25): (20 * MIB,)},
        balance_bytes=12 * MIB,
        entries=(LedgerEntry(NOW_S - 60, name(50), 60 * MIB, 48 * MIB),),
        server_id="123-456",
        seen_bytes={name(25): 22 * MIB, name(75): 70 * MIB},
    ),
    prices=Prices({ActionKind.SCALE_UP: 0.25, ActionKind.LOAD: 1.25}),
    quarantine=Quarantine(
        {
            (name(75), 1, Batching()): QuarantineEntry(2, NOW_S + 7.5, TRITONS_REASON),
            (name(75), 2, Batching()): QuarantineEntry(1, NOW_S - 1, "over already"),
        }
    ),
)
RECENT = (
    ActionRecord(UNIX_S - 90, FAILED_LOAD, 0.4, TRITONS_REASON),
    ActionRecord(UNIX_S - 12, SCALE_UP, 0.25),
    ActionRecord(UNIX_S - 1, RELOAD, 10.0, is_under_way=True),
)


def full_report() -> StepReport:
    """Return a report of a host in which everything happens at once."""
    models = (
        not_ready(100, ModelStatus.ABSENT),
        ready(
            25,
            instances=2,
            batching=Batching((), 0),
            rates=Rates(1.0, 1200.0, 0.5, 1200.0, 300.0, 3.25, 4.0, 0.005),
            live_instances=1,
            demanded_until_s=NOW_S + 58,
        ),
        not_ready(75, ModelStatus.FAILED, TRITONS_REASON),
        ready(50, batching=Batching((8, 16), 500), rates=Rates(waiting_requests=2.0)),
    )
    desired = ((name(25), 2), (name(50), 1), (name(75), 1), (name(100), 1))
    return StepReport(
        server=ServerName("gpu-0"),
        unix_s=UNIX_S,
        seen=Observation(NOW_S, HostSnapshot(models, 250 * MIB, 0.35, "123-456", frozenset({name(50)})), None, READING),
        steps=312,
        plan=Plan((SCALE_UP,), (REFUSAL,), (RESTART,), desired),
        state=STATE,
        limits=LIMITS,
        plan_s=0.0004,
        step_s=0.012,
        recent=RECENT,
        families=(Family("fashion"),),
    )


def blind_report() -> StepReport:
    """Return the report of a first step on a host whose Triton does not answer."""
    return StepReport(
        server=ServerName("gpu-1"),
        unix_s=UNIX_S,
        seen=Observation(NOW_S, None, "waiting for Triton at 127.0.0.1:8001: connection refused", None),
        steps=1,
        plan=None,
        state=SchedulerState(),
        limits=LIMITS,
        plan_s=0.0,
        step_s=0.002,
    )


def seeing(report: StepReport, **changes: Any) -> StepReport:
    """Return a report whose observation differs."""
    return replace(report, seen=replace(report.seen, **changes))
