"""The event loop: what comes next, what it changes, and the router's reaction to it.

Of what happens at the same time, groups end first, then what was arranged beforehand happens, then requests arrive.
After each the router does what a live one does after a change: it asks its policy about the head of the queue until
the policy holds (orchestrator.router.router).

A run is over when the last request of its trace is answered or given up; nothing happens after that, so that times,
joules and utilisation are of the work alone. Faults and reports that were arranged for later never come, and neither
do the ends of groups that were lost or of holds. A load that has begun has cost all its joules already.
"""

from __future__ import annotations

import math

from orchestrator.policies.rule import choose_row
from orchestrator.policies.tables import fields as r
from orchestrator.policies.tables.candidates import build_rows
from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.world import fields as f
from orchestrator.simulation.world.fields import World
from orchestrator.simulation.world.heaps import (
    drop_event,
    is_sooner,
    merge_lanes,
    pop_request,
    push_event,
    tail_deadline_s,
)
from orchestrator.simulation.world.servers import (
    account,
    answer_batch,
    end_batch,
    enqueue,
    fail,
    give_up,
    lose_batches,
    place_of_batch,
    report,
    send,
    start_batches,
)

NO_EVENT = 0
FROM_HEAP = 1
FROM_SCHEDULE = 2
ARRIVAL = 3
HOLD_ENDS = 4

_ROUNDING = 1e-9
"""Relative, so that who has waited for as long as anybody may has by the sum of his times as well."""


@compiled
def advance(world: World, until_s: float) -> bool:
    """Run until a time, or until a decision is to be made outside; return whether the latter is so.

    Such a decision is about ``rows``, of which there are ``state[ROW_COUNT]``; ``apply`` makes it.
    """
    state = world.state
    while True:
        if state[f.IS_CHANGED] != 0 and _decide(world):
            return True
        source, at_s = _next_event(world)
        if source == NO_EVENT or at_s > until_s:
            if until_s < math.inf:  # who names a time waits for it; else it stays where the last event was
                state[f.NOW_S] = max(state[f.NOW_S], until_s)
            return False
        state[f.NOW_S] = at_s
        state[f.IS_CHANGED] = 1
        if source == FROM_HEAP:
            kind, server = world.events[f.KIND][0], int(world.events[f.EVENT_SERVER][0])
            detail, value = world.events[f.DETAIL][0], world.events[f.VALUE][0]
            drop_event(world)
            _happen(world, kind, server, detail, value)
        elif source == FROM_SCHEDULE:
            entry = int(state[f.NEXT_ENTRY])
            state[f.NEXT_ENTRY] += 1
            _happen(
                world,
                world.schedule[f.KIND][entry],
                int(world.schedule[f.EVENT_SERVER][entry]),
                world.schedule[f.DETAIL][entry],
                world.schedule[f.VALUE][entry],
            )
        elif source == ARRIVAL:
            _arrive(world)
        else:
            state[f.HOLD_UNTIL_S] = math.inf


@compiled
def _next_event(world: World) -> tuple[int, float]:
    state = world.state
    source, at_s = NO_EVENT, math.inf
    # What a failed server holds counts as neither until the router has noticed.
    if state[f.ANSWERED_COUNT] + state[f.LOST_COUNT] == state[f.ARRIVALS]:
        return source, at_s
    if state[f.EVENTS] > 0:
        source, at_s = FROM_HEAP, world.events[f.AT_S][0]
    if state[f.NEXT_ENTRY] < state[f.ENTRIES]:
        entry_s = world.schedule[f.AT_S][int(state[f.NEXT_ENTRY])]
        if entry_s < at_s:
            source, at_s = FROM_SCHEDULE, entry_s
    if state[f.NEXT_ARRIVAL] < state[f.ARRIVALS]:
        arrival_s = world.requests[f.ARRIVED_S][int(state[f.NEXT_ARRIVAL])]
        if arrival_s < at_s:
            source, at_s = ARRIVAL, arrival_s
    if state[f.HOLD_UNTIL_S] < at_s:
        source, at_s = HOLD_ENDS, max(state[f.NOW_S], state[f.HOLD_UNTIL_S])
    if source == NO_EVENT and state[f.QUEUED] > 0:  # nothing is to come that it could wait for
        given_up_s = world.requests[f.ARRIVED_S][int(world.heap[0])] + state[f.TIMEOUT_S]
        if given_up_s < math.inf:
            source, at_s = HOLD_ENDS, max(state[f.NOW_S], given_up_s + _ROUNDING * (1 + given_up_s))
    return source, at_s


