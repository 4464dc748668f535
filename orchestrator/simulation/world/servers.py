"""What servers do: batches start when an instance is free, end, and are lost when their server fails.

A batch of a width with k instances takes a k-th of its server, batches start in the order they were sent, and none
overtakes: the reading of ``policies.tables.occupancy``, which expects just that, is here the truth. Where a server has
a dynamic batcher, batches may run together (orchestrator.simulation.world.runs). A batch takes
what its width and size take on average, times the noise of its first request, times the server's throttling, which was
arranged beforehand or comes of what it was used of late; longer for each batch that runs on the same device when it
starts, by the part of its time for which it needs that, and where its host has too few cores for all that wants one
(orchestrator.simulation.world.hosts). Its answer reaches the router DELAY_S later, while the next batch runs already:
what a call takes beside the instance (travel, decoding) costs latency and no capacity. A router that takes time has it
when it has read it.

Energy is exact: idle power while a server is up, and what each batch adds over the time it ran.
"""

from __future__ import annotations

import math

from orchestrator.policies.queue_rules import slack_used
from orchestrator.policies.rule import observe as remember
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.policies.tables.memory import MEMORY_FIELDS
from orchestrator.policies.tables.occupancy import WHOLE
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world import hosts
from orchestrator.simulation.world.devices import account
from orchestrator.simulation.world.heaps import push_event
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.learning import judge, observe, seen_s
from orchestrator.simulation.world.queue import give_up
from orchestrator.simulation.world.runs import next_run, running_slot, start_run, take_runs
from orchestrator.simulation.world.shedding import enqueue

_slack_used = compiled(slack_used)


@compiled
def send(world: World, server: int, column: int, first: int, items: float, expected_s: float, margin: float) -> None:
    """Send a batch: requests linked by NEXT from ``first`` on, ``items`` together.

    It is expected to be answered in ``expected_s``, and may take ``margin`` times that; 0 when nobody says.
    """
    fleet, state = world.fleet, world.state
    batches, held = fleet.batches, world.held
    if fleet.servers[col.BATCH_COUNT][server] >= fleet.depth:  # full of batches that are done and not reported yet
        _forget_oldest_done(world, server)
    slot = server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])
    state[sim.BATCH_IDS] += 1
    batches[col.COLUMN][slot] = column
    batches[col.ITEMS][slot] = items
    batches[col.SENT_S][slot] = state[sim.NOW_S]
    batches[col.BEGAN_S][slot] = math.nan
    held[sim.BATCH_ID][slot] = state[sim.BATCH_IDS]
    held[sim.STARTED_S][slot] = math.nan
    held[sim.DONE_S][slot] = math.nan
    held[sim.HAS_RUN][slot] = 0
    held[sim.CORE_UNTIL_S][slot] = math.nan
    held[sim.LEADER][slot] = held[sim.TAKEN_ORDER][slot] = 0
    held[sim.FIRST][slot] = first
    held[sim.EXPECTED_S][slot] = expected_s
    held[sim.ALLOWED_RATIO][slot] = margin
    fleet.servers[col.BATCH_COUNT][server] += 1
    fleet.servers[col.HELD_ITEMS][server] += items
    state[sim.OWED_S] += state[sim.BATCH_COST_S]
    request = first
    while request >= 0:
        world.requests[sim.STATUS][request] = sim.SENT
        world.requests[sim.SENT_S][request] = state[sim.NOW_S]
        world.requests[sim.ATTEMPTS][request] += 1
        world.requests[sim.SERVER][request] = server
        world.requests[sim.WIDTH][request] = fleet.models[col.MODEL_WIDTH][server * fleet.columns + column]
        world.requests[sim.BATCH][request] = items
        request = int(world.requests[sim.NEXT][request])
    start_batches(world, server)


