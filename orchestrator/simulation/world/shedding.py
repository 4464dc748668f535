"""Who sends, who is let into a simulated router's queue, and who has to leave it unserved.

These are the rules of a live router (orchestrator.router.queue.shedding says why), by the same functions of
orchestrator.policies.queue_rules. A queue is bounded in items alone, because all requests of a scenario have as many
bytes an item. What can't keep its deadline is given up only where a scenario has ``shed_late``.

Callers may wait for their answers: while all of them do, nobody sends, and what comes next comes later by as much. So
times between arrivals are kept as they were drawn: they are how long callers think, all together. On the router's own
host a caller is free when his answer is written, and not when he has woken up for it.
"""

from __future__ import annotations

import math

from orchestrator.policies import queue_rules
from orchestrator.policies.family_turns import WEIGHT
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.heaps import goes_first, key_of, push_event, ratio_before
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.queue import bound_head, give_up, has_head, push, shed, take_bound_head, take_head

_comes_too_late = compiled(queue_rules.comes_too_late)
_expires_s = compiled(queue_rules.expires_s)
_is_overloaded = compiled(queue_rules.is_overloaded)
_filled_part = compiled(queue_rules.filled_part)
_has_to_leave = compiled(queue_rules.has_to_leave)
_is_beyond_limits = compiled(queue_rules.is_beyond_limits)
_leaving_rank = compiled(queue_rules.leaving_rank)
_longest_service_s = compiled(queue_rules.longest_service_s)


@compiled
def is_any_caller_free(world: World) -> bool:
    """Return whether one of the callers waits for no answer."""
    state = world.state
    return bool(state[sim.NEXT_ARRIVAL] - state[sim.ANSWERED_COUNT] - state[sim.LOST_COUNT] < state[sim.CALLERS])


@compiled
def delay_next(world: World) -> None:
    """Let the request that comes now be as late as its callers have made it, and with it all that come after."""
    requests, state, request = world.requests, world.state, int(world.state[sim.NEXT_ARRIVAL])
    state[sim.DELAYED_S] = state[sim.NOW_S] - requests[sim.ARRIVED_S][request]
    if state[sim.DELAYED_S] > 0:
        requests[sim.ARRIVED_S][request] = state[sim.NOW_S]
        requests[sim.DEADLINE_S][request] += state[sim.DELAYED_S]
        requests[sim.DUE_S][request] += state[sim.DELAYED_S]


@compiled
def arrive(world: World, request: int) -> bool:
    """Let a request wait, in place of less important ones if need be, or give it up; return whether it waits."""
    if not _make_room(world, request):
        give_up(world, request, sim.SHED)
        return False
    family = int(world.requests[sim.FAMILY][request])
    world.queues[sim.ARRIVED_ITEMS][family] += world.requests[sim.REQUEST_ITEMS][request]
    enqueue(world, request)
    return bool(world.requests[sim.STATUS][request] == sim.WAITING)


@compiled
def enqueue(world: World, request: int) -> None:
    """Let a request wait for a decision, and see to it that it is given up in time."""
    requests, state = world.requests, world.state
    push(world, request)
    if state[sim.SHEDS_LATE] == 0:
        return
    if requests[sim.ATTEMPTS][request] == 0 and _has_come_too_late(world, request):
        shed(world, request)
    elif requests[sim.IS_WATCHED][request] == 0:
        fastest_s = world.queues[sim.FASTEST_S][int(requests[sim.CLASS][request])]
        at_s = _expires_s(requests[sim.DUE_S][request], fastest_s)
        if at_s <= state[sim.NOW_S] and requests[sim.ATTEMPTS][request] == 0 and not _is_any_idle(world):
            shed(world, request)
            return
        requests[sim.IS_WATCHED][request] = 1
        push_event(world, max(at_s, state[sim.NOW_S]), sim.EXPIRES, -1.0, float(request), 0.0)


@compiled
def expire(world: World, request: int) -> None:
    """Give a request up whose deadline can't be kept any more, if it still waits."""
    world.requests[sim.IS_WATCHED][request] = 0
    if world.requests[sim.STATUS][request] == sim.WAITING:
        shed(world, request)