@compiled
def _arrive(world: World) -> None:
    state = world.state
    request = int(state[f.NEXT_ARRIVAL])
    state[f.NEXT_ARRIVAL] += 1
    if state[f.WAITING_ITEMS] + world.requests[f.REQUEST_ITEMS][request] > state[f.QUEUE_LIMIT]:
        give_up(world, request, f.SHED)
    else:
        enqueue(world, request)


@compiled
def _happen(world: World, kind: float, server: int, detail: float, value: float) -> None:
    """Do what an event says."""
    fleet, truth = world.fleet, world.truth
    if kind in (f.ENDS, f.ANSWERS):
        _advance_batch(world, kind, server, detail, value)
    elif kind == f.REPORTS:
        report(world, server, value)
    elif kind == f.THROTTLES:
        truth[f.SPEED][server] = value
    elif kind == f.FAILS:
        if truth[f.IS_UP][server] != 0:
            fail(world, server)
    elif kind == f.NOTICED:
        if truth[f.IS_UP][server] == 0:
            fleet.servers[r.HEALTHY][server] = 0
            lose_batches(world, server)
            for column in range(fleet.columns):
                _unbind(world, server, column)
    elif kind == f.RETURNS:
        if truth[f.IS_UP][server] == 0:
            lose_batches(world, server)
            account(world, server)
            truth[f.IS_UP][server] = 1
            fleet.servers[r.HEALTHY][server] = 1
            _serve_lanes(world, server)
    else:
        _change(world, kind, server, int(detail), value)


@compiled
def _advance_batch(world: World, kind: float, server: int, batch: float, part: float) -> None:
    """End a group, or answer it, unless it was lost."""
    place = place_of_batch(world, server, batch)
    if place < 0:
        return
    if kind == f.ENDS:
        end_batch(world, server, place, part)
    else:
        answer_batch(world, server, place)
    _serve_lanes(world, server)


@compiled
def _change(world: World, kind: float, server: int, column: int, instances: float) -> None:
    """Begin to change the instances of a width, or end it.

    New instances are loaded beside those that serve, so memory holds both for the time of the load; a width that is
    unloaded is not sent to any more and gives its memory back at once.
    """
    fleet, truth, models = world.fleet, world.truth, world.models
    model = server * fleet.columns + column
    now = fleet.models[r.INSTANCES][model] if fleet.models[r.SERVED][model] != 0 else 0.0
    if kind == f.CHANGES and instances > now:
        truth[f.MEMORY_BYTES][server] += (instances - now) * models[f.INSTANCE_BYTES][model]
        truth[f.PEAK_BYTES][server] = max(truth[f.PEAK_BYTES][server], truth[f.MEMORY_BYTES][server])
        truth[f.LOAD_J][server] += models[f.LOAD_S][model] * models[f.LOAD_W][model]
        push_event(world, world.state[f.NOW_S] + models[f.LOAD_S][model], f.LOADED, server, column, instances)
        return
    if kind == f.CHANGES:
        truth[f.MEMORY_BYTES][server] -= (now - instances) * models[f.INSTANCE_BYTES][model]
    if instances > 0:
        fleet.models[r.INSTANCES][model] = instances
        _limit_batches(world, server)
    fleet.models[r.SERVED][model] = 1.0 if instances > 0 else 0.0
    if instances == 0:
        _unbind(world, server, column)
    start_batches(world, server)


@compiled
def _limit_batches(world: World, server: int) -> None:
    """Set how many groups a server may hold: as many as of its best-staffed width alone, as in a live router."""
    fleet, most = world.fleet, 1.0
    for column in range(fleet.columns):
        model = server * fleet.columns + column
        if fleet.models[r.SERVED][model] != 0:
            most = max(most, fleet.models[r.INSTANCES][model])
    limit = fleet.servers[r.WAITING_LIMIT][server] + most
    fleet.servers[r.BATCH_LIMIT][server] = min(limit, float(fleet.depth))


