"""What a plan carries from step to step, all of it rebuilt by running: lose it and the same plan is reached later.

Timers are times on the controller's clock at which a condition began to hold without a break, never counts of steps.

Configs that failed to load are quarantined: left alone for a growing time, with Triton's reason. Each failed reload of
a loaded model costs Triton 2.51 something that only a restart gives back (its shutdown waits for an entry that nothing
erases, and a failed session may leak), so trying again at once is worse than waiting. What is quarantined is a model
with one exact config: another batching may load at once.

What each kind of change takes on this host is measured. Until a kind has been seen its price is what it took on
NVIDIA's image and the embedded server at the slow end (docs/architecture.md); from then on a decaying mean of what it
took here, per kind, because widths differ far less than kinds do.

How long a batch takes by its size is remembered size by size. A plain fit with forgetting would lose what it rests on:
once batching works, every batch has the same size, small ones are forgotten, and the fixed part b, the very reason for
batching, can no longer be kept apart from a. So each size class (a power of two) has a mean of its own, kept for as
long as it may still be true, and the line is fitted through the classes. With one class only the curve is unknown, and
says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.actions import Action, ActionKind, ActionReason, Outcome
from orchestrator.planner.host import Batching, Limits
from orchestrator.planner.ledgers.memory_ledger import MemoryLedger
from orchestrator.planner.ledgers.rivalry import Rivalry
from orchestrator.planner.ledgers.thread_ledger import ThreadLedger
from orchestrator.profile.fit import weighted_fit
from orchestrator.snapshot import ModelName

_BUILDS = (ActionKind.LOAD, ActionKind.SCALE_UP, ActionKind.RELOAD)
_GIVES_WAY = (ActionReason.MAKE_ROOM, ActionReason.IDLE, ActionReason.OVER_BUDGET)
_SIZES = (ActionReason.BATCHING_GAIN, ActionReason.BATCHING_TOO_LONG, ActionReason.BATCHING_NEEDLESS)
BAR_S = 3600.0
"""The time for which no batching is tried after one that did harm; doubles with each in a row, up to a day."""
_REPAIRS = (ActionReason.DEAD_INSTANCE, ActionReason.FAILING)
UNMEASURED_S: Mapping[ActionKind, float] = {
    ActionKind.LOAD: 1.5,
    ActionKind.SCALE_UP: 0.3,
    ActionKind.SCALE_DOWN: 1.2,
    ActionKind.RELOAD: 1.5,
    ActionKind.UNLOAD: 0.5,
}
KEPT_PRICE_RATIO = 0.7
"""Weight of the old mean of a price when a new measurement comes."""
KEPT_CLASS_RATIO = 0.8
"""Weight of a class's old mean when a window comes in."""
CLASS_MEMORY_S = 900.0
"""Age at which a class that was not seen again is forgotten; machines change."""
MIN_SPREAD = 1.5
"""Largest over smallest mean size below which two classes are one."""


@dataclass(frozen=True, slots=True)
class SizeClass:
    """Batches of about one size, their means, and when a window of them was last seen on the controller's clock."""

    items: float
    run_s: float
    seen_s: float


@dataclass(frozen=True, slots=True)
class BatchCurve:
    """Mean duration by size class; immutable."""

    classes: Mapping[int, SizeClass] = field(default_factory=dict)

    def observe(self, items: float, run_s: float, *, now_s: float) -> BatchCurve:
        """Return the curve after a window in which batches of ``items`` on average took ``run_s`` on average.

        Where batches of one window differed in size, ``run_s`` leans to the larger ones (see ``Rates.service_s``). That
        takes from b and adds to a, so batching is thought to gain less than it does.
        """
        if items < 1:
            return self
        key = round(math.log2(items))
        old = self.classes.get(key)
        if old is not None:
            items = KEPT_CLASS_RATIO * old.items + (1 - KEPT_CLASS_RATIO) * items
            run_s = KEPT_CLASS_RATIO * old.run_s + (1 - KEPT_CLASS_RATIO) * run_s
        recent = {k: c for k, c in self.classes.items() if now_s - c.seen_s <= CLASS_MEMORY_S}
        return BatchCurve({**recent, key: SizeClass(items, run_s, now_s)})

    def line(self) -> tuple[float, float] | None:
        """Return (a seconds an item, b seconds a batch), neither below 0; None when sizes differ too little."""
        sizes = [c.items for c in self.classes.values()]
        if not sizes or max(sizes) < MIN_SPREAD * min(sizes):
            return None
        return weighted_fit([(1.0, c.items, c.run_s) for c in self.classes.values()]).line()


