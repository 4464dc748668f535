"""What devices do meanwhile: how busy and how hot they are, and what of that a router is told every so often.

Live a router asks the controllers beside its servers, so what it knows is up to a period old. Utilisation is that of
the time since the reading before, power likewise, over the most that the server can draw or was read; memory is that of
all instances, of the budget that a controller keeps to. What a server that is down shows is unknown, and so is power
where idle power or joules are, and memory without a controller.
"""

from __future__ import annotations

import math
from typing import Final

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

COOLED: Final = 0.9
"""A hot server is throttled until its heat is this part of what made it hot."""


@compiled
def account(world: World, server: int) -> None:
    """Bring a server's times up to now; before each change of what it does."""
    truth, now_s = world.truth, world.state[sim.NOW_S]
    passed_s = now_s - truth[sim.CHANGED_S][server]
    truth[sim.CHANGED_S][server] = now_s
    if truth[sim.HEAT_S][server] > 0:
        _warm(world, server, passed_s)
    if truth[sim.IS_UP][server] != 0:
        truth[sim.UP_S][server] += passed_s
        truth[sim.BUSY_S][server] += passed_s * min(1.0, truth[sim.BUSY_PARTS][server])
        truth[sim.UTILISED_S][server] += passed_s * utilised_part(world, server)


@compiled
def _warm(world: World, server: int, passed_s: float) -> None:
    """Let a server's heat follow for so long what it is used now; it is hot from HOT_ABOVE on until it has cooled."""
    truth = world.truth
    used = min(1.0, truth[sim.BUSY_PARTS][server]) if truth[sim.IS_UP][server] != 0 else 0.0
    heat = used + (truth[sim.HEAT][server] - used) * math.exp(-passed_s / truth[sim.HEAT_S][server])
    truth[sim.HEAT][server] = heat
    if heat > truth[sim.HOT_ABOVE][server]:
        truth[sim.IS_HOT][server] = 1.0
    elif heat < COOLED * truth[sim.HOT_ABOVE][server]:
        truth[sim.IS_HOT][server] = 0.0


@compiled
def utilised_part(world: World, server: int) -> float:
    """Return which part of its device, or of its host's cores, a server uses now.

    Where n batches need the device for a part c of their time each, and so take 1 + c · (n − 1) times as long beside
    each other, they use n · c / (1 + c · (n − 1)) of it.
    """
    truth, host = world.truth, int(world.truth[sim.HOST][server])
    running, needed = truth[sim.RUNNING_BATCHES][server], truth[sim.CONTENTION][server]
    if running == 0:
        return 0.0
    if host >= 0 and truth[sim.CORE_RATIO][server] > 0:
        return min(1.0, running * truth[sim.CORE_RATIO][server] / world.hosts[sim.CORES][host])
    return running * needed / (1 + needed * (running - 1))


@compiled
def read_devices(world: World) -> None:
    """Let the router know what devices show, when it is time for it."""
    if world.state[sim.NOW_S] >= world.state[sim.NEXT_READING_S]:
        _read_devices(world)


@compiled_apart
def _read_devices(world: World) -> None:
    known, truth, state = world.fleet.servers, world.truth, world.state
    passed_s = state[sim.NOW_S] - (state[sim.NEXT_READING_S] - state[sim.READ_EVERY_S])
    state[sim.NEXT_READING_S] = state[sim.NOW_S] + state[sim.READ_EVERY_S]
    for server in range(world.fleet.server_count):
        account(world, server)
        takes_cores = truth[sim.HOST][server] >= 0 and truth[sim.CORE_RATIO][server] > 0
        has_device = truth[sim.CONTENTION][server] > 0 or takes_cores
        busy_s = truth[sim.UTILISED_S][server] if has_device else truth[sim.BUSY_S][server]
        power_w = truth[sim.IDLE_W][server] + (truth[sim.BUSY_J][server] - truth[sim.READ_J][server]) / passed_s
        if truth[sim.IS_UP][server] == 0:
            known[col.UTILISATION][server] = known[col.MEMORY][server] = known[col.POWER][server] = math.nan
        else:
            known[col.UTILISATION][server] = min(1.0, (busy_s - truth[sim.READ_BUSY_S][server]) / passed_s)
            known[col.MEMORY][server] = _memory_ratio(world, server)
            most_w = power_w if power_w > truth[sim.MOST_W][server] else truth[sim.MOST_W][server]  # NaN is not above
            truth[sim.MOST_W][server] = most_w
            known[col.POWER][server] = power_w / most_w if most_w > 0 else math.nan
        truth[sim.READ_BUSY_S][server], truth[sim.READ_J][server] = busy_s, truth[sim.BUSY_J][server]


@compiled
def _memory_ratio(world: World, server: int) -> float:
    """Return which part of its budget the instances of a server hold; NaN where it has none."""
    models, held_bytes = world.fleet.models, 0.0
    for model in range(server * world.fleet.columns, (server + 1) * world.fleet.columns):
        if models[col.SERVED][model] != 0:
            held_bytes += models[col.INSTANCES][model] * world.models[sim.INSTANCE_BYTES][model]
    budget_bytes = world.truth[sim.BUDGET_BYTES][server]
    return min(1.0, held_bytes / budget_bytes) if budget_bytes > 0 else math.nan
