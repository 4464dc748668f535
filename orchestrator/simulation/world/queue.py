"""What waits in a simulated router: the central queue of each class, and the queues that requests are bound to.

A request that is given up while it waits is counted no more at once, and its entry stays until it comes to the top, or
until most of the heap is such; as in a live router (orchestrator.router.queue.request_queue), whose heap therefore
looks the same.
"""

from __future__ import annotations

import math

from orchestrator.policies.family_turns import LEADS, WAITS
from orchestrator.policies.queue_rules import is_mostly_gone, turn_key, was_possible
from orchestrator.policies.rule import observe_miss
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.policies.tables.memory import MEMORY_FIELDS
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.families import fair_share, mark_leading, note_refused
from orchestrator.simulation.world.heaps import merge_queues, pop_request, push_request, restore_heap
from orchestrator.simulation.world.layout import World

_is_mostly_gone = compiled(is_mostly_gone)
_was_possible = compiled(was_possible)
_turn_key = compiled(turn_key)


@compiled
def push(world: World, request: int) -> None:
    """Let a request wait for a decision."""
    requests, queues, own = world.requests, world.queues, int(world.requests[sim.CLASS][request])
    items = requests[sim.REQUEST_ITEMS][request]
    requests[sim.STATUS][request] = sim.WAITING
    requests[sim.QUEUE][request] = -1
    if queues[sim.QUEUED][own] == queues[sim.GONE][own]:
        _begin_queue(world, own)
    push_request(world.heap[own], int(queues[sim.QUEUED][own]), requests, request)
    queues[sim.QUEUED][own] += 1
    queues[sim.QUEUE_ITEMS][own] += items
    world.state[sim.WAITING_ITEMS] += items


@compiled
def _begin_queue(world: World, own: int) -> None:
    """Let a queue that nobody waits in know what was last known of any with the same widths."""
    queues, same = world.queues, int(world.queues[sim.SAME_WIDTHS][own])
    queues[sim.FASTEST_S][own] = queues[sim.KNOWN_FASTEST_S][same]
    queues[sim.MOST_RPS][own] = queues[sim.KNOWN_MOST_RPS][same]


@compiled
def give_up(world: World, request: int, status: float) -> None:
    """End a request without an answer; it must not wait any more.

    Families share the servers, so it is a sign of load for those too that have more than their share of them.
    """
    family = int(world.requests[sim.FAMILY][request])
    world.requests[sim.STATUS][request] = status
    world.requests[sim.ANSWERED_S][request] = world.state[sim.NOW_S]
    world.state[sim.LOST_COUNT] += 1
    world.state[sim.OWED_S] += world.state[sim.ANSWER_COST_S]
    allowed_s = world.requests[sim.DUE_S][request] - world.requests[sim.ARRIVED_S][request]
    was_possible = world.state[sim.SHEDS_LATE] == 0 or _was_possible(
        allowed_s, world.queues[sim.FASTEST_S][int(world.requests[sim.CLASS][request])]
    )
    if status != sim.FAILED and was_possible:
        note_refused(world, family, allowed_s)
        for other in range(int(world.state[sim.FAMILIES])):
            if other == family or fair_share(world, other).has_more:
                first = other * MEMORY_FIELDS
                observe_miss(world.rule, world.memory[first : first + MEMORY_FIELDS], world.state[sim.NOW_S])


@compiled
def shed(world: World, request: int) -> None:
    """Give up a request wherever it waits."""
    requests, queues = world.requests, world.queues
    queue, items = int(requests[sim.QUEUE][request]), requests[sim.REQUEST_ITEMS][request]
    give_up(world, request, sim.SHED)
    world.state[sim.WAITING_ITEMS] -= items
    own = int(requests[sim.CLASS][request])
    if queue >= 0:
        _count_bound(world, queue, own, -items)
        return
    queues[sim.QUEUE_ITEMS][own] -= items
    queues[sim.GONE][own] += 1
    entries = int(queues[sim.QUEUED][own])
    if _is_mostly_gone(entries, entries - int(queues[sim.GONE][own])):
        _drop_gone(world, own)