@compiled
def shed_overdue_head(world: World, own: int) -> bool:
    """Give the head of a class up when it has waited for longer than anybody may; return whether it has."""
    state = world.state
    if state[sim.NOW_S] - world.requests[sim.ARRIVED_S][int(world.heap[own][0])] < state[sim.TIMEOUT_S]:
        return False
    give_up(world, take_head(world, own), sim.SHED)
    return True


@compiled
def shed_overdue_bound(world: World, queue: int) -> int:
    """Give up the heads of the queue of a server and width likewise; return its head then, -1 when it has none."""
    oldest_s, head = world.state[sim.NOW_S] - world.state[sim.TIMEOUT_S], bound_head(world, queue)
    while head >= 0 and world.requests[sim.ARRIVED_S][head] <= oldest_s:
        give_up(world, take_bound_head(world, queue), sim.SHED)
        head = bound_head(world, queue)
    return head


@compiled
def shed_late_heads(world: World, own: int, count: int) -> bool:
    """Give up the heads of a class that can't be answered in time; return whether there were any.

    What the candidates, of which there are ``count``, show of the queue is remembered for those that come.
    """
    state, query = world.state, world.head.query
    if count == 0:
        return False
    least = queue_rules.least_times(world.rows, count, query)
    world.queues[sim.FASTEST_S][own], world.queues[sim.MOST_RPS][own] = least.fastest_s, least.most_rps
    same = int(world.queues[sim.SAME_WIDTHS][own])
    world.queues[sim.KNOWN_FASTEST_S][same], world.queues[sim.KNOWN_MOST_RPS][same] = least.fastest_s, least.most_rps
    if _is_worth_a_try(world, count):
        return False
    tail_slack_s = query[col.TAIL_DEADLINE_S] - state[sim.NOW_S]
    margin = max(least.drain_margin, state[sim.SLACK_MARGIN])
    is_pressed = _is_overloaded(least.drain_s, tail_slack_s, margin)
    is_beyond_help = _is_overloaded(least.drain_s, tail_slack_s, 1.0)
    has_shed = False
    while has_head(world, own):
        head = int(world.heap[own][0])
        allowed_s = world.requests[sim.DUE_S][head] - world.requests[sim.ARRIVED_S][head]
        slack_s = world.requests[sim.DUE_S][head] - state[sim.NOW_S]
        longest_s = _longest_service_s(allowed_s, slack_s, tail_slack_s, margin) if is_pressed else -1.0
        items = world.requests[sim.REQUEST_ITEMS][head]
        needs_s = queue_rules.least_answer_s(world.rows, count, query, items, longest_s, is_beyond_help)
        if state[sim.NOW_S] + needs_s <= world.requests[sim.DUE_S][head]:
            break
        give_up(world, take_head(world, own), sim.SHED)
        has_shed = True
    return has_shed


@compiled
def _is_worth_a_try(world: World, count: int) -> bool:
    """Return whether the head is better tried than refused: on an idle server it may be in time, or all are idle."""
    rows, query = world.rows, world.head.query
    slack_s, is_any_busy = query[col.HEAD_DEADLINE_S] - query[col.NOW_S], False
    only = queue_rules.only_width(rows, count, query)
    for row in range(count):
        if not queue_rules.is_taken(row, only, rows):
            continue
        if world.fleet.servers[col.BATCH_COUNT][int(rows[col.ROW_SERVER][row])] > 0:
            is_any_busy = True
        elif rows[col.ROW_HEAD_COMPLETION_S][row] <= slack_s:
            return True
    return not is_any_busy


@compiled
def _is_any_idle(world: World) -> bool:
    """Return whether some server, as the router knows it, has nothing to do."""
    known = world.fleet.servers
    for server in range(world.fleet.server_count):
        if known[col.HEALTHY][server] != 0 and known[col.BATCH_COUNT][server] == 0:
            return True
    return False


@compiled
def _has_come_too_late(world: World, request: int) -> bool:
    requests, queues, own = world.requests, world.queues, int(world.requests[sim.CLASS][request])
    allowed_s = requests[sim.DUE_S][request] - requests[sim.ARRIVED_S][request]
    items, most_rps = queues[sim.QUEUE_ITEMS][own], queues[sim.MOST_RPS][own]
    if not _comes_too_late(items, most_rps, allowed_s):
        return False  # no more goes before it than waits
    items_before = items * ratio_before(world.heap[own], int(queues[sim.QUEUED][own]), requests, request)
    return _comes_too_late(items_before, most_rps, allowed_s)


