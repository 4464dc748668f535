"""The event loop: what comes next, what it changes, and the router's reaction to it.

Of what happens at the same time, batches end first, then what was arranged beforehand happens, then requests arrive.
After each the router does what a live one does after a change: it asks its policy about the head of the queue until
the policy holds (orchestrator.router.router); of several families it presents the heads in their turns. A router that
takes time does so at the end of a turn (orchestrator.simulation.world.turns).

A run is over when the last request of its trace is answered or given up; nothing happens after that, so that times,
joules and utilisation are of the work alone. Faults and reports that were arranged for later never come, and neither
do the ends of batches that were lost or of holds.
"""

from __future__ import annotations

import math

from orchestrator.policies.rule import choose_row
from orchestrator.policies.rules.by_preference import choose_preferred
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.candidates import build_rows
from orchestrator.policies.tables.compiled import CompiledOnce, compiled, compiled_apart
from orchestrator.policies.tables.layout import REJECT
from orchestrator.policies.tables.memory import MEMORY_FIELDS
from orchestrator.policies.tables.occupancy import has_room, held_s, may_wait
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world import devices, families, hosts, learning, queue, servers, shedding, turns
from orchestrator.simulation.world.heaps import drop_event, tail_deadline_s
from orchestrator.simulation.world.layout import World

NO_EVENT = 0
FROM_HEAP = 1
FROM_SCHEDULE = 2
ARRIVAL = 3
HOLD_ENDS = 4
FROM_HOST = 5
CONTROL = 6

_ROUNDING = 1e-9
"""Relative, so that who has waited for as long as anybody may has by the sum of his times as well."""


@CompiledOnce
def advance(world: World, until_s: float) -> bool:
    """Run until a time, or until a decision is to be made outside; return whether the latter is so.

    Such a decision is about ``rows``, of which there are ``state[ROW_COUNT]``; ``apply`` makes it. It ends before where
    controllers are to act, with ``state[IS_CONTROL_DUE]``; see orchestrator.simulation.controllers.
    """
    state = world.state
    while True:
        if state[sim.IS_CHANGED] != 0 and state[sim.PHASE] == sim.IDLE and _decide(world):
            return True
        if state[sim.ROUTER_HOST] >= 0:
            turns.go_on(world)
        source, at_s = _next_event(world)
        if source == NO_EVENT or at_s > until_s:
            if until_s < math.inf:  # who names a time waits for it; else it stays where the last event was
                state[sim.NOW_S] = max(state[sim.NOW_S], until_s)
            return False
        state[sim.NOW_S] = at_s
        if source == CONTROL:
            state[sim.IS_CONTROL_DUE] = 1
            return False
        _go_on(world, source)


advance_at = advance.at
"""Calls ``advance`` by its address, in compiled functions."""


@compiled
def _go_on(world: World, source: int) -> None:
    """Do what comes next; then a decision is due, at once or when the router is free."""
    state = world.state
    was_due = state[sim.IS_CHANGED]
    state[sim.IS_CHANGED] = 1
    if source == ARRIVAL:
        shedding.delay_next(world)
        state[sim.NEXT_ARRIVAL] += 1
        # A busy router has to read it first, and who finds the queue full changes nothing.
        if state[sim.ROUTER_HOST] >= 0 or not shedding.arrive(world, int(state[sim.NEXT_ARRIVAL]) - 1):
            state[sim.IS_CHANGED] = was_due
        return
    if source == FROM_HOST:
        state[sim.IS_CHANGED] = was_due
        if hosts.end_next(world, int(state[sim.NEXT_HOST])):
            _end_turn(world)
        return
    if source == HOLD_ENDS:
        queue.end_holds(world)
    else:
        events, at = (world.events, 0) if source == FROM_HEAP else (world.schedule, int(state[sim.NEXT_ENTRY]))
        kind, server = events[sim.KIND][at], int(events[sim.EVENT_SERVER][at])
        detail, value = events[sim.DETAIL][at], events[sim.VALUE][at]
        if source == FROM_HEAP:
            drop_event(world)
        else:
            state[sim.NEXT_ENTRY] += 1
        _happen(world, kind, server, detail, value)
    if state[sim.IS_CHANGED] != 0:
        state[sim.CHANGES] += 1
    elif was_due != 0:
        state[sim.IS_CHANGED] = 1


