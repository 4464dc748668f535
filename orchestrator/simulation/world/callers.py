"""Callers who wait for their answers: while all of them do, nobody sends, and what comes next comes later by as much.

So times between arrivals are kept as they were drawn: they are how long callers think, all together. Where nobody waits
there are as many callers as it takes, and nothing is ever late. On the router's own host a caller is free when his
answer is written, and not when he has woken up for it.
"""

from __future__ import annotations

from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World


@compiled
def is_any_free(world: World) -> bool:
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
