"""A plan while it is made: what has been decided so far, and what that leaves.

Only ``planner`` uses it, within one call. Memory is reserved as actions are added, and what an unload will give back
counts only for the action it makes room for; whoever carries the plan out reads the memory again before each action
(``still_fits``), because an unload may give back less than it should.
"""

from __future__ import annotations

from orchestrator.planner.actions import (
    Action,
    ActionKind,
    ActionReason,
    Notice,
    NoticeKind,
    Numbers,
    Plan,
    Refusal,
    RefusalReason,
)
from orchestrator.planner.host import HostSnapshot, Limits, ModelSnapshot
from orchestrator.planner.ledgers.memory_ledger import SizeEstimates
from orchestrator.planner.state import ModelMemory, SchedulerState
from orchestrator.snapshot import Family, ModelName


def still_fits(action: Action, memory_used_bytes: int | None, limits: Limits) -> bool:
    """Return whether an action may begin with so much memory in use; one that needs none always may."""
    if action.needed_bytes == 0:
        return True
    if memory_used_bytes is None:
        return action.reason is ActionReason.MINIMUM_SET
    return memory_used_bytes + action.needed_bytes <= limits.memory_budget_bytes


class PlanBuilder:
    """Collects actions, refusals and notices; everything it is given is left as it is.

    Actions are made by ``changes``, and what they take is estimated by ``sizes``. The state has been brought up to date
    with the snapshot. There is a method for each kind of change, and a question for each amount that bounds one: the
    rules of scaling say when, and this alone does the sums.
    """

    def __init__(self, snapshot: HostSnapshot, state: SchedulerState, limits: Limits, now_s: float) -> None:
        self.snapshot = snapshot
        self.state = state
        self.limits = limits
        self.settings = limits.settings
        self.now_s = now_s
        self.models = {seen.name: seen for seen in sorted(snapshot.models, key=lambda s: (s.model.width, s.name))}
        self.sizes = SizeEstimates(self.models.values(), state.memory, limits)
        self.families_lacking_memory: set[Family] = set()
        """Families whose growth has found no room."""
        self._actions: list[Action] = []
        self._refusals: list[Refusal] = []
        self._notices: list[Notice] = []
        # What is or will be held, while ``_desired`` is what should be.
        self._instances = {
            name: max(1, seen.loaded.instances) if seen.is_ready or snapshot.is_moving(seen) else 0
            for name, seen in self.models.items()
        }
        self._desired = {name: seen.loaded.instances if seen.is_ready else 0 for name, seen in self.models.items()}
        self._reserved_bytes = sum(
            self.sizes.load_bytes(seen, max(1, seen.loaded.instances))
            for seen in snapshot.models
            if snapshot.is_moving(seen)
        )

    def finish(self) -> Plan:
        """Return the plan as it stands."""
        return Plan(
            actions=tuple(self._actions),
            refusals=tuple(sorted(self._refusals, key=lambda r: (r.model, r.kind, r.reason))),
            notices=tuple(self._notices),
            desired_instances=tuple(sorted(self._desired.items())),
        )

    def memory(self, seen: ModelSnapshot) -> ModelMemory:
        """Return what is remembered of a model."""
        return self.state.model(seen.name)

    def may_touch(self, seen: ModelSnapshot) -> bool:
        """Return whether a model may be acted on: nothing is under way with it, nor planned for it."""
        return not self.snapshot.is_moving(seen) and all(action.model != seen.name for action in self._actions)

    def is_settled(self, seen: ModelSnapshot) -> bool:
        """Return whether a model serves and its last change is long enough ago to be judged by."""
        changed_s = self.memory(seen).changed_s
        is_cool = changed_s is None or self.now_s - changed_s >= self.settings.cooldown_s
        return seen.is_ready and is_cool and self.may_touch(seen)

    def has_held(self, since_s: float | None, duration_s: float) -> bool:
        """Return whether a condition has held for so long."""
        return since_s is not None and self.now_s - since_s >= duration_s

    def elapsed_s(self, since_s: float | None) -> float:
        """Return for how long a condition has held; 0 when it does not."""
        return 0.0 if since_s is None else self.now_s - since_s

    def is_kept(self, seen: ModelSnapshot) -> bool:
        """Return whether a model may not be unloaded: of the minimum set, or demanded."""
        return seen.name in self.limits.minimum or self.is_demanded(seen)

    def is_demanded(self, seen: ModelSnapshot) -> bool:
        """Return whether someone has asked for a model to be kept."""
        return seen.demanded_until_s is not None and self.now_s < seen.demanded_until_s

    def weight(self, family: Family) -> float:
        """Return what a family counts for where families compete."""
        return self.limits.weights.get(family, 1.0)

    def share_bytes(self, family: Family, extra_bytes: int = 0) -> float:
        """Return the memory that a family holds by this plan, and so much more, for each unit of its weight."""
        held_bytes = sum(
            self.sizes.load_bytes(seen, self._instances[seen.name])
            for seen in self.models.values()
            if seen.model.family == family and self._instances[seen.name]
        )
        return (held_bytes + extra_bytes) / self.weight(family)

    def lacking_bytes(self, needed_bytes: int) -> int | None:
        """Return by how much something does not fit, 0 when it does, None when memory is unknown."""
        used = self.snapshot.memory_used_bytes
        if used is None:
            return None
        return max(0, used + self._reserved_bytes + needed_bytes - self.limits.memory_budget_bytes)

    def memory_numbers(self, needed_bytes: int) -> Numbers:
        """Return the numbers behind a decision about memory."""
        used = self.snapshot.memory_used_bytes
        numbers: list[tuple[str, float]] = [("budget_bytes", self.limits.memory_budget_bytes)]
        if used is not None:
            numbers.append(("used_bytes", used))
        if self._reserved_bytes:
            numbers.append(("reserved_bytes", self._reserved_bytes))
        return (*numbers, ("needed_bytes", needed_bytes))

    def want(self, seen: ModelSnapshot, instances: int) -> None:
        """Note how many instances a model should have, whether or not it may."""
        self._desired[seen.name] = instances

    def add(self, action: Action, *, freed_bytes: int = 0) -> bool:
        """Add an action that has been found to fit, unless it is barred; return whether it was added.

        Of its memory, earlier actions of the plan give ``freed_bytes`` back for it.
        """
        if self.refuse_barred(action):
            return False
        self._actions.append(action)
        self._reserved_bytes += max(0, action.needed_bytes - freed_bytes)
        self._desired[action.model] = self._instances[action.model] = action.instances
        return True

    def add_if_fits(self, action: Action) -> bool:
        """Add an action, or the refusal that its memory calls for; return whether it was added."""
        lacking = self.lacking_bytes(action.needed_bytes)
        if lacking is None and action.reason is not ActionReason.MINIMUM_SET:
            self.refuse(action, RefusalReason.MEMORY_UNKNOWN, self.memory_numbers(action.needed_bytes))
            return False
        if lacking:
            is_assumed = not self.state.memory.is_measured(action.model)
            detail = "what it needs is assumed, it has not been measured yet" if is_assumed else ""
            self.refuse(action, RefusalReason.MEMORY_BUDGET, self.memory_numbers(action.needed_bytes), detail)
            return False
        return self.add(action)

    def refuse_barred(self, action: Action) -> bool:
        """Refuse an action whose config is quarantined, or that may load other weights; return whether it was.

        Triton reads the weights again for a further instance that is a stub, and with any change once the file is
        newer than what it has loaded.
        """
        seen = self.models.get(action.model)
        if seen is not None and seen.model.damage and action.kind is not ActionKind.UNLOAD:
            self.refuse(action, RefusalReason.WEIGHTS_DIFFER, (), seen.model.damage)
            return True
        key = (action.model, action.instances, action.batching)
        entry = self.state.quarantine.entry(key, now_s=self.now_s)
        if entry is not None:
            numbers: Numbers = (("failures", entry.failures), ("retry_in_s", entry.until_s - self.now_s))
            self.refuse(action, RefusalReason.QUARANTINED, numbers, entry.reason)
        return entry is not None

    def refuse(self, action: Action, reason: RefusalReason, numbers: Numbers, detail: str = "") -> None:
        """Note that an action would be taken and may not."""
        self._refusals.append(Refusal(action.kind, action.model, reason, numbers, detail))

    def notify(self, kind: NoticeKind, model: ModelName | None, numbers: Numbers = (), detail: str = "") -> None:
        """Note what an operator should know."""
        self._notices.append(Notice(kind, model, numbers, detail))