@compiled
def _next_event(world: World) -> tuple[int, float]:
    state = world.state
    # What a failed server holds counts as neither until the router has noticed.
    if state[sim.ANSWERED_COUNT] + state[sim.LOST_COUNT] == state[sim.ARRIVALS]:
        return NO_EVENT, math.inf
    source, at_s = _next_but_control(world)
    if state[sim.CONTROL_S] < at_s:
        source, at_s = CONTROL, max(state[sim.NOW_S], state[sim.CONTROL_S])
    return source, at_s


@compiled
def _next_but_control(world: World) -> tuple[int, float]:
    state = world.state
    source, at_s = NO_EVENT, math.inf
    if state[sim.EVENTS] > 0:
        source, at_s = FROM_HEAP, world.events[sim.AT_S][0]
    if state[sim.NEXT_ENTRY] < state[sim.ENTRIES]:
        entry_s = world.schedule[sim.AT_S][int(state[sim.NEXT_ENTRY])]
        if entry_s < at_s:
            source, at_s = FROM_SCHEDULE, entry_s
    if state[sim.NEXT_ARRIVAL] < state[sim.ARRIVALS] and shedding.is_any_caller_free(world):
        arrival_s = world.requests[sim.ARRIVED_S][int(state[sim.NEXT_ARRIVAL])] + state[sim.DELAYED_S]
        arrival_s = max(arrival_s, state[sim.NOW_S])
        if arrival_s < at_s:
            source, at_s = ARRIVAL, arrival_s
    for host in range(int(state[sim.HOSTS])):
        if world.hosts[sim.NEXT_S][host] < at_s:
            source, at_s = FROM_HOST, world.hosts[sim.NEXT_S][host]
            state[sim.NEXT_HOST] = host
    if state[sim.HOLD_UNTIL_S] < at_s and state[sim.PHASE] == sim.IDLE:
        source, at_s = HOLD_ENDS, max(state[sim.NOW_S], state[sim.HOLD_UNTIL_S])
    if source == NO_EVENT:  # nothing is to come that heads could wait for
        at_s = _given_up_s(world)
        if at_s < math.inf:
            source = HOLD_ENDS
    return source, at_s


@compiled
def set_instances(world: World, server: int, column: int, instances: float) -> None:
    """Let a server have so many instances of a width from now on; what was sent to one that it gives up still runs.

    The router knows at once. What was bound to a width that is gone waits for another decision.
    """
    fleet, state = world.fleet, world.state
    model = server * fleet.columns + column
    fleet.models[col.SERVED][model] = instances > 0
    if instances > 0:
        fleet.models[col.INSTANCES][model] = instances
    else:
        _unbind(world, server, column)
    most = 1.0
    for at in range(server * fleet.columns, (server + 1) * fleet.columns):
        if fleet.models[col.SERVED][at] != 0:
            most = max(most, fleet.models[col.INSTANCES][at])
    fleet.servers[col.BATCH_LIMIT][server] = fleet.servers[col.WAITING_LIMIT][server] + most
    servers.start_batches(world, server)
    _serve_bound(world, server)
    state[sim.IS_CHANGED] = 1
    state[sim.CHANGES] += 1


@compiled
def _given_up_s(world: World) -> float:
    """Return when the first head has waited for as long as anybody may; infinite when there is none."""
    found_s = math.inf
    for own in range(int(world.state[sim.CLASSES])):
        if queue.has_head(world, own):
            at_s = world.requests[sim.ARRIVED_S][int(world.heap[own][0])] + world.state[sim.TIMEOUT_S]
            found_s = min(found_s, max(world.state[sim.NOW_S], at_s + _ROUNDING * (1 + at_s)))
    return found_s


