"""What a plan carries from step to step, all of it rebuilt by running: lose it and the same plan is reached later.

Timers are times on the controller's clock at which a condition began to hold without a break, never counts of steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.scheduling.actions import ActionKind, ActionReason, Outcome
from orchestrator.scheduling.curve import BatchCurve
from orchestrator.scheduling.limits import Limits
from orchestrator.scheduling.memory import MemoryLedger
from orchestrator.scheduling.prices import Prices
from orchestrator.scheduling.quarantine import Quarantine
from orchestrator.snapshot import ModelName

_BUILDS = (ActionKind.LOAD, ActionKind.SCALE_UP, ActionKind.RELOAD)
_REPAIRS = (ActionReason.DEAD_INSTANCE, ActionReason.FAILING)


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What is remembered of one model.

    Attributes:
        curve: seconds a batch takes, by its items.
        items_per_s: smoothed arrival rate.
        busy_instances: smoothed number of instances that run.
        waiting_requests: smoothed number that wait.
        pressed_since_s: requests have waited on busy instances since then; None: they do not.
        slack_since_s: one instance fewer would have done since then.
        idle_since_s: no request has come since then.
        dead_since_s: fewer stubs than instances have lived since then.
        failing_since_s: every answer has been an error since then.
        moving_since_s: it has been loading or unloading since then.
        changed_s: when it was last changed by an action.
        batching_changed_s: when its batching was.
        unloaded_s: when it was last taken out, to make room or because it was idle.
        repairs: in a row that did not last.
        repaired_s: when the last one ended.
    """

    curve: BatchCurve = field(default_factory=BatchCurve)
    items_per_s: float = 0.0
    busy_instances: float = 0.0
    waiting_requests: float = 0.0
    pressed_since_s: float | None = None
    slack_since_s: float | None = None
    idle_since_s: float | None = None
    dead_since_s: float | None = None
    failing_since_s: float | None = None
    moving_since_s: float | None = None
    changed_s: float | None = None
    batching_changed_s: float | None = None
    unloaded_s: float | None = None
    repairs: int = 0
    repaired_s: float | None = None


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """Everything a plan remembers; immutable.

    Attributes:
        models: by name.
        memory: learned sizes and residues.
        prices: learned durations.
        quarantine: configs that failed.
    """

    models: Mapping[ModelName, ModelMemory] = field(default_factory=dict)
    memory: MemoryLedger = field(default_factory=MemoryLedger)
    prices: Prices = field(default_factory=Prices)
    quarantine: Quarantine = field(default_factory=Quarantine)

    def model(self, name: ModelName) -> ModelMemory:
        """Return what is remembered of a model; blank of one never seen."""
        return self.models.get(name, ModelMemory())

    def record(self, outcome: Outcome, *, instances_before: int, limits: Limits) -> SchedulerState:
        """Return the state after an action ended.

        Args:
            outcome: of the action.
            instances_before: that the model ran with when it began; 0 when it was not loaded.
            limits: for the length of a quarantine.
        """
        action, ended_s = outcome.action, outcome.ended_s
        memory = replace(self.model(action.model), changed_s=ended_s)
        quarantine = self.quarantine
        if outcome.error is not None:
            key = (action.model, action.instances, action.batching)
            quarantine = quarantine.fail(
                key, outcome.error, now_s=ended_s, first_s=limits.quarantine_s, max_s=limits.quarantine_max_s
            )
        elif action.kind is ActionKind.UNLOAD and action.reason is not ActionReason.DEAD_INSTANCE:
            memory = replace(memory, unloaded_s=ended_s)
        elif action.kind in _BUILDS:
            quarantine = quarantine.pardon(action.model)
        if action.kind is ActionKind.RELOAD and action.reason in _REPAIRS:
            memory = replace(memory, repairs=memory.repairs + 1, repaired_s=ended_s)
        elif action.kind is ActionKind.RELOAD:
            memory = replace(memory, batching_changed_s=ended_s)
        return replace(
            self,
            models={**self.models, action.model: memory},
            memory=self.memory.record(
                outcome, instances_before=instances_before, has_shared_runtime=limits.has_shared_runtime
            ),
            prices=self.prices.record(outcome),
            quarantine=quarantine,
        )
