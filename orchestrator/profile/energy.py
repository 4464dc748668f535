"""What a batch costs in joules on a server with a model: per_item_j·n + fixed_j, or unknown.

These are joules above what the server draws anyway: the marginal energy of the batch. Idle power belongs to the
server and not to a request, so it is kept apart (see ``orchestrator.profile``); a policy that weighs candidates must
not be told that a request costs less where the machine idles more. Unknown is None, never 0: a server that can't be
measured is not free.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from orchestrator.snapshot import ModelName, ServerName


class EnergySource(StrEnum):
    """The source of joules; reported wherever they are."""

    ENERGY_COUNTER = "energy-counter"
    """The device counts energy itself; differences of its counter."""
    INSTANT = "instant"
    """Power readings integrated over time."""
    RAPL = "rapl"
    """The counters of the CPU packages."""
    ESTIMATED = "estimated"
    """A stated power model times a measured duration; nothing was measured in joules."""


@dataclass(frozen=True, slots=True)
class EnergyLine:
    """Energy of batches of one (server, model)."""

    per_item_j: float
    fixed_j: float
    source: EnergySource

    def of_batch(self, items: int) -> float:
        """Return the joules of a batch of ``items``."""
        return self.per_item_j * items + self.fixed_j


@dataclass(frozen=True, slots=True)
class EnergyTable:
    """The energy of batches on all servers and models of which it is known."""

    lines: Mapping[tuple[ServerName, ModelName], EnergyLine] = field(default_factory=dict)

    def start(self, server: ServerName, model: ModelName, line: EnergyLine | None) -> EnergyTable:
        """Return the table with ``line``, or nothing, as what is known of one model."""
        others = {key: known for key, known in self.lines.items() if key != (server, model)}
        return EnergyTable(others if line is None else {**others, (server, model): line})

    def line(self, server: ServerName, model: ModelName) -> EnergyLine | None:
        """Return what batches cost there, None when that is unknown; never guessed from a sibling."""
        return self.lines.get((server, model))
