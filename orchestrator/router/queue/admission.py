"""Whether a request can be served at all, and with which others it may share a batch.

The rule is a pure function of all that the fleet serves. Most requests are like one before them, so what was admitted
is kept, for as long as the fleet serves the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.profile import EnergyTable
from orchestrator.request_options import RequestOptions
from orchestrator.router.queue.request import Array, BatchKey, as_batch
from orchestrator.snapshot import ServedModel, ServerName

_MOST_KEPT = 256


Admitted = tuple[BatchKey, Array, bool]
"""The key of a request's queue, its items with a batch dimension, and whether they came without one."""


class Admissions:
    """What was admitted while the fleet serves what it does."""

    def __init__(self) -> None:
        self._served: Sequence[tuple[ServedModel, ...]] = ()
        self._known: dict[object, tuple[BatchKey, bool]] = {}

    def find(self, array: Array, options: RequestOptions, served: Sequence[tuple[ServedModel, ...]]) -> Admitted | None:
        """Return what ``admit`` returned for a request like this one; None when that is not known.

        ``served`` are the models that each server serves now.
        """
        if served != self._served:
            self._known.clear()
            self._served = served
            return None
        known = None if options.max_joules is not None else self._known.get(_similarity(array, options))
        if known is None:
            return None
        key, is_single = known
        return key, array[np.newaxis] if is_single else array, is_single

    def keep(self, array: Array, options: RequestOptions, admitted: Admitted) -> None:
        """Keep what was admitted, unless it depends on what is known of energy, which changes."""
        if options.max_joules is None:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            key, _, is_single = admitted
            self._known[_similarity(array, options)] = key, is_single


def _similarity(array: Array, options: RequestOptions) -> object:
    """Return what requests have in common that are admitted alike; neither deadline nor priority counts."""
    return array.shape, array.dtype, options.family, options.width, options.min_accuracy, options.preference


def admit(
    array: Array, options: RequestOptions, offered: Sequence[tuple[ServerName, ServedModel]], energy: EnergyTable
) -> Admitted:
    """Return how a request is admitted; ``offered`` is every width of the family on every server, at least one.

    Raises:
        ConfigError: Nothing that is offered meets the options, or takes the array.
    """
    min_accuracy = options.min_accuracy or 0.0
    batch, is_single = as_batch(array, offered[0][1].input)
    allowed = [
        (server, model)
        for server, model in offered
        if (options.width is None or model.width == options.width) and model.accuracy >= min_accuracy
    ]
    if not allowed:
        widths = {model.width: model.accuracy for _, model in offered}
        served = ", ".join(f"{width} % ({widths[width]:.4f})" for width in sorted(widths))
        raise ConfigError(f"no width has width={options.width}, min_accuracy={min_accuracy}; served are {served}")
    most = max(model.max_batch_size for _, model in allowed)
    if len(batch) > most:
        raise ConfigError(f"a batch of {len(batch)} items exceeds max_batch_size = {most}; split it")
    if options.max_joules is not None:
        allowed = _affordable(allowed, len(batch), options.max_joules, energy)
    key = BatchKey(
        allowed[0][1].family,
        batch.shape[1:],
        tuple(sorted({model.width for _, model in allowed})),
        min_accuracy,
        options.max_joules,
        options.preference,
    )
    return key, batch, is_single


def _affordable(
    allowed: Sequence[tuple[ServerName, ServedModel]], items: int, max_per_item_j: float, energy: EnergyTable
) -> list[tuple[ServerName, ServedModel]]:
    if math.isnan(max_per_item_j) or max_per_item_j < 0:
        raise ConfigError(f"max_joules = {max_per_item_j} is no amount; give joules an item, 0 or more")
    lines = [(server, model, energy.line(server, model.name)) for server, model in allowed]
    # Alone, because whoever shares its batch only makes it cheaper: so the bound holds whatever happens.
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
