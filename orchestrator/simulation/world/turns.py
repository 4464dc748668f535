"""A router that takes time: it reads in turns what has come, and what it does in between delays its next turn.

It is one thread, as a live one is (an event loop). A turn takes all answers that have come and some requests; at its
end those have their answers and these wait for a decision, whether or not more has come meanwhile. What the decisions
and batches cost that follow is settled before the next turn. So a router that is busy, or has to wait for a core, sees
late what has come, and knows that it does: it takes the lag from deadlines, as orchestrator.http2.loop_lag measures it
and orchestrator.router.queue.request's Transit says.
"""

from __future__ import annotations

import math

from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world import hosts
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.servers import slot_of_batch

_GRAIN_S = 1e-3
"""A live router's timer is not finer."""
_FORGOTTEN = -math.log(0.8) / 0.01
"""Of its lag, by a second: it keeps 0.8 of it each 10 ms."""


@compiled
def go_on(world: World) -> None:
    """Let an idle router do what there is to do, if there is anything."""
    state = world.state
    if state[sim.PHASE] == sim.IDLE:
        _go_on(world)


@compiled_apart
def _go_on(world: World) -> None:
    state = world.state
    if state[sim.OWED_S] > 0:
        state[sim.PHASE] = sim.SETTLES
        work_s = state[sim.OWED_S]
        state[sim.OWED_S] = state[sim.HAS_SLEPT] = 0
        hosts.start_router(world, work_s, -1)
        return
    unread = state[sim.NEXT_ARRIVAL] - state[sim.NEXT_UNREAD]
    if unread == 0 and state[sim.ANSWERS_CAME] == state[sim.ANSWERS_READ]:
        state[sim.HAS_SLEPT] = 1
        return
    taken = min(unread, state[sim.MOST_READ])
    state[sim.PHASE] = sim.READS
    state[sim.TURN_END] = state[sim.NEXT_UNREAD] + taken
    state[sim.UNREAD_ITEMS] = 0
    for request in range(int(state[sim.TURN_END]), int(state[sim.NEXT_ARRIVAL])):
        state[sim.UNREAD_ITEMS] += world.requests[sim.REQUEST_ITEMS][request]
    state[sim.ANSWERS_TURN] = state[sim.ANSWERS_CAME]
    work_s, woken_by = taken * state[sim.REQUEST_COST_S], -1
    for entry in range(int(state[sim.ANSWERS_READ]), int(state[sim.ANSWERS_CAME])):
        _, slot = answered_batch(world, entry)
        request = int(world.held[sim.FIRST][slot]) if slot >= 0 else -1
        woken_by = request
        while request >= 0:
            work_s += state[sim.ANSWER_COST_S]
            request = int(world.requests[sim.NEXT][request])
    if state[sim.HAS_SLEPT] == 0:
        woken_by = -1
    elif taken > 0:
        woken_by = int(state[sim.NEXT_UNREAD])
    state[sim.HAS_SLEPT] = 0
    hosts.start_router(world, work_s, woken_by)


@compiled
def answered_batch(world: World, entry: int) -> tuple[int, int]:
    """Return server and slot of the batch of an entry of the inbox; the slot is -1 when it was lost."""
    at = entry % world.inbox.shape[1]
    server = int(world.inbox[sim.INBOX_SERVER][at])
    return server, slot_of_batch(world, server, world.inbox[sim.INBOX_BATCH][at])


@compiled_apart
def note_lag(world: World) -> None:
    """Remember how long what was read in a turn, which ends now, has waited; at the most, and less as time goes by."""
    state, now_s = world.state, world.state[sim.NOW_S]
    came_s = now_s
    if state[sim.TURN_END] > state[sim.NEXT_UNREAD]:
        came_s = world.requests[sim.ARRIVED_S][int(state[sim.NEXT_UNREAD])]
    if state[sim.ANSWERS_TURN] > state[sim.ANSWERS_READ]:
        first = int(state[sim.ANSWERS_READ]) % world.inbox.shape[1]
        came_s = min(came_s, world.inbox[sim.INBOX_CAME_S][first])
    kept_s = state[sim.LAG_S] * math.exp(-_FORGOTTEN * (now_s - state[sim.LAG_SEEN_S]))
    state[sim.LAG_S] = max(kept_s, now_s - came_s - _GRAIN_S)
    state[sim.LAG_SEEN_S] = now_s