@compiled
def start_batches(world: World, server: int) -> None:
    """Start the runs for which there is an instance now, in the order in which instances took them."""
    fleet, held, truth = world.fleet, world.held, world.truth
    if truth[sim.IS_UP][server] == 0:
        return
    now_s = world.state[sim.NOW_S]
    take_runs(world, server)
    slot = next_run(world, server)
    while slot >= 0:
        model = server * fleet.columns + int(fleet.batches[col.COLUMN][slot])
        instances = fleet.models[col.INSTANCES][model]
        if truth[sim.BUSY_PARTS][server] + 1 / instances > WHOLE:
            break
        account(world, server)
        truth[sim.BUSY_PARTS][server] += 1 / instances
        factor = _noise(world, server, model, int(held[sim.FIRST][slot])) * truth[sim.SPEED][server]
        if truth[sim.IS_HOT][server] != 0:
            factor *= truth[sim.HOT_FACTOR][server]
        alone_s = world.service_s[model][int(held[sim.RUN_SIZE][slot]) - 1] * factor
        takes_s = alone_s * (1 + truth[sim.CONTENTION][server] * truth[sim.RUNNING_BATCHES][server])
        truth[sim.RUNNING_BATCHES][server] += 1
        start_run(world, server, slot, takes_s, alone_s, instances > 1)
        if truth[sim.HOST][server] >= 0:
            hosts.start_batch(world, server, slot)
        else:
            push_event(world, now_s + takes_s, sim.ENDS, server, held[sim.BATCH_ID][slot], 1 / instances)
        slot = next_run(world, server)


@compiled
def _noise(world: World, server: int, model: int, request: int) -> float:
    """Return the factor of a service time; lognormal and 1 on average but where a scenario says otherwise."""
    noise, sigma = world.requests[sim.NOISE][request], world.models[sim.SIGMA][model]
    host = int(world.truth[sim.HOST][server])
    if host >= 0 and world.hosts[sim.FACTORS][host] > 0:
        return hosts.residual(world, server, noise)
    return noise if math.isnan(sigma) else math.exp(sigma * noise - sigma * sigma / 2)


@compiled
def slot_of_batch(world: World, server: int, batch: float) -> int:
    """Return the slot of a batch that is not done, -1 when it was lost."""
    fleet, held = world.fleet, world.held
    for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        if held[sim.BATCH_ID][slot] == batch and math.isnan(held[sim.DONE_S][slot]):
            return slot
    return -1


@compiled
def end_batch(world: World, server: int, slot: int, part: float) -> None:
    """Free the part of a server that a run took, by its first batch, and answer its requests unless they travel."""
    held, truth, state = world.held, world.truth, world.state
    account(world, server)
    truth[sim.BUSY_PARTS][server] = max(0.0, truth[sim.BUSY_PARTS][server] - part)
    truth[sim.RUNNING_BATCHES][server] -= 1
    run = held[sim.LEADER][slot]
    model = server * world.fleet.columns + int(world.fleet.batches[col.COLUMN][slot])
    world.models[sim.RUN_BATCHES][model] += 1
    slot = running_slot(world, server, run)
    while slot >= 0:
        truth[sim.BUSY_J][server] += _fixed_j(world, model, slot)
        _count_run(world, model, slot)
        if world.models[sim.DELAY_S][model] > 0:
            held[sim.HAS_RUN][slot] = 1
            at_s = state[sim.NOW_S] + world.models[sim.DELAY_S][model]
            push_event(world, at_s, sim.ANSWERS, server, held[sim.BATCH_ID][slot], 0.0)
            state[sim.IS_CHANGED] = 0  # for the router nothing is
        elif state[sim.ROUTER_HOST] >= 0:
            held[sim.HAS_RUN][slot] = 1
            arrive_at_router(world, server, slot)
        else:
            answer_batch(world, server, slot)
        slot = running_slot(world, server, run)
    start_batches(world, server)


@compiled
def _count_run(world: World, model: int, slot: int) -> None:
    counted, held, batches = world.models, world.held, world.fleet.batches
    counted[sim.RUN_CALLS][model] += 1
    counted[sim.RUN_ITEMS][model] += batches[col.ITEMS][slot]
    counted[sim.RUN_WAITED_S][model] += held[sim.STARTED_S][slot] - batches[col.SENT_S][slot]
    counted[sim.RUN_S][model] += world.state[sim.NOW_S] - held[sim.STARTED_S][slot]


