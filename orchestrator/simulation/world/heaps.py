"""The loop's priority queues, in tables: events, the router's queue, and the queues of bound requests.

``heapq`` works on lists of objects, which a compiled loop has not. The router's queue is the binary heap that a live
router keeps (orchestrator.router.queue.request_queue), because the deadline of its tail is estimated from evenly spread
entries of it. Bound requests wait in skew heaps (Sleator and Tarjan, 1986): any number of them live in two fields of
the requests.
"""

from __future__ import annotations

from orchestrator.policies.queue_rules import order_key, sample_step, tail_index
from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

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
    return _order_key(requests[sim.PRIORITY][int(request)], requests[sim.DUE_S][int(request)])


@compiled
def goes_first(requests: Table, one: float, other: float) -> bool:
    """Return whether a request goes before another; of two equals, the one that came first does."""
    one_key, other_key = key_of(requests, one), key_of(requests, other)
    return one < other if one_key == other_key else one_key < other_key


@compiled
def push_request(heap: Column, size: int, requests: Table, request: float) -> None:
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
def pop_request(heap: Column, size: int, requests: Table) -> int:
    """Remove and return the request of the queue, which holds ``size``, that goes first."""
    first = int(heap[0])
    _sink(heap, size - 1, requests, 0, heap[size - 1])
    return first


@compiled
def restore_heap(heap: Column, size: int, requests: Table) -> None:
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
        deadline_s = requests[sim.DUE_S][int(heap[entry])]
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
def merge_queues(requests: Table, one: float, other: float) -> float:
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
