"""What loads and instances of a host's models will take: as learned, or as assumed from their siblings.

Estimates that are held against the budget have the settings' margin; what an unload is credited with has none, because
it is only hoped for.
"""

from __future__ import annotations

from collections.abc import Iterable

from orchestrator.planner.estimates.memory_ledger import MemoryLedger
from orchestrator.planner.host import ModelSnapshot
from orchestrator.planner.limits import Limits


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