@compiled
def _happen(world: World, kind: float, server: int, detail: float, value: float) -> None:
    """Do what an event says."""
    may_serve = False
    if kind in (sim.ENDS, sim.ANSWERS):
        may_serve = _advance_batch(world, kind, server, detail, value)
    elif kind == sim.EXPIRES:
        shedding.expire(world, int(detail))
        world.state[sim.IS_CHANGED] = 0  # nothing that a decision waits for
    elif kind == sim.REPORTS:
        servers.report(world, server, value)
    elif kind == sim.THROTTLES:
        world.truth[sim.SPEED][server] = value
    elif kind in (sim.LEAVES, sim.COMES_BACK):
        may_serve = _share(world, server, kind == sim.LEAVES)
    elif kind in (sim.STALLS_SERVERS, sim.STALLS_ROUTER, sim.COMPETES):
        hosts.happen(world, kind, server, value)
        world.state[sim.IS_CHANGED] = 0
    else:
        may_serve = _fail_or_return(world, kind, server)
    if may_serve:  # here alone: of a function that is compiled into its callers each call is a copy
        _serve_bound(world, server)


@compiled_apart
def _fail_or_return(world: World, kind: float, server: int) -> bool:
    """Let a server fail, or be known to, or come back; return whether it may take what is bound to it."""
    fleet, truth = world.fleet, world.truth
    if kind == sim.FAILS:
        if truth[sim.IS_UP][server] != 0:
            servers.fail(world, server)
    elif kind == sim.NOTICED:
        if truth[sim.IS_UP][server] == 0:
            fleet.servers[col.HEALTHY][server] = 0
            servers.lose_batches(world, server)
            for column in range(fleet.columns):
                _unbind(world, server, column)
    elif truth[sim.IS_UP][server] == 0:
        servers.lose_batches(world, server)
        devices.account(world, server)
        truth[sim.IS_UP][server] = 1
        fleet.servers[col.HEALTHY][server] = 1 - truth[sim.IS_AWAY][server]
        return True
    return False


@compiled
def _share(world: World, server: int, leaves: bool) -> bool:
    """Let a server go to another gateway, or come back, and return whether it has; what it holds it answers."""
    world.truth[sim.IS_AWAY][server] = leaves
    world.fleet.servers[col.HEALTHY][server] = 0.0 if leaves else world.truth[sim.IS_UP][server]
    if leaves:
        for column in range(world.fleet.columns):
            _unbind(world, server, column)
    return not leaves


@compiled
def _advance_batch(world: World, kind: float, server: int, batch: float, part: float) -> bool:
    """End a batch, or answer it, unless it was lost; return whether its server may take what is bound to it."""
    slot = servers.slot_of_batch(world, server, batch)
    if slot < 0:
        return False
    if kind == sim.ENDS:
        servers.end_batch(world, server, slot, part)
    elif world.state[sim.ROUTER_HOST] < 0:
        servers.answer_batch(world, server, slot)
    else:
        servers.arrive_at_router(world, server, slot)
    return world.state[sim.ROUTER_HOST] < 0


@compiled_apart
def _end_turn(world: World) -> None:
    """Answer what the router has read of answers in its turn, and let requests that it has read wait for a decision."""
    state = world.state
    has_read = state[sim.PHASE] == sim.READS
    state[sim.PHASE] = sim.IDLE
    if not has_read:
        return
    turns.note_lag(world)
    for entry in range(int(state[sim.ANSWERS_READ]), int(state[sim.ANSWERS_TURN])):
        server, slot = turns.answered_batch(world, entry)
        state[sim.CHANGES] += 1
        state[sim.IS_CHANGED] = 1
        if slot >= 0:
            servers.answer_batch(world, server, slot)
            _serve_bound(world, server)
    state[sim.ANSWERS_READ] = state[sim.ANSWERS_TURN]
    for request in range(int(state[sim.NEXT_UNREAD]), int(state[sim.TURN_END])):
        world.requests[sim.DUE_S][request] = world.requests[sim.DEADLINE_S][request] - state[sim.LAG_S]
        if shedding.arrive(world, request):
            state[sim.IS_CHANGED] = 1
    state[sim.NEXT_UNREAD] = state[sim.TURN_END]