@compiled
def arrive_at_router(world: World, server: int, slot: int) -> None:
    """Let the answer of a batch wait until a router that takes time reads it: in a ring, first come, first read."""
    inbox, state = world.inbox, world.state
    entry = int(state[sim.ANSWERS_CAME]) % inbox.shape[1]
    state[sim.ANSWERS_CAME] += 1
    inbox[sim.INBOX_SERVER][entry] = server
    inbox[sim.INBOX_BATCH][entry] = world.held[sim.BATCH_ID][slot]
    inbox[sim.INBOX_CAME_S][entry] = state[sim.NOW_S]
    state[sim.IS_CHANGED] = 0  # for the router nothing is, until it has read it


@compiled
def _fixed_j(world: World, model: int, slot: int) -> float:
    """Return the joules of a batch: of a run that it shares, by its items."""
    held, size = world.held, int(world.held[sim.RUN_SIZE][slot])
    mean_s, energy_j = world.service_s[model][size - 1], world.energy_j[model][size - 1]
    energy_j *= world.fleet.batches[col.ITEMS][slot] / size
    return energy_j * (held[sim.ALONE_S][slot] / mean_s) if mean_s > 0 else energy_j


@compiled
def answer_batch(world: World, server: int, slot: int) -> None:
    """Answer the requests of a batch that has run."""
    fleet, held, truth, state = world.fleet, world.held, world.truth, world.state
    now_s = state[sim.NOW_S]
    column, items = int(fleet.batches[col.COLUMN][slot]), fleet.batches[col.ITEMS][slot]
    model = server * fleet.columns + column
    truth[sim.BATCHES_RUN][server] += 1
    truth[sim.ITEMS_RUN][server] += items
    energy_j, took_s = _fixed_j(world, model, slot), seen_s(world, server, slot)
    expected_s = fleet.models[col.PER_ITEM_S][model] * items + fleet.models[col.FIXED_S][model]
    request, is_in_time, most_used = int(held[sim.FIRST][slot]), 1.0, 0.0
    memory = int(world.requests[sim.FAMILY][request]) * MEMORY_FIELDS
    while request >= 0:
        _answer(world, request, fleet.models[col.ACCURACY][model], energy_j / items)
        arrived_s, deadline_s = world.requests[sim.ARRIVED_S][request], world.requests[sim.DUE_S][request]
        if now_s > deadline_s:
            is_in_time = 0.0
        most_used = max(most_used, _slack_used(now_s - arrived_s, deadline_s - arrived_s, expected_s))
        request = int(world.requests[sim.NEXT][request])
    width = fleet.models[col.MODEL_WIDTH][model]
    remember(
        world.rule,
        world.memory[memory : memory + MEMORY_FIELDS],
        float(server),
        float(column),
        items,
        width,
        expected_s,
        took_s,
        most_used,
        is_in_time,
        now_s,
    )
    if state[sim.LEARNS] != 0:
        if held[sim.TAKEN_ORDER][slot] != 0:  # what ran together is one run, as orchestrator.profile.fit.merge_runs
            observe(world, model, held[sim.RUN_SIZE][slot], took_s)
        if held[sim.EXPECTED_S][slot] > 0:
            judge(world, model, (now_s - fleet.batches[col.SENT_S][slot]) / held[sim.EXPECTED_S][slot], slot)
    held[sim.DONE_S][slot] = now_s
    if state[sim.REPORTED] == 0:
        fleet.servers[col.LAST_ANSWER_S][server] = now_s
        drop_batch(world, server, slot)


