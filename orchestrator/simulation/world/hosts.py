"""Hosts: batches, the router and other processes that share cores, and moments in which all of them stand still.

Whoever wants a core has an even part of the host's, and never more than one (processor sharing); a router may have
several parts. So all batches get on equally fast, and a clock of work that runs at that speed says when each is done:
at the reading that it had when it began plus its work, whatever comes and goes meanwhile. The router has such a clock
of its own, because of its parts, and because stalls may stop one of the two alone.

A batch needs a core for the first part of its time, the whole of it on a CPU; a device does the rest. Who wakes, as the
router does when something comes and a server at the end of a batch, waits for a core that is in use.

These functions are compiled apart: most worlds have no hosts, and their loop stays small.
"""

from __future__ import annotations

import math

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled, compiled_apart
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.heaps import push_event
from orchestrator.simulation.world.layout import World


@compiled_apart
def start_batch(world: World, server: int, slot: int) -> None:
    """Let a batch that has just started run on its server's host until its ``TAKES_S`` are over, or later."""
    hosts, host = world.hosts, int(world.truth[sim.HOST][server])
    work_s = world.truth[sim.CORE_RATIO][server] * world.held[sim.TAKES_S][slot]
    if work_s == 0:
        _end_later(world, server, slot)
        return
    _bring_up(world, host)
    hosts[sim.RUNNING][host] += 1
    world.held[sim.CORE_UNTIL_S][slot] = hosts[sim.SERVERS_WORK_S][host] + work_s
    _look_ahead(world, host)


@compiled_apart
def stop_batch(world: World, server: int, slot: int) -> None:
    """Let a batch that is lost need a core no more."""
    if math.isnan(world.held[sim.CORE_UNTIL_S][slot]):
        return
    host = int(world.truth[sim.HOST][server])
    _bring_up(world, host)
    world.hosts[sim.RUNNING][host] -= 1
    world.held[sim.CORE_UNTIL_S][slot] = math.nan
    _look_ahead(world, host)


@compiled_apart
def start_router(world: World, work_s: float, woken_by: int) -> None:
    """Let the router be busy with something; it has to wake up for a request unless ``woken_by`` is -1."""
    hosts, state = world.hosts, world.state
    host = int(state[sim.ROUTER_HOST])
    _bring_up(world, host)
    hosts[sim.ROUTER_RUNS][host] = 1
    if woken_by >= 0:
        _, speed = _speeds(world, host, 0.0)
        work_s += _wait_s(world, host, woken_by, speed) * speed
    state[sim.ROUTER_UNTIL_S] = hosts[sim.ROUTER_WORK_S][host] + work_s
    _look_ahead(world, host)


@compiled_apart
def happen(world: World, kind: float, host: int, value: float) -> None:
    """Do what an event of a host says."""
    _bring_up(world, host)
    if kind == sim.COMPETES:
        world.hosts[sim.COMPETING][host] = value
    elif kind == sim.STALLS_SERVERS:
        world.hosts[sim.STALLED_SERVERS][host] += value
    else:
        world.hosts[sim.STALLED_ROUTER][host] += value
    _look_ahead(world, host)


@compiled_apart
def end_next(world: World, host: int) -> bool:
    """End what is done with its core first, which is now; return whether it was the router's work."""
    _bring_up(world, host)
    server, slot, _ = _next_batch(world, host)
    batch_s, router_s = _left_s(world, host)
    is_router = router_s < batch_s
    if is_router:
        world.hosts[sim.ROUTER_RUNS][host] = 0
    else:
        world.hosts[sim.RUNNING][host] -= 1
        world.held[sim.CORE_UNTIL_S][slot] = math.nan
        _end_later(world, server, slot)
    _look_ahead(world, host)
    return is_router


@compiled
def residual(world: World, server: int, score: float) -> float:
    """Return the factor of a batch's service time by its own normal score; its host must have residuals.

    The score is mixed with what batches of the host have in common now, and the factor is as high among the host's as
    the mixture is among normal scores (a Gaussian copula): each is as likely as any, for any correlation.
    """
    hosts, host = world.hosts, int(world.truth[sim.HOST][server])
    shared, count = hosts[sim.CORRELATION][host], hosts[sim.FACTORS][host]
    steps = world.common.shape[1]
    step = min(int(world.state[sim.NOW_S] / hosts[sim.COMMON_STEP_S][host]), steps - 1)
    mixed = math.sqrt(shared) * world.common[host][step] + math.sqrt(1 - shared) * score
    below_ratio = 0.5 * math.erfc(-mixed / math.sqrt(2.0))
    return world.factors[host][int(min(below_ratio * count, count - 1))]


