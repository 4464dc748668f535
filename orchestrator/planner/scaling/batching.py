"""How long Triton's batcher should wait, from the latency curve, the arrival rate and the deadline budget.

A batch of n takes a·n + b. While an instance is busy its queue forms batches by itself, without any delay; a delay
pays only below saturation, where it lets several items share one b. What is saved is instance time, so energy and
room for other widths; what is paid is latency, and that must stay within the deadline budget. So: of the sizes that
keep the budget, the one that uses the least instance time, and none at all unless it saves a real part of an
instance. A change is a full reload, so it must also save more instance time within a horizon than the reload takes.

The preferred size goes with the delay: without it the batcher would wait the whole delay even when the batch it was
meant for has gathered. Triton's documentation advises against preferred sizes otherwise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planner.actions import ActionReason, Numbers
from orchestrator.planner.host import Batching, Limits

NO_DELAY = Batching()
HEADROOM_RATIO = 0.9
"""Share of the deadline budget that a batching may use when it is chosen; it is given up only beyond the whole."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What a model has to do, and what it does it with.

    Attributes:
        per_item_s: The slope a of its latency curve, seconds an item.
        batch_s: The fixed part b of its latency curve, seconds a batch.
        items_per_s: The items that arrive a second.
        request_items: The items of a mean request, at least 1.
        gatherable_items: The largest batch worth waiting for, in items; None: max_batch_size.
    """

    per_item_s: float
    batch_s: float
    items_per_s: float
    request_items: float
    instances: int
    max_batch_size: int
    gatherable_items: int | None = None


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a batching would do.

    Attributes:
        busy_instances: The mean number of instances that run.
        latency_s: The latency of a batch's first request: the delay, what runs before the batch, and the batch's own
            run.
    """

    busy_instances: float
    latency_s: float


@dataclass(frozen=True, slots=True)
class BatchingChange:
    """A batching worth its reload, the gain that it has, and the numbers behind it."""

    batching: Batching
    reason: ActionReason
    numbers: Numbers


def forecast(demand: Demand, batching: Batching) -> Forecast:
    """Return what a batching would do under a demand."""
    size = min(demand.max_batch_size, max(_gathered_items(demand, batching), _self_formed_items(demand)))
    # Instance time a second: each item costs a, and an n-th of its batch's b.
    busy = demand.items_per_s * (demand.per_item_s + demand.batch_s / size)
    run_s = demand.per_item_s * size + demand.batch_s
    # A batch finds its instance busy as often as instances are busy, and then waits for one other run.
    return Forecast(busy, _waited_s(demand, batching) + run_s * (1 + min(1.0, busy / demand.instances)))


def choose_batching(demand: Demand, limits: Limits) -> Batching:
    """Return the batching with the least instance time that keeps the deadline budget."""
    plain = forecast(demand, NO_DELAY)
    best, best_busy = NO_DELAY, plain.busy_instances - limits.batching_saving_ratio
    for batching in _candidates(demand, limits):
        seen = forecast(demand, batching)
        if seen.latency_s <= HEADROOM_RATIO * limits.deadline_budget_s and seen.busy_instances < best_busy:
            best, best_busy = batching, seen.busy_instances
    return best


def plan_batching(demand: Demand, current: Batching, limits: Limits, *, reload_s: float) -> BatchingChange | None:
    """Return the change of batching that beats the price of its reload, None when none does.

    A full reload takes ``reload_s`` for each instance, which is built anew.
    """
    best = choose_batching(demand, limits)
    if best == current:
        return None
    now, then = forecast(demand, current), forecast(demand, best)
    plain = forecast(demand, NO_DELAY)
    saved_s = (now.busy_instances - then.busy_instances) * limits.batching_horizon_s
    price_s = reload_s * demand.instances
    if saved_s > price_s and best != NO_DELAY:
        gain: Numbers = (
            ("items_per_s", demand.items_per_s),
            ("saved_instance_s", saved_s),
            ("price_instance_s", price_s),
            ("latency_s", then.latency_s),
            ("deadline_budget_s", limits.deadline_budget_s),
        )
        return BatchingChange(best, ActionReason.BATCHING_GAIN, gain)
    loss: Numbers = (
        ("items_per_s", demand.items_per_s),
        ("latency_s", now.latency_s),
        ("latency_after_s", then.latency_s),
        ("deadline_budget_s", limits.deadline_budget_s),
    )
    if now.latency_s > limits.deadline_budget_s and then.latency_s < now.latency_s and current != NO_DELAY:
        return BatchingChange(best, ActionReason.BATCHING_TOO_LONG, loss)
    saves = plain.busy_instances - now.busy_instances >= limits.batching_saving_ratio / 2
    if current == NO_DELAY or saves:
        return None
    # The delay is needless. Every request is spared the difference; a reload holds those that come
    # during it up for as long as it takes at the most. Both per request a second, so the rate cancels.
    spared_s = (now.latency_s - then.latency_s) * limits.batching_horizon_s
    if spared_s <= reload_s * reload_s:
        return None
    return BatchingChange(best, ActionReason.BATCHING_NEEDLESS, loss)


def _candidates(demand: Demand, limits: Limits) -> list[Batching]:
    """Return a batching for each power of two, and the largest size, that arrivals fill within the deadline budget."""
    if demand.items_per_s <= 0:
        return []
    largest = demand.max_batch_size if demand.gatherable_items is None else demand.gatherable_items
    powers = (2**n for n in range(1, largest.bit_length()))
    sizes = sorted({size for size in (*powers, largest) if size > demand.request_items})
    delays_s = ((size, (size - demand.request_items) / demand.items_per_s) for size in sizes)
    return [
        # The largest size needs no preference, and to Triton the two are the same.
        Batching(() if size == demand.max_batch_size else (size,), _round_us(delay_s))
        for size, delay_s in delays_s
        if delay_s <= limits.deadline_budget_s
    ]


def _round_us(delay_s: float) -> int:
    """Return microseconds to two digits, so that a rate that trembles does not make every config another one."""
    delay_us = max(1.0, delay_s * 1e6)
    unit = int(10 ** max(0, math.floor(math.log10(delay_us)) - 1))
    return round(delay_us / unit) * unit


def _gathered_items(demand: Demand, batching: Batching) -> float:
    """Return the mean batch that the delay gathers, never above the preferred size."""
    gathered = demand.request_items + demand.items_per_s * batching.delay_us / 1e6
    return min(gathered, max(_target_items(demand, batching), demand.request_items))


def _target_items(demand: Demand, batching: Batching) -> int:
    """Return the size at which a batch is sent before its delay is over."""
    return max(batching.preferred_sizes, default=demand.max_batch_size)


def _self_formed_items(demand: Demand) -> float:
    """Return the mean batch that a queue behind busy instances forms by itself.

    All instances are busy when n items arrive in the time in which they run n: λ·(a·n + b) = c·n.
    """
    spare = demand.instances - demand.items_per_s * demand.per_item_s
    if spare <= 0:
        return float(demand.max_batch_size)
    return demand.items_per_s * demand.batch_s / spare


def _waited_s(demand: Demand, batching: Batching) -> float:
    """Return how long the first request of a batch is held back."""
    delay_s = batching.delay_us / 1e6
    if demand.items_per_s <= 0:
        return delay_s
    missing = max(0.0, _target_items(demand, batching) - demand.request_items)
    return min(delay_s, missing / demand.items_per_s)