@compiled
def _decide(world: World) -> bool:
    """Ask the policy until it holds or nothing waits; return whether it has to be asked outside."""
    state = world.state
    while state[f.QUEUED] > 0:
        if _shed_head(world):
            continue
        _write_query(world)
        count = build_rows(world.fleet, world.head, world.rows, world.scratch)
        if state[f.IS_EXTERNAL] != 0:
            state[f.ROW_COUNT] = count
            state[f.IS_PENDING] = 1
            return True
        row, items, _, until_s = choose_row(world.rule, world.memory, world.rows, count, world.head.query)
        if not apply(world, row, items, until_s):
            break
    state[f.IS_CHANGED] = 0
    return False


@compiled
def apply(world: World, row: int, items: float, until_s: float) -> bool:
    """Do what was decided; return whether the policy is to be asked again at once."""
    state, rows = world.state, world.rows
    state[f.TURN] += 1
    state[f.IS_PENDING] = 0
    if row == r.REJECT:
        give_up(world, take_head(world), f.REJECTED)
        return True
    if row < 0:
        state[f.HOLD_UNTIL_S] = until_s
        state[f.IS_CHANGED] = 0
        return False
    server, column = int(rows[r.ROW_SERVER][row]), int(rows[r.ROW_COLUMN][row])
    if state[f.BINDS_EARLY] != 0:
        _bind(world, server, column)
        _serve_lanes(world, server)
    else:
        first, taken = _take_batch(world, items)
        send(world, server, column, first, taken)
    return True


@compiled
def _shed_head(world: World) -> bool:
    """Give the head up when it has waited for too long."""
    state = world.state
    if state[f.NOW_S] - world.requests[f.ARRIVED_S][int(world.heap[0])] < state[f.TIMEOUT_S]:
        return False
    give_up(world, take_head(world), f.SHED)
    return True


@compiled
def _write_query(world: World) -> None:
    query, state, requests = world.head.query, world.state, world.requests
    head, queued = int(world.heap[0]), int(state[f.QUEUED])
    query[r.NOW_S] = state[f.NOW_S]
    query[r.SLACK_MARGIN] = state[f.SLACK_MARGIN]
    query[r.QUEUE_ITEMS] = state[f.QUEUE_ITEMS]
    query[r.HEAD_ITEMS] = requests[f.REQUEST_ITEMS][head]
    query[r.HEAD_DEADLINE_S] = requests[f.DEADLINE_S][head]
    query[r.TAIL_DEADLINE_S] = tail_deadline_s(world.heap, queued, requests, world.sample)
    query[r.MIN_ACCURACY] = state[f.MIN_ACCURACY]
    query[r.TURN] = state[f.TURN]
    query[r.FIRST_UNIFORM] = requests[f.LOT][head]
    query[r.SECOND_UNIFORM] = requests[f.OTHER_LOT][head]
    query[r.HEAD_ARRIVED_S] = requests[f.ARRIVED_S][head]


@compiled
def take_head(world: World) -> int:
    """Remove and return the request that is due first."""
    state = world.state
    request = pop_request(world.heap, int(state[f.QUEUED]), world.requests)
    state[f.QUEUED] -= 1
    state[f.QUEUE_ITEMS] -= world.requests[f.REQUEST_ITEMS][request]
    state[f.WAITING_ITEMS] -= world.requests[f.REQUEST_ITEMS][request]
    return request


@compiled
def _take_batch(world: World, items: float) -> tuple[int, float]:
    """Remove requests from the head on, together at most ``items``; return the first and their items."""
    requests, state = world.requests, world.state
    first = take_head(world)
    last, taken = first, requests[f.REQUEST_ITEMS][first]
    while state[f.QUEUED] > 0 and taken + requests[f.REQUEST_ITEMS][int(world.heap[0])] <= items:
        following = take_head(world)
        requests[f.NEXT][last] = following
        taken += requests[f.REQUEST_ITEMS][following]
        last = following
    requests[f.NEXT][last] = -1
    return first, taken