@dataclass(frozen=True, slots=True)
class Trial:
    """What was before a batching was changed: what to go back to, and the items that were answered a second."""

    batching: Batching
    items_per_s: float


@dataclass(frozen=True, slots=True)
class ModelMemory:
    """What is remembered of one model.

    Attributes:
        curve: The seconds that a batch takes, by its items.
        items_per_s: The smoothed rate of arrivals.
        busy_instances: The smoothed number of instances that run.
        waiting_requests: The smoothed number of requests that wait.
        recent_items_per_s: The rate of arrivals, smoothed over the last two seconds or so.
        steady_since_s: Since when the two rates have differed little.
        pressed_since_s: Since when requests have waited on busy instances; None: they do not.
        slack_since_s: Since when one instance fewer would have done.
        idle_since_s: Since when no request has come.
        dead_since_s: Since when fewer stubs than instances have lived.
        failing_since_s: Since when so many answers have been errors that an instance must be broken.
        foreign_since_s: Since when it has run with a batching that is neither its files' nor ours.
        moving_since_s: Since when it has been loading or unloading.
        changed_s: When it was last changed by an action.
        batching_changed_s: When its batching was last changed.
        unloaded_s: When it was last taken out, to make room or because it was idle.
        sized_batching: The batching that we found worth its reload; None: none.
        trial: What was before that batching, while it has not been proven; None: nothing is on trial.
        trials_failed: The number of trials in a row that did harm.
        barred_until_s: Until when no other batching is tried; None: it may be.
        files_stamp: The stamp of its files when they were seen last.
        drift_failures: The number of reloads in a row that failed to follow these files.
        repairs: The number of repairs in a row that did not last.
        repaired_s: When the last repair ended.
    """

    curve: BatchCurve = field(default_factory=BatchCurve)
    items_per_s: float = 0.0
    recent_items_per_s: float = 0.0
    steady_since_s: float | None = None
    busy_instances: float = 0.0
    waiting_requests: float = 0.0
    pressed_since_s: float | None = None
    slack_since_s: float | None = None
    idle_since_s: float | None = None
    dead_since_s: float | None = None
    failing_since_s: float | None = None
    foreign_since_s: float | None = None
    moving_since_s: float | None = None
    changed_s: float | None = None
    batching_changed_s: float | None = None
    unloaded_s: float | None = None
    sized_batching: Batching | None = None
    trial: Trial | None = None
    trials_failed: int = 0
    barred_until_s: float | None = None
    files_stamp: str = ""
    drift_failures: int = 0
    repairs: int = 0
    repaired_s: float | None = None


_BLANK = ModelMemory()  # made once: a plan asks for a model's memory some thirty times


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """After how many failures in a row, and until when on the controller's clock, one config is left alone.

    The reason is Triton's, for the last failure.
    """

    failures: int
    until_s: float
    reason: str


ConfigKey = tuple[ModelName, int, Batching]
"""Model, instances and batching: what a load can fail for."""


@dataclass(frozen=True, slots=True)
class Quarantine:
    """The configs that failed, by what they were; immutable."""

    entries: Mapping[ConfigKey, QuarantineEntry] = field(default_factory=dict)

    def entry(self, key: ConfigKey, *, now_s: float) -> QuarantineEntry | None:
        """Return why a config must not be tried now, None when it may."""
        found = self.entries.get(key)
        return found if found is not None and now_s < found.until_s else None

    def at(self, now_s: float) -> Mapping[ConfigKey, QuarantineEntry]:
        """Return the entries that still hold."""
        return {key: entry for key, entry in self.entries.items() if now_s < entry.until_s}

    def fail(self, key: ConfigKey, reason: str, *, now_s: float, first_s: float, max_s: float) -> Quarantine:
        """Return the quarantine after one more failure."""
        old = self.entries.get(key)
        if old is not None and now_s - old.until_s >= max_s:
            old = None
        failures = 1 if old is None else old.failures + 1
        delay_s = min(max_s, first_s * 2.0 ** min(failures - 1, 30))
        # What was over so long ago that it would begin anew is forgotten.
        kept = {k: entry for k, entry in self.entries.items() if now_s - entry.until_s < max_s}
        return replace(self, entries={**kept, key: QuarantineEntry(failures, now_s + delay_s, reason)})

    def pardon(self, model: ModelName) -> Quarantine:
        """Return the quarantine after any load of the model succeeded: what was wrong with it is over."""
        return replace(self, entries={k: entry for k, entry in self.entries.items() if k[0] != model})


