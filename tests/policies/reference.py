"""Candidates the plain way: objects, every server compared with every other.

Slow and easy to read; what the tables of ``orchestrator.policies`` say must be the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchestrator.decision import Candidate
from orchestrator.profile.fit import EnergyLine, EnergyTable, LatencyTable
from orchestrator.profile.margin import margin_ratio, recent_ratio
from orchestrator.snapshot import BatchInFlight, ModelName, QueueState, ServedModel, ServerState, Width
from tests.policies.fleets import has_room_for

_WHOLE = 1 + 1e-9


def reference_candidates(
    servers: Sequence[ServerState],
    queue: QueueState,
    latency: LatencyTable,
    *,
    now_s: float,
    slack_margin: float,
    energy: EnergyTable,
) -> tuple[Candidate, ...]:
    usable = sorted((s for s in servers if s.healthy), key=lambda s: s.name)
    options = [
        _Option(server, model, held, held.wait_s(model), *held.lines[model.name])
        for server in usable
        for held in [_Occupancy(server, latency, now_s=now_s)]
        for model in server.models
        if model.width in queue.allowed_widths
        and model.accuracy >= queue.min_accuracy
        and queue.head_items <= model.max_batch_size
        and _is_within(queue, energy.line(server.name, model.name))
    ]
    options = [option for option in options if not any(_is_better(other, option) for other in options)]
    by_width: dict[Width, list[_Option]] = {}
    for option in options:
        by_width.setdefault(option.model.width, []).append(option)
    drains_s = {width: _drain_s(same_width, queue) for width, same_width in by_width.items()}
    slack_s = queue.head_deadline_s - now_s

    def margin_of(option: _Option) -> float:
        margin = latency.margin(option.server.name, option.model.name)
        seen = (math.nan, 0.0) if margin is None else (margin_ratio(margin), margin.observed_s)
        return recent_ratio(*seen, slack_margin, now_s)

    return tuple(
        _candidate(
            option,
            queue,
            items=_batch_items(option, by_width[option.model.width], queue, slack_s=slack_s, margin=margin_of(option)),
            drain_s=drains_s[option.model.width],
            margin=margin_of(option),
            joules=energy.line(option.server.name, option.model.name),
        )
        for option in options
    )


def _is_better(other: _Option, option: _Option) -> bool:
    """Return whether a server has a narrower width that is more accurate."""
    is_narrower = other.server.name == option.server.name and other.model.width < option.model.width
    return is_narrower and other.model.accuracy > option.model.accuracy


def _is_within(queue: QueueState, joules: EnergyLine | None) -> bool:
    if queue.max_per_item_j is None:
        return True
    return joules is not None and joules.per_item_j + joules.fixed_j / queue.head_items <= queue.max_per_item_j


@dataclass(frozen=True)
class _Option:
    server: ServerState
    model: ServedModel
    held: _Occupancy
    wait_s: float
    slope_s: float
    fixed_s: float

    def completion_s(self, items: int) -> float:
        return self.wait_s + self.slope_s * items + self.fixed_s


def _candidate(
    option: _Option,
    queue: QueueState,
    *,
    items: int,
    drain_s: float,
    margin: float,
    joules: EnergyLine | None,
) -> Candidate:
    return Candidate(
        server=option.server.name,
        width=option.model.width,
        items=items,
        accuracy=option.model.accuracy,
        service_s=option.slope_s * items + option.fixed_s,
        completion_s=option.completion_s(items),
        head_completion_s=option.completion_s(queue.head_items),
        drain_s=drain_s,
        server_items=option.held.items,
        has_room=has_room_for(option.server, option.model, work_s=option.held.work_s),
        wait_s=option.wait_s,
        per_item_s=option.slope_s,
        fixed_s=option.fixed_s,
        max_batch_size=option.model.max_batch_size,
        instances=option.model.instances,
        overdue_ratio=option.held.overdue_ratio(margin),
        per_item_j=None if joules is None else joules.per_item_j,
        fixed_j=None if joules is None else joules.fixed_j,
        backlog_s=option.held.backlog_s,
        margin=margin,
    )


def _batch_items(
    option: _Option, same_width: Sequence[_Option], queue: QueueState, *, slack_s: float, margin: float
) -> int:
    most = max(queue.head_items, min(queue.items, option.model.max_batch_size))
    if most == queue.head_items:  # which no bound lowers
        return most
    if option.slope_s > 0:
        for within_s in (slack_s / margin, slack_s):
            in_time = math.floor((within_s - option.wait_s - option.fixed_s) / option.slope_s)
            if in_time >= queue.head_items:
                most = min(most, in_time)
                break
    for other in same_width:
        if other.slope_s < option.slope_s:
            head_start_s = other.wait_s + other.fixed_s - option.wait_s - option.fixed_s
            sooner = head_start_s / (option.slope_s - other.slope_s)
            if sooner < most:
                most = max(queue.head_items, math.floor(sooner))
    return most


def _drain_s(same_width: Sequence[_Option], queue: QueueState) -> float:
    work, total_rps = float(queue.items), 0.0
    for option in same_width:
        batch = max(1, min(queue.items, option.model.max_batch_size))
        service_s = option.slope_s * batch + option.fixed_s
        if service_s <= 0:  # never observed, so guessed to be instant
            return min(o.held.backlog_s for o in same_width if o.slope_s + o.fixed_s <= 0)
        rate_rps = min(option.model.instances, math.ceil(queue.items / batch)) * batch / service_s
        work += rate_rps * option.held.backlog_s
        total_rps += rate_rps
    return work / total_rps


class _Occupancy:
    def __init__(self, server: ServerState, latency: LatencyTable, *, now_s: float) -> None:
        self.items = sum(batch.items for batch in server.in_flight) + sum(n for _, n in server.bound_items)
        self.lines = {
            m.name: latency.line(server.name, m, models)
            for models in (server.models, server.other_models)
            for m in models
        }
        self._busy: list[tuple[float, float]] = []  # (until when, which part of the server), of each batch
        self._waits_s: dict[int, float] = {}  # by instances; most widths of a server have the same
        self._last_start_s = 0.0
        self._stretch_ratio = 0.0
        self._bound_s = 0.0
        self.backlog_s = 0.0
        self.work_s = sum(
            slope_s * batch.items + intercept_s
            for batch in server.in_flight
            for slope_s, intercept_s in [self.lines.get(batch.model, (0.0, 0.0))]
        )
        if server.in_flight or server.bound_items:
            instances = {m.name: m.instances for m in (*server.models, *server.other_models)}
            self._seat(server, instances, now_s)
            self._bound_s = _bound_work_s(server, self.lines, instances)
            self.backlog_s += self._bound_s

    def _seat(self, server: ServerState, instances: Mapping[ModelName, int], now_s: float) -> None:
        running = _count_running(server.in_flight, instances)
        for index, batch in enumerate(server.in_flight):
            slope_s, intercept_s = self.lines.get(batch.model, (0.0, 0.0))
            remaining_s = slope_s * batch.items + intercept_s
            if index < running:
                elapsed_s = now_s - _began_s(batch, server.last_answer_s)
                if remaining_s > 0:
                    self._stretch_ratio = max(self._stretch_ratio, elapsed_s / remaining_s)
                remaining_s = abs(remaining_s - elapsed_s)
            part = 1 / instances.get(batch.model, 1)
            self._last_start_s = self._free_s(part)
            self._busy.append((self._last_start_s + remaining_s, part))
            self.backlog_s += remaining_s * part

    def wait_s(self, model: ServedModel) -> float:
        wait_s = self._waits_s.get(model.instances)
        if wait_s is None:
            wait_s = self._waits_s[model.instances] = self._free_s(1 / model.instances) + self._bound_s
        return wait_s

    def overdue_ratio(self, margin: float) -> float:
        return max(1.0, self._stretch_ratio / margin)

    def _free_s(self, part: float) -> float:
        free_s = self._last_start_s
        ahead = [b for b in self._busy if b[0] > free_s]
        if len(ahead) > 1:
            ahead.sort()
        taken = sum([taken for _, taken in ahead])
        for until_s, released in ahead:
            if taken + part <= _WHOLE:
                break
            taken -= released
            free_s = until_s
        return free_s


def _count_running(in_flight: Sequence[BatchInFlight], instances: Mapping[ModelName, int]) -> int:
    taken = 0.0
    for index, batch in enumerate(in_flight):
        taken += 1 / instances.get(batch.model, 1)
        if taken > _WHOLE:
            return index
    return len(in_flight)


def _began_s(batch: BatchInFlight, last_answer_s: float | None) -> float:
    if batch.began_s is not None:
        return batch.began_s
    return max(batch.sent_s, batch.sent_s if last_answer_s is None else last_answer_s)


def _bound_work_s(
    server: ServerState, lines: Mapping[ModelName, tuple[float, float]], instances: Mapping[ModelName, int]
) -> float:
    total_s = 0.0
    batch_limits = {m.name: m.max_batch_size for m in (*server.models, *server.other_models)}
    for name, items in server.bound_items:
        slope_s, intercept_s = lines.get(name, (0.0, 0.0))
        batches = math.ceil(items / batch_limits.get(name, 1))
        total_s += (slope_s * items + intercept_s * batches) / instances.get(name, 1)
    return total_s
