"""What models really take: learned from readings before and after each change, and what was never given back.

Where instances are processes their sizes can be seen at any time, which is how a controller that was started anew
knows what runs already, and how growth under load is noticed. Everywhere else memory is known from its changes.

Memory is measured, not believed. A load is charged with what the reading rose by, an instance change with its rise
per instance; estimates are the largest of the last readings, because a budget is a promise and an underestimate
breaks it. An unload that gives back less than was learned leaves a residue in the ledger; one that gives back more
repays it, so noise cancels and a leak adds up. Where instances are processes no sum is needed: what the server holds
beside them, less what it held when it was first seen, is the residue, whenever it came about.

``SizeEstimates`` says what loads and instances will take: as learned, or as assumed from their siblings. Estimates that
are held against the budget have the settings' margin; what an unload is credited with has none, because it is only
hoped for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from orchestrator.planner.actions import ActionKind, Outcome
from orchestrator.planner.host import Limits, ModelSnapshot
from orchestrator.snapshot import ModelName

REMEMBERED_READINGS = 5
"""An estimate is the largest of so many, so that one reading disturbed by something else is forgotten."""
LEDGER_ENTRIES = 50
"""Kept for the status page; the total counts all."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one unload, scale-down or reload did not give back.

    Attributes:
        at_s: When it ended, seconds on the controller's clock.
        expected_bytes: The size that was learned when the model grew; 0 for a reload.
        returned_bytes: The size that the reading fell by.
    """

    at_s: float
    model: ModelName
    expected_bytes: int
    returned_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryLedger:
    """Learned sizes and residues of one Triton process; immutable.

    Attributes:
        loads_bytes: The last rises of a load with one instance by model, oldest first.
        instances_bytes: The last rises of one further instance by model, oldest first.
        balance_bytes: The sum of what was not given back, less what was given back beyond expectation.
        entries: The last residues, oldest first.
        server_id: The server process that they belong to.
        has_loaded: Whether that process has been seen to load anything.
        seen_bytes: The largest instance of each model as last seen, where instances are processes.
        first_overhead_bytes: What the server held beside its instances when it was first seen; None: can't be seen.
        overhead_bytes: What the server holds beside them now; None as above.
    """

    loads_bytes: Mapping[ModelName, tuple[int, ...]] = field(default_factory=dict)
    instances_bytes: Mapping[ModelName, tuple[int, ...]] = field(default_factory=dict)
    balance_bytes: int = 0
    entries: tuple[LedgerEntry, ...] = ()
    server_id: str | None = None
    has_loaded: bool = False
    seen_bytes: Mapping[ModelName, int] = field(default_factory=dict)
    first_overhead_bytes: int | None = None
    overhead_bytes: int | None = None

    @property
    def residue_bytes(self) -> int:
        """What was not given back in all, never below 0."""
        if self.overhead_bytes is not None and self.first_overhead_bytes is not None:
            return max(0, self.overhead_bytes - self.first_overhead_bytes)
        return max(0, self.balance_bytes)

    def follow(self, server_id: str | None) -> MemoryLedger:
        """Return the ledger for a Triton process: sizes are kept, a new process owes nothing."""
        if server_id is None or server_id == self.server_id:
            return self
        if self.server_id is None:  # the same process as far as anyone knows, seen for the first time
            return replace(self, server_id=server_id)
        return MemoryLedger(self.loads_bytes, self.instances_bytes, server_id=server_id, seen_bytes=self.seen_bytes)

    def observe(self, seen_bytes: Mapping[ModelName, int], overhead_bytes: int | None = None) -> MemoryLedger:
        """Return the ledger with these models' instances, and what the server holds beside all, as they are now."""
        if overhead_bytes is None and not seen_bytes:
            return self
        first = overhead_bytes if self.first_overhead_bytes is None else self.first_overhead_bytes
        return replace(
            self,
            seen_bytes={**self.seen_bytes, **seen_bytes},
            first_overhead_bytes=first,
            overhead_bytes=self.overhead_bytes if overhead_bytes is None else overhead_bytes,
        )

    def is_measured(self, model: ModelName) -> bool:
        """Return whether anything is known of what a model takes."""
        return model in self.loads_bytes or model in self.seen_bytes

    def instance_bytes(self, model: ModelName, *, unmeasured_bytes: int) -> int:
        """Return what one further instance of a model takes; of one never measured, what its load took."""
        return self._largest(model, self.instances_bytes.get(model) or self.loads_bytes.get(model), unmeasured_bytes)

    def load_bytes(self, model: ModelName, instances: int, *, unmeasured_bytes: int) -> int:
        """Return what a load with so many instances takes."""
        first = self._largest(model, self.loads_bytes.get(model), unmeasured_bytes)
        return first + (instances - 1) * self.instance_bytes(model, unmeasured_bytes=unmeasured_bytes)

    def given_bytes(self, model: ModelName) -> int:
        """Return the least that an instance of a model was seen to take, of several; 0 while nothing is known of it."""
        return min(self._sizes(model, self.instances_bytes.get(model) or self.loads_bytes.get(model)), default=0)

    def _largest(self, model: ModelName, learned: tuple[int, ...] | None, unmeasured_bytes: int) -> int:
        sizes = self._sizes(model, learned)
        return max(sizes) if sizes else self._unseen_bytes(unmeasured_bytes)

    def _sizes(self, model: ModelName, learned: tuple[int, ...] | None) -> tuple[int, ...]:
        return (*(learned or ()), *([self.seen_bytes[model]] if model in self.seen_bytes else ()))

    def _unseen_bytes(self, unmeasured_bytes: int) -> int:
        # A sibling may be larger than what settings assume, and a width never seen larger than its siblings; the
        # settings' figure stays the floor until the width itself has been measured.
        learned = (max(sizes) for sizes in self.loads_bytes.values())
        return max([unmeasured_bytes, *learned, *self.seen_bytes.values()])

    def record(self, outcome: Outcome, *, has_shared_runtime: bool = False) -> MemoryLedger:
        """Return the ledger after an action.

        Failed actions and those without both readings show nothing. A reload shows no size; with as many instances as
        before it should leave memory as it was, and what it leaves beyond is residue: Triton 2.51 keeps the living
        stubs of a version of which one has died.
        """
        before, after = outcome.memory_before_bytes, outcome.memory_after_bytes
        if outcome.error is not None or before is None or after is None:
            return self
        action = outcome.action
        change = action.instances - outcome.instances_before
        match action.kind:
            # The first load also brings in the runtime's libraries, which would be taken for the model's size.
            case ActionKind.LOAD if has_shared_runtime and not self.has_loaded:
                return replace(self, has_loaded=True)
            case ActionKind.LOAD if action.instances == 1:
                loads = _remember(self.loads_bytes, action.model, after - before)
                return replace(self, loads_bytes=loads, has_loaded=True)
            case ActionKind.SCALE_UP if change > 0:
                each = (after - before) // change
                return replace(self, instances_bytes=_remember(self.instances_bytes, action.model, each))
            case ActionKind.SCALE_DOWN | ActionKind.UNLOAD:
                expected = self._learned_bytes(action.model, outcome.instances_before, action.instances)
                return self if expected is None else self._book(outcome, expected, before - after)
            case ActionKind.RELOAD if change == 0:
                return self._book(outcome, 0, before - after)
            case _:
                return self

    def _book(self, outcome: Outcome, expected: int, returned_bytes: int) -> MemoryLedger:
        entry = LedgerEntry(outcome.ended_s, outcome.action.model, expected, returned_bytes)
        return replace(
            self,
            balance_bytes=self.balance_bytes + expected - returned_bytes,
            entries=(*self.entries, entry)[-LEDGER_ENTRIES:],
        )

    def _learned_bytes(self, model: ModelName, instances_before: int, instances_after: int) -> int | None:
        """Return what going down should give back by what was last learned; None when nothing was."""
        loads, instances = self.loads_bytes.get(model), self.instances_bytes.get(model)
        further = instances_before - max(1, instances_after)
        if (further and not instances) or (instances_after == 0 and not loads):
            return None
        first = loads[-1] if loads and instances_after == 0 else 0
        return first + (further * instances[-1] if instances else 0)


