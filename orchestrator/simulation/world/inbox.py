"""Answers that have come to a router which takes time and are not read yet: a ring, first come, first read."""

from __future__ import annotations

from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World


@compiled
def come(world: World, server: int, batch: float) -> None:
    """Let the answer of a batch wait until the router reads it."""
    inbox, state = world.inbox, world.state
    entry = int(state[sim.ANSWERS_CAME]) % inbox.shape[1]
    state[sim.ANSWERS_CAME] += 1
    inbox[sim.INBOX_SERVER][entry] = server
    inbox[sim.INBOX_BATCH][entry] = batch
    inbox[sim.INBOX_CAME_S][entry] = state[sim.NOW_S]