@compiled
def _bring_up(world: World, host: int) -> None:
    """Bring a host's clocks up to now; before each change of who wants a core."""
    hosts, now_s = world.hosts, world.state[sim.NOW_S]
    passed_s = now_s - hosts[sim.SYNCED_S][host]
    batch_speed, router_speed = _speeds(world, host, 0.0)
    hosts[sim.SYNCED_S][host] = now_s
    if hosts[sim.STALLED_SERVERS][host] == 0:
        hosts[sim.SERVERS_WORK_S][host] += passed_s * batch_speed
    if hosts[sim.STALLED_ROUTER][host] == 0:
        hosts[sim.ROUTER_WORK_S][host] += passed_s * router_speed


@compiled
def _speeds(world: World, host: int, more: float) -> tuple[float, float]:
    """Return which part of a core each batch and other process has, were there so many ``more``; and the router."""
    hosts = world.hosts
    cores, weight, router = hosts[sim.CORES][host], hosts[sim.ROUTER_WEIGHT][host], hosts[sim.ROUTER_RUNS][host]
    others = hosts[sim.RUNNING][host] + hosts[sim.COMPETING][host] + more
    if others + router <= cores:
        return 1.0, 1.0
    part = cores / (others + router * weight)
    if router == 0 or part * weight <= 1:
        return part, part * weight
    return (cores - 1) / others, 1.0


@compiled
def wake_s(world: World, host: int, request: int) -> float:
    """Return how long who wakes now, for a request, waits for a core; the router aside."""
    speed, _ = _speeds(world, host, 1.0)
    return _wait_s(world, host, request, speed)


@compiled
def _wait_s(world: World, host: int, request: int, speed: float) -> float:
    """Return how long who wakes waits for a core of which it will have a part: the others have their slices first.

    That is 1/speed − 1 of them on average. How much is left of each is a matter of luck, which is the request's.
    """
    return world.requests[sim.WAKE][request] * world.hosts[sim.SLICE_S][host] * (1 / speed - 1)


@compiled
def _look_ahead(world: World, host: int) -> None:
    """Find out when the next one is done with its core; after each change of who wants one."""
    batch_s, router_s = _left_s(world, host)
    world.hosts[sim.NEXT_S][host] = world.state[sim.NOW_S] + max(0.0, min(batch_s, router_s))


@compiled
def _left_s(world: World, host: int) -> tuple[float, float]:
    """Return how long the first batch, and the router, still need their cores as things are, else infinite."""
    _, _, work_s = _next_batch(world, host)
    batch_speed, router_speed = _speeds(world, host, 0.0)
    return work_s / batch_speed, _router_work_s(world, host) / router_speed


@compiled
def _next_batch(world: World, host: int) -> tuple[int, int, float]:
    """Return server and slot of the batch that is done with its core first, and the work until then, else infinite."""
    fleet, truth, held = world.fleet, world.truth, world.held
    found_server, found_slot, least_s = -1, -1, math.inf
    if world.hosts[sim.STALLED_SERVERS][host] != 0 or world.hosts[sim.RUNNING][host] == 0:
        return found_server, found_slot, least_s
    for server in range(fleet.server_count):
        if truth[sim.HOST][server] != host:
            continue
        for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
            left_s = held[sim.CORE_UNTIL_S][slot] - world.hosts[sim.SERVERS_WORK_S][host]
            if left_s < least_s:  # NaN is not
                found_server, found_slot, least_s = server, slot, left_s
    return found_server, found_slot, least_s


@compiled
def _router_work_s(world: World, host: int) -> float:
    hosts = world.hosts
    if hosts[sim.ROUTER_RUNS][host] == 0 or hosts[sim.STALLED_ROUTER][host] != 0:
        return math.inf
    return world.state[sim.ROUTER_UNTIL_S] - hosts[sim.ROUTER_WORK_S][host]


@compiled
def _end_later(world: World, server: int, slot: int) -> None:
    """End a batch that needs its core no more, once the device has worked as long as it takes and somebody wakes."""
    fleet, held = world.fleet, world.held
    model = server * fleet.columns + int(fleet.batches[col.COLUMN][slot])
    at_s = max(world.state[sim.NOW_S], held[sim.STARTED_S][slot] + held[sim.TAKES_S][slot])
    at_s += wake_s(world, int(world.truth[sim.HOST][server]), int(held[sim.FIRST][slot]))
    part = 1 / fleet.models[col.INSTANCES][model]
    push_event(world, at_s, sim.ENDS, float(server), held[sim.BATCH_ID][slot], part)
