"""What a server is doing: which of its batches run, and when an instance is free for one more.

One reading covers all cases: a batch of a width that has k instances takes a k-th of the server, batches start in the
order they were sent, and one starts when the part that it takes is free. So with one instance of each width batches
run one after another; k instances of one width run k batches at once; and a batch of a width with one instance has
the server to itself.

Triton would let instances of different widths run side by side, and on CPUs they would share the cores. That they
share is in the times that are observed, and that they follow each other here says the same of the sum. It is a guess
of the order only where widths mix.

A batch that runs is expected to take what is left of a·n + b. One that is overdue is expected to take as long again as
it is overdue: a server that hangs looks worse and worse, not as if it were done any moment.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Table, compiled
from orchestrator.policies.tables.layout import Fleet
from orchestrator.snapshot import BatchInFlight, ModelName, is_within_limits, waiting_limit

WHOLE: Final = 1 + 1e-9
"""All parts of a server; k times a k-th may be a little more than one."""

UNTIL_S: Final = 0
"""Field of a busy table: until when a batch takes its part of the server, seconds from now."""
PART: Final = 1
"""Field of a busy table: how much of the server that is."""
BUSY_FIELDS: Final = 2


has_room = compiled(is_within_limits)
may_wait = compiled(waiting_limit)


@compiled
def held_s(fleet: Fleet, server: int, batch: int) -> float:
    """Return how long a batch that a server holds takes from beginning to end; 0 for one of a model that is gone."""
    column = int(fleet.batches[col.COLUMN][batch])
    if column < 0:
        return 0.0
    model = server * fleet.columns + column
    return fleet.models[col.PER_ITEM_S][model] * fleet.batches[col.ITEMS][batch] + fleet.models[col.FIXED_S][model]


@compiled
def seat_batches(fleet: Fleet, server: int, busy: Table, now_s: float) -> tuple[float, float, float]:
    """Give every batch that a server holds its time on it, in ``busy``, one entry a batch.

    Returns when the last of them starts, how many times longer than expected the most overdue one has run (0 while
    nothing runs), and the seconds of work in all of them, for the whole server.
    """
    servers, models, batches = fleet.servers, fleet.models, fleet.batches
    taken, last_start_s, stretch_ratio, backlog_s = 0.0, 0.0, 0.0, 0.0
    for place in range(int(servers[col.BATCH_COUNT][server])):
        batch = server * fleet.depth + place
        column, remaining_s, part = int(batches[col.COLUMN][batch]), held_s(fleet, server, batch), 1.0
        if column >= 0:
            part = 1 / models[col.INSTANCES][server * fleet.columns + column]
        taken += part
        if taken <= WHOLE:  # it runs: none overtakes, so what does not fit keeps all behind it waiting
            elapsed_s = now_s - _began_s(batches, batch, servers[col.LAST_ANSWER_S][server])
            if remaining_s > 0:
                stretch_ratio = max(stretch_ratio, elapsed_s / remaining_s)
            remaining_s = abs(remaining_s - elapsed_s)
        else:
            taken = math.inf
        last_start_s = free_s(busy, place, part, last_start_s)
        busy[UNTIL_S][place] = last_start_s + remaining_s
        busy[PART][place] = part
        backlog_s += remaining_s * part
    return last_start_s, stretch_ratio, backlog_s


@compiled
def free_s(busy: Table, count: int, part: float, after_s: float) -> float:
    """Return when ``part`` of a server is free behind ``count`` batches, but not before ``after_s``."""
    until_s, parts = busy[UNTIL_S], busy[PART]
    taken = 0.0
    for place in range(count):
        if until_s[place] > after_s:
            taken += parts[place]
    at_s = after_s
    while taken + part > WHOLE:
        next_s = math.inf
        for place in range(count):
            if at_s < until_s[place] < next_s:
                next_s = until_s[place]
        if next_s == math.inf:
            break
        for place in range(count):
            if until_s[place] == next_s:
                taken -= parts[place]
        at_s = next_s
    return at_s


@compiled
def bound_work_s(fleet: Fleet, server: int) -> float:
    """Return the seconds of work in what is bound to a server and waits in the router, in full batches."""
    models, total_s = fleet.models, 0.0
    if fleet.servers[col.BOUND_ITEMS][server] > 0:
        for model in range(server * fleet.columns, (server + 1) * fleet.columns):
            items = models[col.MODEL_BOUND_ITEMS][model]
            if items > 0:
                batches = math.ceil(items / models[col.MAX_BATCH][model])
                work_s = models[col.PER_ITEM_S][model] * items + models[col.FIXED_S][model] * batches
                total_s += work_s / models[col.INSTANCES][model]
    return total_s


@compiled
def _began_s(batches: Table, batch: int, last_answer_s: float) -> float:
    """Return since when a batch runs: since there was an instance, else since the server's last answer."""
    if not math.isnan(batches[col.BEGAN_S][batch]):
        return batches[col.BEGAN_S][batch]
    sent_s = batches[col.SENT_S][batch]
    return last_answer_s if last_answer_s > sent_s else sent_s  # NaN is not above


def mark_begun(
    in_flight: Sequence[BatchInFlight], instances: Mapping[ModelName, int], *, since_s: float | None
) -> list[BatchInFlight]:
    """Return the batches, in the order they were sent, with ``began_s`` set on those that run and have none yet.

    To be called with all that is in flight before an answer is taken off, with the time of the answer before, and
    with what remains after it, with the time of this one. A model that ``instances`` does not name has one; ``since_s``
    is when the last change was that let batches begin.
    """
    running = _count_running(in_flight, instances)
    return [
        replace(batch, began_s=max(batch.sent_s, since_s or batch.sent_s))
        if index < running and batch.began_s is None and instances.get(batch.model, 1) > 1
        else batch
        for index, batch in enumerate(in_flight)
    ]


def _count_running(in_flight: Sequence[BatchInFlight], instances: Mapping[ModelName, int]) -> int:
    """Return how many of the batches run: the first, as far as their parts fit, none overtaking."""
    taken = 0.0
    for index, batch in enumerate(in_flight):
        taken += 1 / instances.get(batch.model, 1)
        if taken > WHOLE:
            return index
    return len(in_flight)
