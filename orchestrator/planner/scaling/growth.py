"""Growth: one more instance for the width where it relieves the most queueing per byte, by the cheaper way.

All families of a host compete, and those who wait count by the weight of their family. A family that holds more memory
for its weight than the one that grows would then hold gives an instance where there is no room: such an exchange brings
the two nearer to each other, so none is ever undone by the next.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from orchestrator.planner.actions import Action, ActionKind, ActionReason, RefusalReason
from orchestrator.planner.host import ModelSnapshot
from orchestrator.planner.scaling import changes
from orchestrator.planner.scaling.plan_builder import PlanBuilder

STARVED_S = 10.0
"""Price of an in-place change that has to wait for a gap between full batches; 10 to 50 s were measured."""
FULL_RATIO = 0.9
"""Share of the largest batch, above which batches count as full."""


@dataclass(frozen=True, slots=True)
class _Growth:
    seen: ModelSnapshot
    action: Action
    relieved_requests: float
    relief_per_byte: float
    needs_reload: bool


def grow(builder: PlanBuilder) -> None:
    """Add one instance to the width where it relieves the most queueing per byte, over all families, by their weights.

    One instance more than c takes over the (c+1)-th part of those who wait. The best that may grow does, and no other:
    the next one is judged by what this one changed. Ties go to the narrower width.
    """
    for growth in sorted(_growths(builder), key=lambda g: (-g.relief_per_byte, g.seen.model.width, g.seen.name)):
        builder.want(growth.seen, growth.action.instances)
        utilisation, ceiling = builder.snapshot.utilisation_ratio, builder.limits.utilisation_ceiling_ratio
        if utilisation is not None and utilisation >= ceiling:
            numbers = (("utilisation_ratio", utilisation), ("ceiling_ratio", ceiling))
            if _add_in_exchange(builder, growth):
                return
            builder.refuse(growth.action, RefusalReason.UTILISATION, numbers)
        # A reload that does not fit at its peak is no refusal: the change in place comes through in the end.
        elif (growth.needs_reload and _reload_larger(builder, growth)) or _add_if_worth_its_room(builder, growth):
            return
        else:
            builder.families_lacking_memory.add(growth.seen.model.family)


def _growths(builder: PlanBuilder) -> list[_Growth]:
    growths = []
    for seen in builder.models.values():
        memory, instances = builder.memory(seen), seen.loaded.instances
        is_pressed = builder.has_held(memory.pressed_since_s, builder.settings.grow_after_s)
        # Beside a dead stub a further instance would be of little use, and the repair is due in a moment.
        if not is_pressed or memory.dead_since_s is not None:
            continue
        if not seen.loaded.is_canonical or not builder.is_settled(seen):
            continue
        needed = builder.sizes.instance_bytes(seen)
        relief = memory.waiting_requests / (instances + 1)
        numbers = (
            ("waiting_requests", memory.waiting_requests),
            ("busy_ratio", memory.busy_instances / instances),
            ("relieved_requests", relief),
            ("instance_bytes", float(needed)),
            *builder.memory_numbers(needed),
        )
        action = changes.scale(builder, seen, ActionReason.QUEUEING, instances + 1, numbers)
        if instances >= builder.limits.max_instances:
            builder.refuse(
                action, RefusalReason.MAX_INSTANCES, (("max_instances", float(builder.limits.max_instances)),)
            )
            continue
        if builder.refuse_barred(action):
            continue
        prices = builder.state.prices
        in_place_s = STARVED_S if _is_starved(seen, memory.waiting_requests) else prices.price_s(ActionKind.SCALE_UP)
        needs_reload = in_place_s > prices.price_s(ActionKind.RELOAD)
        relief_per_byte = relief * builder.weight(seen.model.family) / max(1, needed)
        growths.append(_Growth(seen, action, relief, relief_per_byte, needs_reload))
    return growths


def _reload_larger(builder: PlanBuilder, growth: _Growth) -> bool:
    """Add the growth as a full reload if that fits as it is; return whether it was added."""
    seen, action = growth.seen, growth.action
    reload = changes.reload(
        builder, seen, action.reason, action.batching, action.numbers, is_forced=True, instances=action.instances
    )
    return builder.lacking_bytes(reload.needed_bytes) == 0 and builder.add(reload)


def _add_if_worth_its_room(builder: PlanBuilder, growth: _Growth) -> bool:
    """Add the growth, making room where that is worth it; return whether it was added.

    Room costs an unload, and a load when the width is wanted again, for which somebody waits. A width that has been
    idle for so long is taken to stay so for as long again, and for that long the growth relieves its queue. So a slow
    load only makes the queue wait longer for the room; it never denies it for good.
    """
    prices, victims = builder.state.prices, changes.choose_victims(builder, growth.action)
    price_s = len(victims) * (prices.price_s(ActionKind.UNLOAD) + prices.price_s(ActionKind.LOAD))
    idle_s = min((builder.elapsed_s(builder.memory(seen).idle_since_s) for seen in victims), default=0.0)
    saved_s = growth.relieved_requests * idle_s
    if victims and saved_s <= price_s:
        numbers = (("saved_wait_s", saved_s), ("price_s", price_s), *builder.memory_numbers(growth.action.needed_bytes))
        builder.refuse(growth.action, RefusalReason.PRICE, numbers, "room for it costs more than it saves")
        return False
    if not victims and builder.lacking_bytes(growth.action.needed_bytes) and _add_in_exchange(builder, growth):
        return True
    return changes.add_making_room(builder, growth.action)


def _add_in_exchange(builder: PlanBuilder, growth: _Growth) -> bool:
    """Add the growth for instances that another family gives; return whether it was added.

    It is of the family that holds the most for its weight, and there of the model that fewest wait for; never a last
    instance.
    """
    own, action = growth.seen.model.family, growth.action
    lacking_bytes = builder.lacking_bytes(action.needed_bytes)
    if lacking_bytes is None:
        return False
    share_bytes = builder.share_bytes(own, action.needed_bytes)
    givers = [
        seen
        for seen in builder.models.values()
        if seen.model.family != own and builder.is_settled(seen) and seen.loaded.is_canonical
    ]
    for seen in sorted(
        givers,
        key=lambda s: (-builder.share_bytes(s.model.family), changes.weighted_waiting(builder, s), s.name),
    ):
        # Without the margin by which estimates of what is taken are larger.
        each_bytes = max(1, int(builder.sizes.instance_bytes(seen) / (1 + builder.settings.memory_margin)))
        given = max(1, math.ceil(lacking_bytes / each_bytes))
        left_bytes = builder.share_bytes(seen.model.family, -given * each_bytes)
        if given >= seen.loaded.instances or left_bytes < share_bytes:
            continue
        numbers = (
            ("lacking_bytes", float(lacking_bytes)),
            ("share_bytes", left_bytes),
            ("other_share_bytes", share_bytes),
        )
        reduced = changes.scale(builder, seen, ActionReason.MAKE_ROOM, seen.loaded.instances - given, numbers)
        if builder.refuse_barred(action) or not builder.add(reduced):
            return False
        return builder.add(action, freed_bytes=given * each_bytes)
    return False


def _is_starved(seen: ModelSnapshot, waiting_requests: float) -> bool:
    """Return whether an in-place change of a model would not come through.

    WORKAROUND(Triton 2.51): a new instance is set up by an order in a queue of its own, and a thread looks there only
    when the queue of ready batches is empty (rate_limiter.cc, DequeuePayload). With more than one full batch waiting
    for each instance it never is: measured here, an instance more took 10 to 50 s, and a full reload one second.
    """
    rates = seen.rates
    if not rates.items_per_execution or not rates.requests_per_s:
        return False
    full_items = FULL_RATIO * seen.model.max_batch_size
    waiting_items = waiting_requests * rates.items_per_s / rates.requests_per_s
    return rates.items_per_execution >= full_items and waiting_items > full_items * seen.loaded.instances