def _remember(
    readings: Mapping[ModelName, tuple[int, ...]], model: ModelName, rise_bytes: int
) -> Mapping[ModelName, tuple[int, ...]]:
    kept = (*readings.get(model, ()), max(0, rise_bytes))[-REMEMBERED_READINGS:]
    return {**readings, model: kept}


class SizeEstimates:
    """Sizes of the models of one repository: the ledger's, or what the limits assume of those never measured."""

    def __init__(self, models: Iterable[ModelSnapshot], ledger: MemoryLedger, limits: Limits) -> None:
        self._models = tuple(models)
        self._ledger = ledger
        self._limits = limits

    def load_bytes(self, seen: ModelSnapshot, instances: int) -> int:
        """Return what a load with so many instances takes, margin included."""
        return self._with_margin(
            self._ledger.load_bytes(seen.name, instances, unmeasured_bytes=self._assumed_bytes(seen))
        )

    def instance_bytes(self, seen: ModelSnapshot) -> int:
        """Return what one further instance takes, margin included."""
        return self._with_margin(self._ledger.instance_bytes(seen.name, unmeasured_bytes=self._assumed_bytes(seen)))

    def learned_bytes(self, seen: ModelSnapshot) -> int:
        """Return what unloading a model should give back, without margin; 0 while nothing is known of it."""
        if not self._ledger.is_measured(seen.name):
            return 0
        return self._ledger.load_bytes(seen.name, max(1, seen.loaded.instances), unmeasured_bytes=0)

    def given_bytes(self, seen: ModelSnapshot) -> int:
        """Return what a model of several instances gives back at least with one, without margin; 0 while unknown."""
        return self._ledger.given_bytes(seen.name)

    def _assumed_bytes(self, seen: ModelSnapshot) -> int:
        """Return what an instance is taken for before one has been measured: the settings' figure, or less by siblings.

        What an instance computes with grows with the width, what it holds by its weights, of which a runtime keeps up
        to three copies while it loads.
        """
        guesses = [self._limits.unmeasured_instance_bytes]
        for other in self._models:
            if other.name != seen.name and self._ledger.is_measured(other.name):
                size = self._ledger.load_bytes(other.name, 1, unmeasured_bytes=0)
                wider_ratio = max(1.0, seen.model.width / other.model.width)
                heavier_bytes = max(0, seen.model.weights_bytes - other.model.weights_bytes)
                guesses.append(int(size * wider_ratio) + 3 * heavier_bytes)
        return min(guesses)

    def _with_margin(self, learned_bytes: int) -> int:
        return int(learned_bytes * (1 + self._limits.settings.memory_margin))
