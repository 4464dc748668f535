"""What an answer that came in time is worth: the utility of docs/policies.md, request by request.

That is its quality, minus what its joules cost. A live fleet has no scenario whose most joules would set the price of a
joule, so it is that of rules and learned policies: the joules of an item at the best width are worth 15 points, and in
proportion more or less where ``router.energy_weight`` is not the default. Where joules of any width are unknown they
are left out.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from orchestrator.config import RouterSettings
from orchestrator.policies.fleet.qualities import relative_quality
from orchestrator.policies.learned.decide import WORTH
from orchestrator.profile.fit import EnergyTable
from orchestrator.snapshot import ServedModel, ServerName


class Scale(NamedTuple):
    """What answers of a family are measured by: all of its qualities, and what a joule of an item costs."""

    qualities: frozenset[float]
    joule_price: float

    def worth(self, quality: float, item_j: float | None) -> float:
        """Return what an answer in time is worth; ``item_j`` is None where that is unknown."""
        return relative_quality(quality, self.qualities) - self.joule_price * (item_j or 0.0)


def scale_of(served: Collection[tuple[ServerName, ServedModel]], energy: EnergyTable, *, energy_weight: float) -> Scale:
    """Return the scale of a family, by all that serve it."""
    best = max((model.accuracy for _, model in served), default=0.0)
    lines = [(model, energy.line(server, model.name)) for server, model in served]
    joules = [line.of_batch(1) for model, line in lines if line is not None and model.accuracy == best]
    is_known = all(line is not None for _, line in lines) and sum(joules) > 0
    worth = WORTH * energy_weight / RouterSettings().energy_weight
    price = worth * len(joules) / sum(joules) if is_known else 0.0
    return Scale(frozenset(model.accuracy for _, model in served), price)
