"""Pure: what a host's Triton should serve, with how many instances and in which batches."""

from orchestrator.scheduling.actions import (
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
from orchestrator.scheduling.draft import still_fits
from orchestrator.scheduling.host import (
    Batching,
    HostSnapshot,
    LoadedModel,
    ModelSnapshot,
    ModelStatus,
    RepositoryModel,
)
from orchestrator.scheduling.limits import Limits
from orchestrator.scheduling.planner import plan
from orchestrator.scheduling.rates import Counters, Rates, measure_rates
from orchestrator.scheduling.state import SchedulerState

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