@compiled
def _decide(world: World) -> bool:
    """Ask the policy until it holds or nothing waits, of each class; return whether it has to be asked outside."""
    state = world.state
    while True:
        # A family may have batches wait again as time goes by, and once it was refused.
        if state[sim.BINDS_EARLY] != 0 and state[sim.FAMILIES] > 1:
            for server in range(world.fleet.server_count):
                _serve_bound(world, server)
        own = queue.next_turn(world)
        if own < 0:
            break
        if shedding.shed_overdue_head(world, own):
            queue.begin_round(world)
            continue
        if state[sim.SHEDS_LATE] != 0 and queue.is_held(world, own) and not _has_any_room(world):
            world.queues[sim.HAS_HELD][own] = 1
            continue  # nothing but requests has come, and nothing could be sent
        devices.read_devices(world)
        learning.fade(world)
        _write_query(world, own)
        waiting = families.begin_decision(world, own)
        count = build_rows(world.fleet, world.head, world.rows, world.scratch)
        families.end_decision(world, waiting)
        if state[sim.SHEDS_LATE] != 0 and shedding.shed_late_heads(world, own, count):
            queue.begin_round(world)
            continue
        # What a request prefers is a rule, whoever decides; without such classes it is what all of a task weigh.
        if state[sim.HAS_PREFERENCES] != 0 and not math.isnan(world.head.query[col.PREFER_ACCURACY]):
            takes_busy = state[sim.BINDS_EARLY] != 0
            row, items, _, until_s = choose_preferred(world.rows, count, world.head.query, takes_busy)
        elif state[sim.IS_EXTERNAL] != 0:
            state[sim.ROW_COUNT] = count
            state[sim.IS_PENDING] = 1
            return True
        else:
            first = families.memory_place(world)
            memory = world.memory[first : first + MEMORY_FIELDS]
            row, items, _, until_s = choose_row(world.rule, memory, world.rows, count, world.head.query)
        apply(world, row, items, until_s)
    state[sim.IS_CHANGED] = 0
    queue.begin_round(world)
    return False


@compiled
def apply(world: World, row: int, items: float, until_s: float) -> None:
    """Do what was decided about the head of the class that was asked about."""
    state, rows, own = world.state, world.rows, int(world.state[sim.ASKED])
    state[sim.TURN] += 1
    state[sim.IS_PENDING] = 0
    state[sim.OWED_S] += state[sim.DECISION_COST_S]
    if row < 0 and row != REJECT:
        queue.hold(world, own, until_s)
        return
    queue.begin_round(world)
    if row == REJECT:
        queue.give_up(world, queue.take_head(world, own), sim.REJECTED)
        return
    server, column = int(rows[col.ROW_SERVER][row]), int(rows[col.ROW_COLUMN][row])
    if state[sim.BINDS_EARLY] != 0:
        queue.bind(world, own, server, column)
        _serve_bound(world, server)
        return
    family, model = families.family_of(world, own), server * world.fleet.columns + column
    first, taken = queue.take_batch(world, own, families.most_items(world, family, model, items))
    expected_s, margin = 0.0, rows[col.ROW_MARGIN][row]
    if state[sim.JUDGES] != 0 and not math.isnan(margin):
        per_item_s, fixed_s = rows[col.ROW_PER_ITEM_S][row], rows[col.ROW_FIXED_S][row]
        expected_s = rows[col.ROW_WAIT_S][row] + per_item_s * taken + fixed_s
    families.charge(world, family, model, first, taken)
    servers.send(world, server, column, first, taken, expected_s, margin)


