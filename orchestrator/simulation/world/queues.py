"""What waits, in tables: events, the requests of a simulated router's queue, and those that are bound to a server.

``heapq`` works on lists of objects, which a compiled loop has not. The router's queue is the binary heap that a live
router keeps (orchestrator.router.queue.request_queue), because the deadline of its tail is estimated from evenly spread
entries of it. A request that is given up while it waits is counted no more at once, and its entry stays until it comes
to the top, or until most of the heap is such; so both heaps look the same. Bound requests wait in skew heaps (Sleator
and Tarjan, 1986): any number of them live in two fields of the requests.
"""

from __future__ import annotations

from orchestrator.policies.queue_rules import is_mostly_gone, order_key, sample_step, tail_index
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

_is_mostly_gone = compiled(is_mostly_gone)
_order_key = compiled(order_key)
_sample_step = compiled(sample_step)
_tail_index = compiled(tail_index)


@compiled
def push_event(world: World, at_s: float, kind: float, server: float, detail: float, value: float) -> None:
    """Add an event, which happens after those at the same time that were added before."""
    events, state = world.events, world.state
    entry = int(state[sim.EVENTS])
    state[sim.EVENTS] += 1
    state[sim.EVENT_ORDER] += 1
    order = state[sim.EVENT_ORDER]
    while entry > 0:
        parent = (entry - 1) >> 1
        if events[sim.AT_S][parent] < at_s or (events[sim.AT_S][parent] == at_s and events[sim.ORDER][parent] < order):
            break
        for field in range(sim.EVENT_FIELDS):
            events[field][entry] = events[field][parent]
        entry = parent
    events[sim.AT_S][entry] = at_s
    events[sim.ORDER][entry] = order
    events[sim.KIND][entry] = kind
    events[sim.EVENT_SERVER][entry] = server
    events[sim.DETAIL][entry] = detail
    events[sim.VALUE][entry] = value


@compiled
def drop_event(world: World) -> None:
    """Remove the event that happens first."""
    events = world.events
    world.state[sim.EVENTS] -= 1
    last = int(world.state[sim.EVENTS])
    at_s, order = events[sim.AT_S][last], events[sim.ORDER][last]
    entry = 0
    while True:
        child = 2 * entry + 1
        if child >= last:
            break
        if child + 1 < last and _is_before(events, child + 1, child):
            child += 1
        if at_s < events[sim.AT_S][child] or (at_s == events[sim.AT_S][child] and order < events[sim.ORDER][child]):
            break
        for field in range(sim.EVENT_FIELDS):
            events[field][entry] = events[field][child]
        entry = child
    for field in range(sim.EVENT_FIELDS):
        events[field][entry] = events[field][last]


@compiled
def _is_before(events: Table, one: int, other: int) -> bool:
    if events[sim.AT_S][one] != events[sim.AT_S][other]:
        return events[sim.AT_S][one] < events[sim.AT_S][other]
    return events[sim.ORDER][one] < events[sim.ORDER][other]


@compiled
def key_of(requests: Table, request: float) -> tuple[float, float]:
    """Return what a request is ordered by among those that wait."""
    return _order_key(requests[sim.PRIORITY][int(request)], requests[sim.DEADLINE_S][int(request)])


@compiled
def goes_first(requests: Table, one: float, other: float) -> bool:
    """Return whether a request goes before another; of two equals, the one that came first does."""
    one_key, other_key = key_of(requests, one), key_of(requests, other)
    return one < other if one_key == other_key else one_key < other_key


@compiled
def _push_request(heap: Column, size: int, requests: Table, request: float) -> None:
    """Add a request to the queue, which holds ``size``."""
    entry = size
    while entry > 0:
        parent = (entry - 1) >> 1
        if not goes_first(requests, request, heap[parent]):
            break
        heap[entry] = heap[parent]
        entry = parent
    heap[entry] = request


@compiled
def _pop_request(heap: Column, size: int, requests: Table) -> int:
    """Remove and return the request of the queue, which holds ``size``, that goes first."""
    first = int(heap[0])
    _sink(heap, size - 1, requests, 0, heap[size - 1])
    return first


