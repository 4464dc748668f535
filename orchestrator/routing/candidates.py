"""The one function that says what could be done with the head of a queue.

Expected times rest on two readings of a server: its groups take turns as ``orchestrator.routing.occupancy`` says,
one after another or, of a width with k instances, k at once; and each takes a·n + b of its width. That is exact for
one instance on one core and a fair guess elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate
from orchestrator.profile import LatencyTable
from orchestrator.routing.occupancy import Occupancy
from orchestrator.snapshot import QueueState, ServedModel, ServerState, Width


def build_candidates(
    servers: Sequence[ServerState],
    queue: QueueState,
    latency: LatencyTable,
    *,
    now_s: float,
    slack_margin: float,
) -> tuple[Candidate, ...]:
    """Return a candidate for each healthy server and allowed width, ordered by server name, then width.

    Servers without room are included, marked so: waiting for a fast one may beat a slow one that is idle.
    The order of ``servers`` does not matter.
    """
    usable = sorted((s for s in servers if s.healthy), key=lambda s: s.name)
    options = [
        _Option(server, model, held, held.wait_s(model), *held.lines[model.name])
        for server in usable
        for held in [Occupancy(server, latency, now_s=now_s)]
        for model in server.models
        if model.width in queue.allowed_widths
        and model.accuracy >= queue.min_accuracy
        and queue.head_items <= model.max_batch_size
    ]
    by_width: dict[Width, list[_Option]] = {}
    for option in options:
        by_width.setdefault(option.model.width, []).append(option)
    drains_s = {width: _drain_s(same_width, queue) for width, same_width in by_width.items()}
    slack_s = (queue.head_deadline_s - now_s) / slack_margin
    return tuple(
        _candidate(
            option,
            queue,
            items=_group_items(option, by_width[option.model.width], queue, slack_s=slack_s),
            drain_s=drains_s[option.model.width],
            slack_margin=slack_margin,
        )
        for option in options
    )


@dataclass(frozen=True, slots=True)
class _Option:
    """A server and a width, with what is expected: a group of n is answered after wait_s + slope_s · n + group_s."""

    server: ServerState
    model: ServedModel
    held: Occupancy
    wait_s: float
    slope_s: float
    group_s: float

    def completion_s(self, items: int) -> float:
        return self.wait_s + self.slope_s * items + self.group_s


def _candidate(option: _Option, queue: QueueState, *, items: int, drain_s: float, slack_margin: float) -> Candidate:
    return Candidate(
        server=option.server.name,
        width=option.model.width,
        items=items,
        accuracy=option.model.accuracy,
        service_s=option.slope_s * items + option.group_s,
        completion_s=option.completion_s(items),
        head_completion_s=option.completion_s(queue.head_items),
        drain_s=drain_s,
        server_items=option.held.items,
        has_room=option.server.has_room_for(option.model),
        wait_s=option.wait_s,
        item_s=option.slope_s,
        group_s=option.group_s,
        max_batch_size=option.model.max_batch_size,
        instances=option.model.instances,
        overdue_ratio=option.held.overdue_ratio(slack_margin),
    )


def _group_items(option: _Option, same_width: Sequence[_Option], queue: QueueState, *, slack_s: float) -> int:
    """Return how many items go together: as many as wait and fit, under two bounds, but at least the head.

    - The head still meets its deadline. When it can't even alone, this bound falls: then throughput is what helps
      those behind it.
    - No other server would answer the same items sooner. So a slow server that is idle takes the few items it can
      answer before a fast one that is busy gets to them, and not a full batch that would come back last.
    """
    most = max(queue.head_items, min(queue.items, option.model.max_batch_size))
    if most == queue.head_items:  # which no bound lowers
        return most
    if option.slope_s > 0:
        in_time = math.floor((slack_s - option.wait_s - option.group_s) / option.slope_s)
        if in_time >= queue.head_items:
            most = min(most, in_time)
    for other in same_width:
        if other.slope_s < option.slope_s:
            head_start_s = other.wait_s + other.group_s - option.wait_s - option.group_s
            sooner = head_start_s / (option.slope_s - other.slope_s)
            if sooner < most:
                most = max(queue.head_items, math.floor(sooner))
    return most


def _drain_s(same_width: Sequence[_Option], queue: QueueState) -> float:
    """Return when all that waits would be answered if every server ran one width.

    With rates r_s in items a second and backlogs w_s, the fluid answer T solves Σ r_s·(T − w_s) = items. Several
    instances multiply the rate, as far as there are groups for them.
    """
    work, total_rps = float(queue.items), 0.0
    for option in same_width:
        batch = max(1, min(queue.items, option.model.max_batch_size))
        service_s = option.slope_s * batch + option.group_s
        if service_s <= 0:  # never observed, so guessed to be instant
            return min(o.held.backlog_s for o in same_width if o.slope_s + o.group_s <= 0)
        rate_rps = min(option.model.instances, math.ceil(queue.items / batch)) * batch / service_s
        work += rate_rps * option.held.backlog_s
        total_rps += rate_rps
    return work / total_rps
