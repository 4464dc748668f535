"""Whether a request can be served at all, and with which others it may share a batch.

The rule is a pure function of all that the fleet serves. Most requests are like one before them, so what was found is
kept, for as long as the fleet serves the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Real

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.policies.fleet.qualities import is_ratio
from orchestrator.profile.fit import EnergyTable
from orchestrator.request_options import RequestOptions
from orchestrator.router.queue.request import BatchKey, Items, as_batch, as_tensors
from orchestrator.snapshot import Preference, ServedModel, ServerName
from orchestrator.triton.families import Interface, interface_of
from orchestrator.triton.infer_wire import Tensors

_MOST_KEPT = 256


Eligible = tuple[BatchKey, Tensors, bool]
"""The key of a request's queue, its inputs with a batch dimension, and whether they came without one."""


class KnownEligibility:
    """What was found of requests while the fleet serves what it does."""

    def __init__(self) -> None:
        self._served: Sequence[tuple[ServedModel, ...]] = ()
        self._known: dict[object, tuple[BatchKey, bool, tuple[str, ...]]] = {}

    def judge(
        self,
        items: Items,
        options: RequestOptions,
        served: Sequence[tuple[ServedModel, ...]],
        offered: Callable[[], Sequence[tuple[ServerName, ServedModel]]],
        energy: EnergyTable,
    ) -> Eligible:
        """Return and raise what ``judge_eligibility`` does, as kept for a request like this one if there was one.

        ``served`` are the models that each server serves now. What depends on energy is not kept, because what is known
        of that changes.
        """
        if served != self._served:
            self._known.clear()
            self._served = served
        if options.max_joules is not None:
            return judge_eligibility(items, options, offered(), energy)
        alike = _form_of(items), options.family, options.width, options.min_accuracy, options.preference
        known = self._known.get(alike)
        if known is not None:
            key, is_single, names = known
            arrays = as_tensors(items, names)
            return key, tuple([array[np.newaxis] for array in arrays]) if is_single else arrays, is_single
        key, batch, is_single = judge_eligibility(items, options, offered(), energy)
        if len(self._known) >= _MOST_KEPT:
            self._known.clear()
        assert key.interface is not None  # of a request that was read
        self._known[alike] = key, is_single, tuple(spec.name for spec in key.interface.inputs)
        return key, batch, is_single


def _form_of(items: Items) -> object:
    if isinstance(items, Mapping):
        return tuple([(name, array.shape, array.dtype) for name, array in items.items()])
    return items.shape, items.dtype


def judge_eligibility(
    items: Items, options: RequestOptions, offered: Sequence[tuple[ServerName, ServedModel]], energy: EnergyTable
) -> Eligible:
    """Return how a request is served; ``offered`` is every width of the family on every server, at least one.

    Raises:
        ConfigError: Nothing that is offered meets the options, or takes the items.
    """
    if not isinstance(options.preference, Preference | None):  # else it would stop the decisions on all requests
        raise ConfigError(
            f"preference = {options.preference!r} is no Preference; give what parse_preference makes of such a text"
        )
    if options.preference is not None and not _has_weights(options.preference):  # likewise
        raise ConfigError(
            f"preference = {options.preference!r} needs finite weights from 0 on; give what parse_preference makes of "
            "a text such as 'energy'"
        )
    min_accuracy = -math.inf if options.min_accuracy is None else options.min_accuracy
    interface, (batch, is_single) = _read(items, [model for _, model in offered])
    count = len(batch[0])
    allowed = [
        (server, model)
        for server, model in offered
        if (options.width is None or model.width == options.width)
        and model.accuracy >= min_accuracy
        and interface_of(model) == interface
    ]
    if not allowed:
        widths = {model.width: model.accuracy for _, model in offered}
        served = ", ".join(f"{width} % ({widths[width]:.4f})" for width in sorted(widths))
        named = {"width": options.width, "min_accuracy": options.min_accuracy}
        asked = " and ".join(f"{name}={value}" for name, value in named.items() if value is not None)
        raise ConfigError(f"no width has {asked}; served are {served}")
    most = max(model.max_batch_size for _, model in allowed)
    if count > most:
        raise ConfigError(f"a batch of {count} items exceeds max_batch_size = {most}; split it")
    if options.max_joules is not None:
        allowed = _affordable(allowed, count, options.max_joules, energy)
    key = BatchKey(
        allowed[0][1].family,
        tuple(array.shape[1:] for array in batch),
        tuple(sorted({model.width for _, model in allowed})),
        _floor(offered, options.min_accuracy),
        options.max_joules,
        options.preference,
        interface=interface,
    )
    return key, batch, is_single


def _read(items: Items, models: Sequence[ServedModel]) -> tuple[Interface, tuple[Tensors, bool]]:
    """Return what ``as_batch`` does by the first models that take the items, and what these take and give.

    While a family is replaced, its servers are asked one by one, and seem to take different things. Raises ConfigError
    as ``as_batch`` by the first model where none takes them.
    """
    by_interface: dict[Interface, ServedModel] = {}
    for model in models:
        by_interface.setdefault(interface_of(model), model)
    refusals: list[ConfigError] = []
    for interface, model in by_interface.items():
        try:
            return interface, as_batch(items, model)
        except ConfigError as exc:
            refusals.append(exc)
    raise refusals[0]


def _has_weights(preference: Preference) -> bool:
    weights = (preference.accuracy, preference.latency, preference.energy)
    return all([isinstance(weight, Real) and 0 <= weight < math.inf for weight in weights])


def _floor(offered: Sequence[tuple[ServerName, ServedModel]], min_accuracy: float | None) -> float:
    """Return the least accuracy that policies see of a request.

    Of another scale than 0..1 they see positions (orchestrator.policies.fleet.qualities), so there the widths that are
    allowed say all.
    """
    accuracies = [model.accuracy for _, model in offered]
    return (min_accuracy or 0.0) if is_ratio(accuracies) else min(0.0, *accuracies)


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