@compiled
def _answer(world: World, request: int, accuracy: float, per_item_j: float) -> None:
    requests, state = world.requests, world.state
    now_s, items = state[sim.NOW_S], requests[sim.REQUEST_ITEMS][request]
    if state[sim.CALLERS_HERE] != 0:  # its caller has to wake up for it
        now_s += hosts.wake_s(world, int(state[sim.ROUTER_HOST]), request)
    requests[sim.STATUS][request] = sim.ANSWERED
    requests[sim.ANSWERED_S][request] = now_s
    requests[sim.ACCURACY][request] = accuracy
    requests[sim.ENERGY_J][request] = per_item_j * items
    state[sim.ANSWERED_COUNT] += 1
    state[sim.ACCURACY_SUM] += accuracy
    state[sim.LATENCY_SUM_S] += now_s - requests[sim.ARRIVED_S][request]
    if now_s <= requests[sim.DEADLINE_S][request]:
        state[sim.ON_TIME_COUNT] += 1
        state[sim.IN_TIME_ACCURACY_SUM] += accuracy


@compiled
def drop_batch(world: World, server: int, slot: int) -> None:
    """Take a batch out of the account of its server; those behind it move up."""
    fleet, held = world.fleet, world.held
    fleet.servers[col.HELD_ITEMS][server] -= fleet.batches[col.ITEMS][slot]
    fleet.servers[col.BATCH_COUNT][server] -= 1
    for at in range(slot, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        for field in range(col.BATCH_FIELDS):
            fleet.batches[field][at] = fleet.batches[field][at + 1]
        for field in range(sim.HELD_FIELDS):
            held[field][at] = held[field][at + 1]


@compiled
def _forget_oldest_done(world: World, server: int) -> None:
    fleet = world.fleet
    for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        if not math.isnan(world.held[sim.DONE_S][slot]):
            drop_batch(world, server, slot)
            return


@compiled
def report(world: World, server: int, age_s: float) -> None:
    """Let the router know what a server had done ``age_s`` ago."""
    fleet, seen_s = world.fleet, world.state[sim.NOW_S] - age_s
    slot = server * fleet.depth
    while slot < server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server]):
        done_s = world.held[sim.DONE_S][slot]
        if done_s <= seen_s:  # NaN is not
            fleet.servers[col.LAST_ANSWER_S][server] = done_s
            drop_batch(world, server, slot)
        else:
            slot += 1


@compiled
def fail(world: World, server: int) -> None:
    """Stop a server; what it ran is lost, and the energy of it spent as far as it came."""
    account(world, server)
    fleet, held, truth = world.fleet, world.held, world.truth
    truth[sim.IS_UP][server] = 0
    truth[sim.BUSY_PARTS][server] = truth[sim.RUNNING_BATCHES][server] = 0
    for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        if math.isnan(held[sim.STARTED_S][slot]) or not math.isnan(held[sim.DONE_S][slot]):
            continue
        model = server * fleet.columns + int(fleet.batches[col.COLUMN][slot])
        held[sim.BATCH_ID][slot] = -1  # its end, or its answer, will not come
        hosts.stop_batch(world, server, slot)
        if held[sim.HAS_RUN][slot] != 0:
            continue
        size = int(held[sim.RUN_SIZE][slot])
        ran_s, mean_s = world.state[sim.NOW_S] - held[sim.STARTED_S][slot], world.service_s[model][size - 1]
        if mean_s > 0:
            share = fleet.batches[col.ITEMS][slot] / size
            truth[sim.BUSY_J][server] += share * world.energy_j[model][size - 1] * ran_s / mean_s


@compiled
def lose_batches(world: World, server: int) -> None:
    """Queue again, or give up, all that a failed server held; the router has noticed."""
    fleet, held, requests, state = world.fleet, world.held, world.requests, world.state
    for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
        request = int(held[sim.FIRST][slot]) if math.isnan(held[sim.DONE_S][slot]) else -1
        while request >= 0:
            following = int(requests[sim.NEXT][request])
            requests[sim.NEXT][request] = -1
            has_time = state[sim.SHEDS_LATE] == 0 or state[sim.NOW_S] < requests[sim.DUE_S][request]
            if has_time and requests[sim.ATTEMPTS][request] < state[sim.MAX_ATTEMPTS]:
                enqueue(world, request)
            else:
                give_up(world, request, sim.FAILED)
            request = following
    fleet.servers[col.BATCH_COUNT][server] = 0
    fleet.servers[col.HELD_ITEMS][server] = fleet.servers[col.BOUND_ITEMS][server]