@compiled_apart
def _drop_gone(world: World, own: int) -> None:
    """Keep those entries of a queue whose requests still wait."""
    requests, queues = world.requests, world.queues
    entries = int(queues[sim.QUEUED][own])
    heap, kept = world.heap[own], 0
    for entry in range(entries):
        if requests[sim.STATUS][int(heap[entry])] == sim.WAITING:
            heap[kept] = heap[entry]
            kept += 1
    restore_heap(heap, kept, requests)
    queues[sim.QUEUED][own] = kept
    queues[sim.GONE][own] = 0


@compiled
def has_head(world: World, own: int) -> bool:
    """Return whether a request waits for a decision; if so the first one is on top of its queue's heap."""
    queues = world.queues
    while queues[sim.GONE][own] > 0 and world.requests[sim.STATUS][int(world.heap[own][0])] != sim.WAITING:
        pop_request(world.heap[own], int(queues[sim.QUEUED][own]), world.requests)
        queues[sim.QUEUED][own] -= 1
        queues[sim.GONE][own] -= 1
    return queues[sim.QUEUED][own] > 0


@compiled
def count_others(world: World, own: int) -> int:
    """Return how many other classes have requests that wait for a decision."""
    found = 0
    for other in range(int(world.state[sim.CLASSES])):
        found += other != own and has_head(world, other)
    return found


@compiled
def next_turn(world: World) -> int:
    """Return the class whose head is to be decided about, -1 when there is none; who has held comes no more."""
    queues, classes = world.queues, int(world.state[sim.CLASSES])
    if classes == 1:
        return 0 if has_head(world, 0) and queues[sim.HAS_HELD][0] == 0 else -1
    if world.state[sim.FAMILIES] > 1:
        update_turns(world)
    chosen, first = -1, -1
    for own in range(classes):
        if has_head(world, own) and queues[sim.HAS_HELD][own] == 0:
            head = int(world.heap[own][0])
            if chosen < 0 or has_turn_first(world, head, first):
                chosen, first = own, head
    return chosen


@compiled
def update_turns(world: World) -> None:
    """Find out which families have had so much that others go first."""
    queues, families, waiting = world.queues, int(world.state[sim.FAMILIES]), 0
    for family in range(families):
        waits = has_head(world, family) or queues[sim.QUEUE_BOUND_ITEMS][family] > 0
        queues[WAITS][family] = 1.0 if waits else 0.0
        waiting += waits
    if waiting > 0:
        world.state[sim.CLOCK_S] = mark_leading(queues, families, world.state[sim.CLOCK_S])


@compiled
def has_turn_first(world: World, one: int, other: int) -> bool:
    """Return whether the head of a queue has its turn before that of another; of two equals the one that came first."""
    one_key, other_key = _turn_key_of(world, one), _turn_key_of(world, other)
    return one < other if one_key == other_key else one_key < other_key


@compiled
def _turn_key_of(world: World, request: int) -> tuple[float, bool, float]:
    requests = world.requests
    is_leading = world.queues[LEADS][int(requests[sim.FAMILY][request])] != 0
    return _turn_key(requests[sim.PRIORITY][request], is_leading, requests[sim.DUE_S][request])


@compiled
def begin_round(world: World) -> None:
    """Let every class have a turn again: something was done."""
    for own in range(int(world.state[sim.CLASSES])):
        world.queues[sim.HAS_HELD][own] = 0


@compiled
def hold(world: World, own: int, until_s: float) -> None:
    """Let the head of a class wait until a time, or until something changes."""
    queues, state = world.queues, world.state
    queues[sim.HAS_HELD][own] = 1
    queues[sim.HELD_HEAD][own] = world.heap[own][0]
    queues[sim.HELD_AT][own] = state[sim.CHANGES]
    queues[sim.HELD_UNTIL_S][own] = until_s
    soonest_s = math.inf
    for other in range(int(state[sim.CLASSES])):
        soonest_s = min(soonest_s, queues[sim.HELD_UNTIL_S][other])
    state[sim.HOLD_UNTIL_S] = soonest_s


@compiled
def is_held(world: World, own: int) -> bool:
    """Return whether the head of a class, which must have one, was held and nothing has changed since."""
    queues = world.queues
    is_same = queues[sim.HELD_HEAD][own] == world.heap[own][0]
    return bool(is_same and queues[sim.HELD_AT][own] == world.state[sim.CHANGES])