@compiled
def _restore_heap(heap: Column, size: int, requests: Table) -> None:
    """Put ``size`` requests that are in any order into that of a heap."""
    for entry in range(size // 2 - 1, -1, -1):
        _sink(heap, size, requests, entry, heap[entry])


@compiled
def _sink(heap: Column, size: int, requests: Table, entry: int, request: float) -> None:
    """Put a request into the heap of ``size`` at ``entry``, or as far below it as it belongs."""
    while True:
        child = 2 * entry + 1
        if child >= size:
            break
        if child + 1 < size and goes_first(requests, heap[child + 1], heap[child]):
            child += 1
        if not goes_first(requests, heap[child], request):
            break
        heap[entry] = heap[child]
        entry = child
    heap[entry] = request


@compiled
def tail_deadline_s(heap: Column, size: int, requests: Table, sample: Column) -> float:
    """Return when the tail of the queue is due, by a sample spread evenly over the heap."""
    count = 0
    for entry in range(0, size, _sample_step(size)):
        deadline_s = requests[sim.DEADLINE_S][int(heap[entry])]
        at = count
        while at > 0 and sample[at - 1] > deadline_s:
            sample[at] = sample[at - 1]
            at -= 1
        sample[at] = deadline_s
        count += 1
    return sample[_tail_index(count)]


@compiled
def ratio_before(heap: Column, size: int, requests: Table, request: int) -> float:
    """Return about which part of the queue goes before a request of it is done, by the same sample; 0..1."""
    before, sampled, own_key = 0, 0, key_of(requests, request)
    for entry in range(0, size, _sample_step(size)):
        if key_of(requests, heap[entry]) <= own_key:
            before += 1
        sampled += 1
    return before / sampled


@compiled
def _merge_queues(requests: Table, one: float, other: float) -> float:
    """Return the root of two queues of bound requests as one; -1 is an empty queue."""
    if one < 0 or other < 0:
        return max(one, other)
    left, right = requests[sim.LEFT], requests[sim.RIGHT]
    root, rest = (one, other) if goes_first(requests, one, other) else (other, one)
    parent = int(root)
    path = right[parent]
    right[parent] = left[parent]
    while path >= 0:
        nearer, farther = (path, rest) if goes_first(requests, path, rest) else (rest, path)
        left[parent] = nearer
        parent = int(nearer)
        path, rest = right[parent], farther
        right[parent] = left[parent]
    left[parent] = rest
    return root


@compiled
def push(world: World, request: int) -> None:
    """Let a request wait for a decision."""
    requests, state = world.requests, world.state
    items = requests[sim.REQUEST_ITEMS][request]
    requests[sim.STATUS][request] = sim.WAITING
    requests[sim.QUEUE][request] = -1
    _push_request(world.heap, int(state[sim.QUEUED]), requests, request)
    state[sim.QUEUED] += 1
    state[sim.QUEUE_ITEMS] += items
    state[sim.WAITING_ITEMS] += items


@compiled
def give_up(world: World, request: int, status: float) -> None:
    """End a request without an answer; it must not wait any more."""
    world.requests[sim.STATUS][request] = status
    world.requests[sim.ANSWERED_S][request] = world.state[sim.NOW_S]
    world.state[sim.LOST_COUNT] += 1


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
    _restore_heap(world.heap, kept, requests)
    state[sim.QUEUED] = kept
    state[sim.GONE] = 0


@compiled
def has_head(world: World) -> bool:
    """Return whether a request waits for a decision; if so the first one is on top of the heap."""
    state = world.state
    while state[sim.GONE] > 0 and world.requests[sim.STATUS][int(world.heap[0])] != sim.WAITING:
        _pop_request(world.heap, int(state[sim.QUEUED]), world.requests)
        state[sim.QUEUED] -= 1
        state[sim.GONE] -= 1
    return state[sim.QUEUED] > 0


@compiled
def take_head(world: World) -> int:
    """Remove and return the request that goes first; there must be one, see ``has_head``."""
    state = world.state
    request = _pop_request(world.heap, int(state[sim.QUEUED]), world.requests)
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
    world.roots[queue] = _merge_queues(requests, world.roots[queue], float(request))
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
    world.roots[queue] = _merge_queues(requests, requests[sim.LEFT][request], requests[sim.RIGHT][request])
    return request


@compiled
def _count_bound(world: World, queue: int, items: float) -> None:
    """Count items that are bound to the server and width of a queue, or with a minus sign count them no more."""
    fleet, server = world.fleet, queue // world.fleet.columns
    fleet.models[col.MODEL_BOUND_ITEMS][queue] += items
    fleet.servers[col.BOUND_ITEMS][server] += items
    fleet.servers[col.HELD_ITEMS][server] += items