@compiled
def _bind(world: World, server: int, column: int) -> None:
    """Move the head into the lane of a server and width."""
    fleet, requests = world.fleet, world.requests
    request = take_head(world)
    items = requests[f.REQUEST_ITEMS][request]
    world.state[f.WAITING_ITEMS] += items
    requests[f.LEFT][request] = -1
    requests[f.RIGHT][request] = -1
    lane = server * fleet.columns + column
    world.roots[lane] = merge_lanes(requests, world.roots[lane], float(request))
    fleet.models[r.MODEL_BOUND_ITEMS][lane] += items
    fleet.servers[r.BOUND_ITEMS][server] += items
    fleet.servers[r.HELD_ITEMS][server] += items


@compiled
def _pop_bound(world: World, server: int, column: int) -> int:
    """Remove and return the first request of a lane."""
    fleet, requests = world.fleet, world.requests
    lane = server * fleet.columns + column
    request = int(world.roots[lane])
    items = requests[f.REQUEST_ITEMS][request]
    world.roots[lane] = merge_lanes(requests, requests[f.LEFT][request], requests[f.RIGHT][request])
    fleet.models[r.MODEL_BOUND_ITEMS][lane] -= items
    fleet.servers[r.BOUND_ITEMS][server] -= items
    fleet.servers[r.HELD_ITEMS][server] -= items
    world.state[f.WAITING_ITEMS] -= items
    return request


@compiled
def _serve_lanes(world: World, server: int) -> None:
    """Send what is bound to a server as far as it has room, the lane with the earliest head first."""
    fleet, requests = world.fleet, world.requests
    while fleet.servers[r.BOUND_ITEMS][server] > 0:
        _shed_bound(world, server)
        chosen = -1
        for column in range(fleet.columns):
            root = world.roots[server * fleet.columns + column]
            if root < 0 or not _has_room(world, server, column):
                continue
            if chosen < 0 or is_sooner(requests, root, world.roots[server * fleet.columns + chosen]):
                chosen = column
        if chosen < 0:
            return
        first = _pop_bound(world, server, chosen)
        last, taken = first, requests[f.REQUEST_ITEMS][first]
        lane = server * fleet.columns + chosen
        while world.roots[lane] >= 0:
            if taken + requests[f.REQUEST_ITEMS][int(world.roots[lane])] > fleet.models[r.MAX_BATCH][lane]:
                break
            following = _pop_bound(world, server, chosen)
            requests[f.NEXT][last] = following
            taken += requests[f.REQUEST_ITEMS][following]
            last = following
        requests[f.NEXT][last] = -1
        send(world, server, chosen, first, taken)


@compiled
def _shed_bound(world: World, server: int) -> None:
    """Give up the heads of a server's lanes that have waited for too long."""
    oldest_s = world.state[f.NOW_S] - world.state[f.TIMEOUT_S]
    for column in range(world.fleet.columns):
        lane = server * world.fleet.columns + column
        while world.roots[lane] >= 0 and world.requests[f.ARRIVED_S][int(world.roots[lane])] <= oldest_s:
            give_up(world, _pop_bound(world, server, column), f.SHED)


@compiled
def _has_room(world: World, server: int, column: int) -> bool:
    """Return whether a server, which answers itself, may be sent a group; done groups take no room."""
    fleet = world.fleet
    total, of_width = 0, 0
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        if math.isnan(world.held[f.DONE_S][place]):
            total += 1
            if fleet.batches[r.COLUMN][place] == column:
                of_width += 1
    limit = fleet.models[r.INSTANCES][server * fleet.columns + column] + fleet.servers[r.WAITING_LIMIT][server]
    return total < fleet.servers[r.BATCH_LIMIT][server] and of_width < limit


@compiled
def _unbind(world: World, server: int, column: int) -> None:
    """Take what was bound to a width that is gone back into the queue."""
    while world.roots[server * world.fleet.columns + column] >= 0:
        enqueue(world, _pop_bound(world, server, column))
