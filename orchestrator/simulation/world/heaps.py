"""The loop's priority queues, in tables: events, the router's queue, and the lanes of bound requests.

``heapq`` works on lists of objects, which a compiled loop has not. The router's queue is the binary heap that a live
router keeps (router.queue.request_queue), because the deadline of its tail is estimated from evenly spread places of
it. Lanes are skew heaps (Sleator and Tarjan, 1986): any number of them live in two fields of the requests.
"""

from __future__ import annotations

from typing import Final

from orchestrator.policies.tables.compiled import Column, Table, compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

TAIL_SAMPLE: Final = 20
TAIL_RATIO: Final = 0.9


@compiled
def push_event(world: World, at_s: float, kind: float, server: float, detail: float, value: float) -> None:
    """Arrange an event."""
    events, state = world.events, world.state
    place = int(state[sim.EVENTS])
    state[sim.EVENTS] += 1
    state[sim.EVENT_ORDER] += 1
    order = state[sim.EVENT_ORDER]
    while place > 0:
        parent = (place - 1) >> 1
        if events[sim.AT_S][parent] < at_s or (events[sim.AT_S][parent] == at_s and events[sim.ORDER][parent] < order):
            break
        for field in range(sim.EVENT_FIELDS):
            events[field][place] = events[field][parent]
        place = parent
    events[sim.AT_S][place] = at_s
    events[sim.ORDER][place] = order
    events[sim.KIND][place] = kind
    events[sim.EVENT_SERVER][place] = server
    events[sim.DETAIL][place] = detail
    events[sim.VALUE][place] = value


@compiled
def drop_event(world: World) -> None:
    """Remove the first event."""
    events = world.events
    world.state[sim.EVENTS] -= 1
    last = int(world.state[sim.EVENTS])
    at_s, order = events[sim.AT_S][last], events[sim.ORDER][last]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= last:
            break
        if child + 1 < last and _is_before(events, child + 1, child):
            child += 1
        if at_s < events[sim.AT_S][child] or (at_s == events[sim.AT_S][child] and order < events[sim.ORDER][child]):
            break
        for field in range(sim.EVENT_FIELDS):
            events[field][place] = events[field][child]
        place = child
    for field in range(sim.EVENT_FIELDS):
        events[field][place] = events[field][last]


@compiled
def _is_before(events: Table, one: int, other: int) -> bool:
    if events[sim.AT_S][one] != events[sim.AT_S][other]:
        return events[sim.AT_S][one] < events[sim.AT_S][other]
    return events[sim.ORDER][one] < events[sim.ORDER][other]


@compiled
def is_sooner(requests: Table, one: float, other: float) -> bool:
    """Return whether a request is due before another; of two, the one that came first."""
    one_s, other_s = requests[sim.DEADLINE_S][int(one)], requests[sim.DEADLINE_S][int(other)]
    return one < other if one_s == other_s else one_s < other_s


@compiled
def push_request(heap: Column, size: int, requests: Table, request: float) -> None:
    """Add a request to the queue, which holds ``size``."""
    place = size
    while place > 0:
        parent = (place - 1) >> 1
        if not is_sooner(requests, request, heap[parent]):
            break
        heap[place] = heap[parent]
        place = parent
    heap[place] = request


@compiled
def pop_request(heap: Column, size: int, requests: Table) -> int:
    """Remove and return the request of the queue, which holds ``size``, that is due first."""
    first = int(heap[0])
    request = heap[size - 1]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size - 1:
            break
        if child + 1 < size - 1 and is_sooner(requests, heap[child + 1], heap[child]):
            child += 1
        if not is_sooner(requests, heap[child], request):
            break
        heap[place] = heap[child]
        place = child
    heap[place] = request
    return first


@compiled
def tail_deadline_s(heap: Column, size: int, requests: Table, sample: Column) -> float:
    """Return when nine of ten are due, as a live router's lane does: by a sample spread evenly over the heap."""
    step = max(1, size // TAIL_SAMPLE)
    count = 0
    for place in range(0, size, step):
        deadline_s = requests[sim.DEADLINE_S][int(heap[place])]
        at = count
        while at > 0 and sample[at - 1] > deadline_s:
            sample[at] = sample[at - 1]
            at -= 1
        sample[at] = deadline_s
        count += 1
    return sample[int(TAIL_RATIO * (count - 1))]


@compiled
def merge_lanes(requests: Table, one: float, other: float) -> float:
    """Return the root of two lanes as one; -1 is an empty lane."""
    if one < 0 or other < 0:
        return max(one, other)
    left, right = requests[sim.LEFT], requests[sim.RIGHT]
    root, rest = (one, other) if is_sooner(requests, one, other) else (other, one)
    parent = int(root)
    path = right[parent]
    right[parent] = left[parent]
    while path >= 0:
        nearer, farther = (path, rest) if is_sooner(requests, path, rest) else (rest, path)
        left[parent] = nearer
        parent = int(nearer)
        path, rest = right[parent], farther
        right[parent] = left[parent]
    left[parent] = rest
    return root