@compiled
def _write_query(world: World, own: int) -> None:
    query, state, requests, queues = world.head.query, world.state, world.requests, world.queues
    head, queued, family = int(world.heap[own][0]), int(queues[sim.QUEUED][own]), families.family_of(world, own)
    query[col.NOW_S] = state[sim.NOW_S]
    query[col.SLACK_MARGIN] = state[sim.SLACK_MARGIN]
    query[col.QUEUE_ITEMS] = queues[sim.QUEUE_ITEMS][own] + state[sim.UNREAD_ITEMS]
    query[col.HEAD_ITEMS] = requests[sim.REQUEST_ITEMS][head]
    query[col.HEAD_DEADLINE_S] = requests[sim.DUE_S][head]
    query[col.TAIL_DEADLINE_S] = tail_deadline_s(world.heap[own], queued, requests, world.sample)
    query[col.MIN_ACCURACY] = queues[sim.MIN_ACCURACY][own]
    query[col.PRIORITY] = requests[sim.PRIORITY][head]
    query[col.TURN] = state[sim.TURN]
    query[col.FIRST_UNIFORM] = requests[sim.FIRST_UNIFORM][head]
    query[col.SECOND_UNIFORM] = requests[sim.SECOND_UNIFORM][head]
    query[col.HEAD_ARRIVED_S] = requests[sim.ARRIVED_S][head]
    query[col.REFUSES_LATE] = state[sim.SHEDS_LATE]
    query[col.SERVERS_SHARE] = families.fair_share(world, family).share
    query[col.ARRIVED_ITEMS] = queues[sim.ARRIVED_ITEMS][family]
    query[col.ONLY_WIDTH] = state[sim.ONLY_WIDTH]
    query[col.OTHER_QUEUES] = queue.count_others(world, own)
    query[col.OTHER_ITEMS] = state[sim.WAITING_ITEMS] - queues[sim.QUEUE_ITEMS][own]
    if state[sim.HAS_PREFERENCES] != 0:
        query[col.PREFER_ACCURACY] = queues[sim.CLASS_PREFER_ACCURACY][own]
        query[col.PREFER_LATENCY] = queues[sim.CLASS_PREFER_LATENCY][own]
        query[col.PREFER_ENERGY] = queues[sim.CLASS_PREFER_ENERGY][own]


@compiled
def _serve_bound(world: World, server: int) -> None:
    """Send what is bound to a server as far as it has room, the width whose head has its turn before the others."""
    fleet = world.fleet
    while fleet.servers[col.BOUND_ITEMS][server] > 0:
        if world.state[sim.FAMILIES] > 1:
            queue.update_turns(world)
        chosen, first = -1, -1
        for column in range(fleet.columns):
            cell = server * fleet.columns + column
            if world.roots[cell] < 0:
                continue
            head = shedding.shed_overdue_bound(world, cell)
            if head < 0 or not _has_room(world, server, column, int(world.requests[sim.FAMILY][head])):
                continue
            if chosen < 0 or queue.has_turn_first(world, head, first):
                chosen, first = column, head
        if chosen < 0:
            return
        family, model = int(world.requests[sim.FAMILY][first]), server * fleet.columns + chosen
        most_items = families.most_items(world, family, model, fleet.models[col.MAX_BATCH][model])
        first, taken = queue.take_bound_batch(world, model, most_items)
        families.charge(world, family, model, first, taken)
        servers.send(world, server, chosen, first, taken, 0.0, 1.0)


@compiled
def _has_any_room(world: World) -> bool:
    """Return whether some server, as the router knows it, may be sent a batch."""
    known = world.fleet.servers
    for server in range(world.fleet.server_count):
        if known[col.HEALTHY][server] != 0 and known[col.BATCH_COUNT][server] < known[col.BATCH_LIMIT][server]:
            return True
    return False


@compiled
def _has_room(world: World, server: int, column: int, family: int) -> bool:
    """Return whether a server, which answers itself, may be sent a batch; done batches take no room."""
    fleet = world.fleet
    total, of_width, work_s = 0.0, 0.0, 0.0
    for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        if math.isnan(world.held[sim.DONE_S][slot]):
            total += 1
            work_s += held_s(fleet, server, slot)
            if fleet.batches[col.COLUMN][slot] == column:
                of_width += 1
    instances = fleet.models[col.INSTANCES][server * fleet.columns + column]
    waiting = 0.0
    if families.fair_share(world, family).longest_run_s == math.inf:
        waiting = may_wait(fleet.servers[col.WAITING_LIMIT][server], total, work_s)
    limit = fleet.servers[col.BATCH_LIMIT][server] - (fleet.servers[col.WAITING_LIMIT][server] - waiting)
    return has_room(total, of_width, instances, limit, waiting)


@compiled
def _unbind(world: World, server: int, column: int) -> None:
    """Take what was bound to a width that is gone back into the queue."""
    cell = server * world.fleet.columns + column
    while queue.bound_head(world, cell) >= 0:
        shedding.enqueue(world, queue.take_bound_head(world, cell))
