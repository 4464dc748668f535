"""Pure: what a host's Triton should serve, with how many instances and in which batches."""

from orchestrator.planner.actions import (
    Action,
    ActionKind,
    ActionReason,
    Notice,
    NoticeKind,
    Outcome,
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
from orchestrator.planner.plan import plan
from orchestrator.planner.plan_builder import still_fits
from orchestrator.planner.rates import Counters, Rates, measure_rates
from orchestrator.planner.state import SchedulerState

__all__ = [
    "Action",
    "ActionKind",
    "ActionReason",
    "Batching",
    "Counters",
    "HostSnapshot",
    "Limits",
    "LoadedModel",
    "ModelSnapshot",
    "ModelStatus",
    "Notice",
    "NoticeKind",
    "Outcome",
    "Plan",
    "Rates",
    "Refusal",
    "RefusalReason",
    "RepositoryModel",
    "SchedulerState",
    "measure_rates",
    "plan",
    "still_fits",
]