@dataclass(frozen=True, slots=True)
class Prices:
    """Mean duration of each kind of action that has been seen; immutable."""

    measured_s: Mapping[ActionKind, float] = field(default_factory=dict)

    def price_s(self, kind: ActionKind) -> float:
        """Return what an action of this kind is expected to take."""
        return self.measured_s.get(kind, UNMEASURED_S[kind])

    def record(self, outcome: Outcome) -> Prices:
        """Return the prices after an action; failed ones end early or late and say nothing."""
        if outcome.error is not None:
            return self
        kind, took_s = outcome.action.kind, outcome.ended_s - outcome.began_s
        old_s = self.measured_s.get(kind)
        mean_s = took_s if old_s is None else KEPT_PRICE_RATIO * old_s + (1 - KEPT_PRICE_RATIO) * took_s
        return replace(self, measured_s={**self.measured_s, kind: mean_s})


@dataclass(frozen=True, slots=True)
class SchedulerState:
    """Everything a plan remembers; immutable."""

    models: Mapping[ModelName, ModelMemory] = field(default_factory=dict)
    memory: MemoryLedger = field(default_factory=MemoryLedger)
    prices: Prices = field(default_factory=Prices)
    quarantine: Quarantine = field(default_factory=Quarantine)
    rivalry: Rivalry = field(default_factory=Rivalry)
    threads: ThreadLedger = field(default_factory=ThreadLedger)

    def model(self, name: ModelName) -> ModelMemory:
        """Return what is remembered of a model; blank of one never seen."""
        return self.models.get(name, _BLANK)

    def record(self, outcome: Outcome, limits: Limits) -> SchedulerState:
        """Return the state after an action ended that Triton has seen."""
        action, ended_s = outcome.action, outcome.ended_s
        memory = replace(self.model(action.model), changed_s=ended_s)
        quarantine = self.quarantine
        if outcome.error is None:
            memory = _learn_batching(memory, action, ended_s)
        elif action.reason is ActionReason.DRIFTED:
            memory = replace(memory, drift_failures=memory.drift_failures + 1)
        # A success pardons every config of the model; a failure says nothing of the others.
        if outcome.error is not None:
            key = (action.model, action.instances, action.batching)
            first_s, max_s = limits.settings.quarantine_s, limits.settings.quarantine_max_s
            quarantine = quarantine.fail(key, outcome.error, now_s=ended_s, first_s=first_s, max_s=max_s)
        elif action.kind is ActionKind.UNLOAD and action.reason in _GIVES_WAY:
            memory = replace(memory, unloaded_s=ended_s)
        elif action.kind in _BUILDS:
            quarantine = quarantine.pardon(action.model)
        if action.kind is ActionKind.RELOAD and action.reason in _REPAIRS:
            memory = replace(memory, repairs=memory.repairs + 1, repaired_s=ended_s)
        elif action.kind is ActionKind.RELOAD and action.reason is not ActionReason.QUEUEING:
            memory = replace(memory, batching_changed_s=ended_s)
        return replace(
            self,
            models={**self.models, action.model: memory},
            memory=self.memory.record(outcome, has_shared_runtime=limits.has_shared_runtime),
            prices=self.prices.record(outcome),
            quarantine=quarantine,
            rivalry=self.rivalry.record(outcome),
        )


def _learn_batching(memory: ModelMemory, action: Action, ended_s: float) -> ModelMemory:
    """Return what is remembered after a change that may have been one of batching."""
    if action.reason is ActionReason.BATCHING_HARMFUL:
        # Clients that it throttles will still be there in an hour, so each further trial is rarer.
        bar_s = min(24 * BAR_S, BAR_S * 2.0 ** min(10, memory.trials_failed))
        return replace(
            memory,
            sized_batching=action.batching,
            trial=None,
            trials_failed=memory.trials_failed + 1,
            barred_until_s=ended_s + bar_s,
        )
    if action.reason in _SIZES:
        is_gain = action.reason is ActionReason.BATCHING_GAIN
        trial = Trial(action.batching_before, memory.items_per_s) if is_gain else None
        return replace(memory, sized_batching=action.batching, trial=trial)
    return memory
