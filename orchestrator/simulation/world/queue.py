"""What waits in a simulated router: the central queue, and the queues that requests are bound to.

A request that is given up while it waits is counted no more at once, and its entry stays until it comes to the top, or
until most of the heap is such; as in a live router (orchestrator.router.queue.request_queue), whose heap therefore
looks the same.
"""

from __future__ import annotations

from orchestrator.policies.queue_rules import is_mostly_gone, was_possible
from orchestrator.policies.rule import observe_miss
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.heaps import merge_queues, pop_request, push_request, restore_heap
from orchestrator.simulation.world.layout import World

_is_mostly_gone = compiled(is_mostly_gone)
_was_possible = compiled(was_possible)


@compiled
def push(world: World, request: int) -> None:
    """Let a request wait for a decision."""
    requests, state = world.requests, world.state
    items = requests[sim.REQUEST_ITEMS][request]
    requests[sim.STATUS][request] = sim.WAITING
    requests[sim.QUEUE][request] = -1
    push_request(world.heap, int(state[sim.QUEUED]), requests, request)
    state[sim.QUEUED] += 1
    state[sim.QUEUE_ITEMS] += items
    state[sim.WAITING_ITEMS] += items


@compiled
def give_up(world: World, request: int, status: float) -> None:
    """End a request without an answer; it must not wait any more."""
    world.requests[sim.STATUS][request] = status
    world.requests[sim.ANSWERED_S][request] = world.state[sim.NOW_S]
    world.state[sim.LOST_COUNT] += 1
    world.state[sim.OWED_S] += world.state[sim.ANSWER_COST_S]
    allowed_s = world.requests[sim.DUE_S][request] - world.requests[sim.ARRIVED_S][request]
    was_possible = world.state[sim.SHEDS_LATE] == 0 or _was_possible(allowed_s, world.state[sim.FASTEST_S])
    if status != sim.FAILED and was_possible:
        observe_miss(world.rule, world.memory)


@compiled
def shed(world: World, request: int) -> None:
    """Give up a request wherever it waits."""
    requests, state = world.requests, world.state
    queue, items = int(requests[sim.QUEUE][request]), requests[sim.REQUEST_ITEMS][request]
    give_up(world, request, sim.SHED)
    state[sim.WAITING_ITEMS] -= items
    if queue >= 0:
        _count_bound(world, queue, -items)
        return
    state[sim.QUEUE_ITEMS] -= items
    state[sim.GONE] += 1
    entries = int(state[sim.QUEUED])
    if not _is_mostly_gone(entries, entries - int(state[sim.GONE])):
        return
    kept = 0
    for entry in range(entries):
        if requests[sim.STATUS][int(world.heap[entry])] == sim.WAITING:
            world.heap[kept] = world.heap[entry]
            kept += 1
    restore_heap(world.heap, kept, requests)
    state[sim.QUEUED] = kept
    state[sim.GONE] = 0


@compiled
def has_head(world: World) -> bool:
    """Return whether a request waits for a decision; if so the first one is on top of the heap."""
    state = world.state
    while state[sim.GONE] > 0 and world.requests[sim.STATUS][int(world.heap[0])] != sim.WAITING:
        pop_request(world.heap, int(state[sim.QUEUED]), world.requests)
        state[sim.QUEUED] -= 1
        state[sim.GONE] -= 1
    return state[sim.QUEUED] > 0


@compiled
def take_head(world: World) -> int:
    """Remove and return the request that goes first; there must be one, see ``has_head``."""
    state = world.state
    request = pop_request(world.heap, int(state[sim.QUEUED]), world.requests)
    state[sim.QUEUED] -= 1
    state[sim.QUEUE_ITEMS] -= world.requests[sim.REQUEST_ITEMS][request]
    state[sim.WAITING_ITEMS] -= world.requests[sim.REQUEST_ITEMS][request]
    return request


@compiled
def take_batch(world: World, most_items: float) -> tuple[int, float]:
    """Remove requests from the head on, together at most so many items; return the first and their items."""
    requests = world.requests
    first = take_head(world)
    last, taken = first, requests[sim.REQUEST_ITEMS][first]
    while has_head(world) and taken + requests[sim.REQUEST_ITEMS][int(world.heap[0])] <= most_items:
        following = take_head(world)
        requests[sim.NEXT][last] = following
        taken += requests[sim.REQUEST_ITEMS][following]
        last = following
    requests[sim.NEXT][last] = -1
    return first, taken


@compiled
def bind(world: World, server: int, column: int) -> None:
    """Move the head into the queue of a server and width."""
    requests, queue = world.requests, server * world.fleet.columns + column
    request = take_head(world)
    items = requests[sim.REQUEST_ITEMS][request]
    world.state[sim.WAITING_ITEMS] += items
    requests[sim.QUEUE][request] = queue
    requests[sim.LEFT][request] = requests[sim.RIGHT][request] = -1
    world.roots[queue] = merge_queues(requests, world.roots[queue], float(request))
    _count_bound(world, queue, items)


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
    _count_bound(world, queue, -items)
    world.state[sim.WAITING_ITEMS] -= items
    return request


@compiled
def take_bound_batch(world: World, queue: int) -> tuple[int, float]:
    """Remove as many requests of a queue as fit into one batch; return the first and their items."""
    requests, most_items = world.requests, world.fleet.models[col.MAX_BATCH][queue]
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
def _count_bound(world: World, queue: int, items: float) -> None:
    """Count items that are bound to the server and width of a queue, or with a minus sign count them no more."""
    fleet, server = world.fleet, queue // world.fleet.columns
    fleet.models[col.MODEL_BOUND_ITEMS][queue] += items
    fleet.servers[col.BOUND_ITEMS][server] += items
    fleet.servers[col.HELD_ITEMS][server] += items