@compiled
def end_holds(world: World) -> None:
    """Hold for no time any more."""
    world.state[sim.HOLD_UNTIL_S] = math.inf
    for own in range(int(world.state[sim.CLASSES])):
        world.queues[sim.HELD_UNTIL_S][own] = math.inf


@compiled
def take_head(world: World, own: int) -> int:
    """Remove and return the request of a class that goes first; there must be one, see ``has_head``."""
    queues = world.queues
    request = pop_request(world.heap[own], int(queues[sim.QUEUED][own]), world.requests)
    queues[sim.QUEUED][own] -= 1
    queues[sim.QUEUE_ITEMS][own] -= world.requests[sim.REQUEST_ITEMS][request]
    world.state[sim.WAITING_ITEMS] -= world.requests[sim.REQUEST_ITEMS][request]
    return request


@compiled
def take_batch(world: World, own: int, most_items: float) -> tuple[int, float]:
    """Remove requests from the head on, together at most so many items; return the first and their items."""
    requests = world.requests
    first = take_head(world, own)
    last, taken = first, requests[sim.REQUEST_ITEMS][first]
    while has_head(world, own) and taken + requests[sim.REQUEST_ITEMS][int(world.heap[own][0])] <= most_items:
        following = take_head(world, own)
        requests[sim.NEXT][last] = following
        taken += requests[sim.REQUEST_ITEMS][following]
        last = following
    requests[sim.NEXT][last] = -1
    return first, taken


@compiled
def bind(world: World, own: int, server: int, column: int) -> None:
    """Move the head of a class into the queue of a server and width."""
    requests, queue = world.requests, server * world.fleet.columns + column
    request = take_head(world, own)
    items = requests[sim.REQUEST_ITEMS][request]
    world.state[sim.WAITING_ITEMS] += items
    requests[sim.QUEUE][request] = queue
    requests[sim.LEFT][request] = requests[sim.RIGHT][request] = -1
    world.roots[queue] = merge_queues(requests, world.roots[queue], float(request))
    _count_bound(world, queue, own, items)


@compiled
def bound_head(world: World, queue: int) -> int:
    """Return the first request of the queue of a server and width, -1 when none waits in it."""
    requests, roots = world.requests, world.roots
    while roots[queue] >= 0 and requests[sim.STATUS][int(roots[queue])] != sim.WAITING:
        _pop_root(world, queue)
    return int(roots[queue])


@compiled
def take_bound_head(world: World, queue: int) -> int:
    """Remove and return the first request of a queue; there must be one, see ``bound_head``."""
    request = _pop_root(world, queue)
    items = world.requests[sim.REQUEST_ITEMS][request]
    _count_bound(world, queue, int(world.requests[sim.CLASS][request]), -items)
    world.state[sim.WAITING_ITEMS] -= items
    return request


@compiled
def take_bound_batch(world: World, queue: int, most_items: float) -> tuple[int, float]:
    """Remove requests from the head of a queue on, together at most so many items; return the first and their items."""
    requests = world.requests
    first = take_bound_head(world, queue)
    last, taken = first, requests[sim.REQUEST_ITEMS][first]
    while bound_head(world, queue) >= 0 and taken + requests[sim.REQUEST_ITEMS][int(world.roots[queue])] <= most_items:
        following = take_bound_head(world, queue)
        requests[sim.NEXT][last] = following
        taken += requests[sim.REQUEST_ITEMS][following]
        last = following
    requests[sim.NEXT][last] = -1
    return first, taken


@compiled
def _pop_root(world: World, queue: int) -> int:
    requests = world.requests
    request = int(world.roots[queue])
    world.roots[queue] = merge_queues(requests, requests[sim.LEFT][request], requests[sim.RIGHT][request])
    return request


@compiled
def _count_bound(world: World, queue: int, own: int, items: float) -> None:
    """Count items that are bound to the server and width of a queue, or with a minus sign count them no more."""
    world.queues[sim.QUEUE_BOUND_ITEMS][own] += items
    fleet, server = world.fleet, queue // world.fleet.columns
    fleet.models[col.MODEL_BOUND_ITEMS][queue] += items
    fleet.servers[col.BOUND_ITEMS][server] += items
    fleet.servers[col.HELD_ITEMS][server] += items