@compiled
def _make_room(world: World, request: int) -> bool:
    """Give up the least important of what waits until a request fits; return whether it does."""
    state = world.state
    items = state[sim.WAITING_ITEMS] + world.requests[sim.REQUEST_ITEMS][request]
    if not _is_beyond_limits(items, 0.0, state[sim.QUEUE_LIMIT], math.inf):
        return True
    return state[sim.CAN_DISPLACE] != 0 and _displace(world, request, items)


@compiled_apart
def _displace(world: World, request: int, items: float) -> bool:
    """Give up the least important of what waits, which with the request is ``items``, until that many may wait.

    Return whether the request fits then.

    Nobody is given up when all that is less important would not be enough. The search goes over all requests that are
    still open: a queue that is full of what may be displaced is rare, and a heap kept for it would cost every other.
    """
    requests, state = world.requests, world.state
    while requests[sim.STATUS][int(state[sim.OLDEST_OPEN])] > sim.SENT:
        state[sim.OLDEST_OPEN] += 1
    _count_families(world, request)
    victim = -1  # they are linked by NEXT, and marked so that none is found twice
    while _is_beyond_limits(items, 0.0, state[sim.QUEUE_LIMIT], math.inf):
        found = _next_to_leave(world, request)
        if found < 0:
            break
        items -= requests[sim.REQUEST_ITEMS][found]
        world.queues[sim.ITEMS_TO_ROOM][int(requests[sim.FAMILY][found])] -= requests[sim.REQUEST_ITEMS][found]
        requests[sim.STATUS][found] = sim.SHED
        requests[sim.NEXT][found] = victim
        victim = found
    fits = not _is_beyond_limits(items, 0.0, state[sim.QUEUE_LIMIT], math.inf)
    while victim >= 0:
        following = int(requests[sim.NEXT][victim])
        requests[sim.NEXT][victim] = -1
        requests[sim.STATUS][victim] = sim.WAITING
        if fits:
            shed(world, victim)
        victim = following
    return fits


@compiled
def _count_families(world: World, request: int) -> None:
    """Write how many items of each family wait, those of a request that has just come included."""
    requests, queues = world.requests, world.queues
    for family in range(int(world.state[sim.FAMILIES])):
        items = queues[sim.QUEUE_ITEMS][family] + queues[sim.QUEUE_BOUND_ITEMS][family]
        queues[sim.ITEMS_TO_ROOM][family] = items
    queues[sim.ITEMS_TO_ROOM][int(requests[sim.FAMILY][request])] += requests[sim.REQUEST_ITEMS][request]


@compiled
def _filled(world: World, family: int) -> float:
    queues = world.queues
    items, weight = queues[sim.ITEMS_TO_ROOM][family], queues[WEIGHT][family]
    return _filled_part(items, 0.0, world.state[sim.QUEUE_LIMIT], math.inf, weight)


@compiled
def _next_to_leave(world: World, request: int) -> int:
    """Return the waiting request that has to go next for another one to fit, -1 when none has to."""
    requests, families = world.requests, int(world.state[sim.FAMILIES])
    fullest, found, highest = 0, -1, (0.0, 0.0, 0.0)
    for family in range(1, families):
        if _filled(world, family) >= _filled(world, fullest):
            fullest = family
    before = key_of(requests, request)
    for family in range(families):
        last = _least_important(world, request, family)
        if last < 0:
            continue
        key, is_own = key_of(requests, last), family == requests[sim.FAMILY][request]
        if _has_to_leave(key, before, is_own, family == fullest):
            rank = _leaving_rank(key, _filled(world, family))
            if found < 0 or rank > highest:
                found, highest = last, rank
    return found


@compiled
def _least_important(world: World, request: int, family: int) -> int:
    """Return the request of a family that waits and goes last, -1 when none waits; of equals the last to come."""
    requests, state = world.requests, world.state
    last = -1
    for other in range(int(state[sim.OLDEST_OPEN]), request):
        if requests[sim.STATUS][other] != sim.WAITING or requests[sim.FAMILY][other] != family:
            continue
        if last < 0 or goes_first(requests, last, other):
            last = other
    return last
