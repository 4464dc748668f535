"""Whether a request can be served at all, and with which others it may share a group.

The rule is a pure function of all that the fleet serves. Most requests are like one before them, so what was admitted
is kept, for as long as the fleet serves the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.profile import EnergyTable
from orchestrator.router.queue.request import Array, BatchKey, as_batch
from orchestrator.snapshot import Preference, ServedModel, ServerName, Width

_MOST_KEPT = 256


@dataclass(frozen=True, slots=True)
class Terms:
    """What a caller insists on.

    Attributes:
        min_accuracy: only widths of at least this accuracy, 0..1.
        width: only this one; None: any.
        max_per_item_j: joules an item at the most; None: any.
        preference: among what is in time; None: the policy's own.
    """

    min_accuracy: float = 0.0
    width: Width | None = None
    max_per_item_j: float | None = None
    preference: Preference | None = None


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a request asks for besides its array and family; see Router.infer."""

    deadline_ms: float | None
    priority: int
    terms: Terms


Admitted = tuple[BatchKey, Array, bool]
"""The batch key of a request, its items with a batch dimension, and whether they came without one."""


class Admissions:
    """What was admitted while the fleet serves what it does."""

    def __init__(self) -> None:
        self._served: Sequence[tuple[ServedModel, ...]] = ()
        self._known: dict[object, tuple[BatchKey, bool]] = {}

    def find(
        self, array: Array, family: str | None, terms: Terms, served: Sequence[tuple[ServedModel, ...]]
    ) -> Admitted | None:
        """Return what ``admit`` returned for the like of a request; None when that is not known.

        Args:
            array: of the request.
            family: that it asks for.
            terms: of its caller.
            served: by each server, now.
        """
        if served != self._served:
            self._known.clear()
            self._served = served
            return None
        known = self._known.get((array.shape, array.dtype, family, terms))
        if known is None:
            return None
        key, is_single = known
        return key, array[np.newaxis] if is_single else array, is_single

    def keep(self, array: Array, family: str | None, terms: Terms, admitted: Admitted) -> None:
        """Keep what was admitted; not where it was by what is known of energy, which changes."""
        if terms.max_per_item_j is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            key, _, is_single = admitted
            self._known[array.shape, array.dtype, family, terms] = key, is_single


def admit(
    array: Array, terms: Terms, offered: Sequence[tuple[ServerName, ServedModel]], energy: EnergyTable
) -> Admitted:
    """Return how a request is admitted.

    Args:
        array: as for Router.infer.
        terms: of the caller.
        offered: every width of the family on every server, at least one.
        energy: what groups cost.

    Raises:
        ConfigError: when nothing that is offered meets the terms, or takes the array.
    """
    batch, is_single = as_batch(array, offered[0][1].input)
    allowed = [
        (server, model)
        for server, model in offered
        if (terms.width is None or model.width == terms.width) and model.accuracy >= terms.min_accuracy
    ]
    if not allowed:
        widths = {model.width: model.accuracy for _, model in offered}
        served = ", ".join(f"{width} % ({widths[width]:.4f})" for width in sorted(widths))
        raise ConfigError(f"no width has width={terms.width}, min_accuracy={terms.min_accuracy}; served are {served}")
    most = max(model.max_batch_size for _, model in allowed)
    if len(batch) > most:
        raise ConfigError(f"a batch of {len(batch)} items exceeds max_batch_size = {most}; split it")
    if terms.max_per_item_j is not None:
        allowed = _affordable(allowed, len(batch), terms.max_per_item_j, energy)
    key = BatchKey(
        allowed[0][1].family,
        batch.shape[1:],
        tuple(sorted({model.width for _, model in allowed})),
        terms.min_accuracy,
        terms.max_per_item_j,
        terms.preference,
    )
    return key, batch, is_single


def _affordable(
    allowed: Sequence[tuple[ServerName, ServedModel]], items: int, max_per_item_j: float, energy: EnergyTable
) -> list[tuple[ServerName, ServedModel]]:
    if math.isnan(max_per_item_j) or max_per_item_j < 0:
        raise ConfigError(f"max_joules = {max_per_item_j} is no amount; give joules an item, 0 or more")
    lines = [(server, model, energy.line(server, model.name)) for server, model in allowed]
    # Alone, because whoever shares its group only makes it cheaper: so the bound holds whatever happens.
    found = [(s, m) for s, m, line in lines if line is not None and line.of_batch(items) <= max_per_item_j * items]
    if found:
        return found
    costs_j = [line.of_batch(items) / items for _, _, line in lines if line is not None]
    if not costs_j:
        raise ConfigError(
            f"max_joules = {max_per_item_j:g} can't be kept: no server's energy is known; measure it, or ask for none"
        )
    raise ConfigError(
        f"max_joules = {max_per_item_j:g} is below the {min(costs_j):.3g} J an item that the most frugal server takes "
        f"for {items} at a time; ask for more, or for less accuracy"
    )
