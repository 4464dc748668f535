"""What servers do: groups start when an instance is free, end, and are lost when their server fails.

A group of a width with k instances takes a k-th of its server, groups start in the order they were sent, and none
overtakes: the reading of ``policies.tables.occupancy``, which expects just that, is here the truth. A group takes
what its width and size take on average, times the noise of its first request, times the server's throttling.
Its answer reaches the router DELAY_S later, while the next group runs already: what a call takes beside the instance
(travel, decoding) costs latency and no capacity.

Energy is exact: idle power while a server is up, what each group adds over the time it ran, and what loads take.
"""

from __future__ import annotations

import math

from orchestrator.policies.rule import observe as remember
from orchestrator.policies.tables import fields as r
from orchestrator.policies.tables.compiled import compiled
from orchestrator.policies.tables.occupancy import WHOLE
from orchestrator.profile.fit import DECAY, bounded_observation, fitted_line
from orchestrator.simulation.world import fields as f
from orchestrator.simulation.world.fields import World
from orchestrator.simulation.world.heaps import push_event, push_request

_fitted_line = compiled(fitted_line)
_bounded_observation = compiled(bounded_observation)


@compiled
def send(world: World, server: int, column: int, first: int, items: float) -> None:
    """Send a group: requests linked by NEXT from ``first`` on, ``items`` together."""
    fleet, state = world.fleet, world.state
    batches, held = fleet.batches, world.held
    if fleet.servers[r.BATCH_COUNT][server] >= fleet.depth:  # full of groups that are done and not reported yet
        _forget_oldest_done(world, server)
    place = server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])
    state[f.BATCH_IDS] += 1
    state[f.DISPATCHES] += 1
    batches[r.COLUMN][place] = column
    batches[r.ITEMS][place] = items
    batches[r.SENT_S][place] = state[f.NOW_S]
    batches[r.BEGAN_S][place] = math.nan
    held[f.BATCH_ID][place] = state[f.BATCH_IDS]
    held[f.STARTED_S][place] = math.nan
    held[f.DONE_S][place] = math.nan
    held[f.HAS_RUN][place] = 0
    held[f.FIRST][place] = first
    fleet.servers[r.BATCH_COUNT][server] += 1
    fleet.servers[r.HELD_ITEMS][server] += items
    request = first
    while request >= 0:
        world.requests[f.STATUS][request] = f.SENT
        world.requests[f.SENT_S][request] = state[f.NOW_S]
        world.requests[f.ATTEMPTS][request] += 1
        world.requests[f.SERVER][request] = server
        world.requests[f.WIDTH][request] = fleet.models[r.MODEL_WIDTH][server * fleet.columns + column]
        world.requests[f.BATCH][request] = items
        request = int(world.requests[f.NEXT][request])
    start_batches(world, server)


@compiled
def start_batches(world: World, server: int) -> None:
    """Start the groups for which there is an instance now, in their order."""
    fleet, held, truth = world.fleet, world.held, world.truth
    if truth[f.IS_UP][server] == 0:
        return
    now_s = world.state[f.NOW_S]
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        if not math.isnan(held[f.DONE_S][place]) or not math.isnan(held[f.STARTED_S][place]):
            continue
        model = server * fleet.columns + int(fleet.batches[r.COLUMN][place])
        instances = fleet.models[r.INSTANCES][model]
        if truth[f.BUSY_PARTS][server] + 1 / instances > WHOLE:
            break
        account(world, server)
        truth[f.BUSY_PARTS][server] += 1 / instances
        items = int(fleet.batches[r.ITEMS][place])
        factor = _noise(world, model, int(held[f.FIRST][place])) * truth[f.SPEED][server]
        held[f.STARTED_S][place] = now_s
        held[f.TAKES_S][place] = world.service_s[model][items - 1] * factor
        if instances > 1:
            fleet.batches[r.BEGAN_S][place] = now_s
        push_event(world, now_s + held[f.TAKES_S][place], f.ENDS, server, held[f.BATCH_ID][place], 1 / instances)


@compiled
def _noise(world: World, model: int, request: int) -> float:
    """Return the factor of a service time, 1 on average; lognormal but where a scenario says otherwise."""
    noise, sigma = world.requests[f.NOISE][request], world.models[f.SIGMA][model]
    return noise if math.isnan(sigma) else math.exp(sigma * noise - sigma * sigma / 2)


@compiled
def account(world: World, server: int) -> None:
    """Bring a server's times up to now; before each change of what it does."""
    truth, now_s = world.truth, world.state[f.NOW_S]
    passed_s = now_s - truth[f.CHANGED_S][server]
    truth[f.CHANGED_S][server] = now_s
    if truth[f.IS_UP][server] != 0:
        truth[f.UP_S][server] += passed_s
        truth[f.BUSY_S][server] += passed_s * min(1.0, truth[f.BUSY_PARTS][server])


@compiled
def place_of_batch(world: World, server: int, batch: float) -> int:
    """Return the place of a group that is not done, -1 when it was lost."""
    fleet, held = world.fleet, world.held
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        if held[f.BATCH_ID][place] == batch and math.isnan(held[f.DONE_S][place]):
            return place
    return -1


@compiled
def end_batch(world: World, server: int, place: int, part: float) -> None:
    """Free the part of a server that a group took, and answer its requests unless its answer has to travel."""
    fleet, held, truth, state = world.fleet, world.held, world.truth, world.state
    account(world, server)
    truth[f.BUSY_PARTS][server] = max(0.0, truth[f.BUSY_PARTS][server] - part)
    column = int(fleet.batches[r.COLUMN][place])
    model = server * fleet.columns + column
    truth[f.BUSY_J][server] += _fixed_j(world, model, place)
    if world.models[f.DELAY_S][model] > 0:
        held[f.HAS_RUN][place] = 1
        at_s = state[f.NOW_S] + world.models[f.DELAY_S][model]
        push_event(world, at_s, f.ANSWERS, server, held[f.BATCH_ID][place], 0.0)
        state[f.IS_CHANGED] = 0  # for the router nothing is
    else:
        answer_batch(world, server, place)
    start_batches(world, server)


@compiled
def _fixed_j(world: World, model: int, place: int) -> float:
    items = int(world.fleet.batches[r.ITEMS][place])
    mean_s, energy_j = world.service_s[model][items - 1], world.energy_j[model][items - 1]
    return energy_j * (world.held[f.TAKES_S][place] / mean_s) if mean_s > 0 else energy_j


@compiled
def answer_batch(world: World, server: int, place: int) -> None:
    """Answer the requests of a group that has run."""
    fleet, held, truth, state = world.fleet, world.held, world.truth, world.state
    now_s = state[f.NOW_S]
    column, items = int(fleet.batches[r.COLUMN][place]), fleet.batches[r.ITEMS][place]
    model = server * fleet.columns + column
    truth[f.BATCHES_RUN][server] += 1
    truth[f.ITEMS_RUN][server] += items
    energy_j, took_s = _fixed_j(world, model, place), _seen_s(world, server, place)
    request, is_in_time = int(held[f.FIRST][place]), 1.0
    while request >= 0:
        _answer(world, request, fleet.models[r.ACCURACY][model], energy_j / items)
        if now_s > world.requests[f.DEADLINE_S][request]:
            is_in_time = 0.0
        request = int(world.requests[f.NEXT][request])
    expected_s = fleet.models[r.PER_ITEM_S][model] * items + fleet.models[r.FIXED_S][model]
    remember(world.rule, world.memory, float(server), float(column), items, expected_s, took_s, is_in_time)
    if state[f.LEARNS] != 0:
        observe(world, model, items, took_s)
    held[f.DONE_S][place] = now_s
    if state[f.REPORTED] == 0:
        fleet.servers[r.LAST_ANSWER_S][server] = now_s
        drop_batch(world, server, place)


@compiled
def _seen_s(world: World, server: int, place: int) -> float:
    """Return how long a group took as its router sees it: since it began, by what the router knew then."""
    batches, held = world.fleet.batches, world.held
    if held[f.HAS_RUN][place] == 0:
        return held[f.TAKES_S][place]
    began_s = batches[r.BEGAN_S][place]
    if math.isnan(began_s):
        last_s = world.fleet.servers[r.LAST_ANSWER_S][server]
        sent_s = batches[r.SENT_S][place]
        began_s = last_s if last_s > sent_s else sent_s  # NaN is not above
    return world.state[f.NOW_S] - began_s


@compiled
def _answer(world: World, request: int, accuracy: float, per_item_j: float) -> None:
    requests, state = world.requests, world.state
    now_s, items = state[f.NOW_S], requests[f.REQUEST_ITEMS][request]
    requests[f.STATUS][request] = f.ANSWERED
    requests[f.ANSWERED_S][request] = now_s
    requests[f.ACCURACY][request] = accuracy
    requests[f.ENERGY_J][request] = per_item_j * items
    state[f.ANSWERED_COUNT] += 1
    state[f.ACCURACY_SUM] += accuracy
    state[f.LATENCY_SUM_S] += now_s - requests[f.ARRIVED_S][request]
    if now_s <= requests[f.DEADLINE_S][request]:
        state[f.ON_TIME_COUNT] += 1


@compiled
def observe(world: World, model: int, items: float, took_s: float) -> None:
    """Fit a width's expected times to one more group, as orchestrator.profile.LatencyFit does."""
    sums = world.models
    weight, sum_t_s = sums[f.FIT_WEIGHT][model], sums[f.FIT_T_S][model]
    line = _fitted_line(weight, sums[f.FIT_N][model], sums[f.FIT_NN][model], sum_t_s, sums[f.FIT_NT_S][model])
    counted_s = _bounded_observation(weight, sum_t_s, line, items, took_s)
    sums[f.FIT_WEIGHT][model] = weight * DECAY + 1
    sums[f.FIT_N][model] = sums[f.FIT_N][model] * DECAY + items
    sums[f.FIT_NN][model] = sums[f.FIT_NN][model] * DECAY + items * items
    sums[f.FIT_T_S][model] = sum_t_s * DECAY + counted_s
    sums[f.FIT_NT_S][model] = sums[f.FIT_NT_S][model] * DECAY + items * counted_s
    per_item_s, fixed_s = _fitted_line(
        sums[f.FIT_WEIGHT][model],
        sums[f.FIT_N][model],
        sums[f.FIT_NN][model],
        sums[f.FIT_T_S][model],
        sums[f.FIT_NT_S][model],
    )
    world.fleet.models[r.PER_ITEM_S][model] = per_item_s
    world.fleet.models[r.FIXED_S][model] = fixed_s


@compiled
def drop_batch(world: World, server: int, place: int) -> None:
    """Take a group out of the account of its server; those behind it move up."""
    fleet, held = world.fleet, world.held
    fleet.servers[r.HELD_ITEMS][server] -= fleet.batches[r.ITEMS][place]
    fleet.servers[r.BATCH_COUNT][server] -= 1
    for at in range(place, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        for field in range(r.BATCH_FIELDS):
            fleet.batches[field][at] = fleet.batches[field][at + 1]
        for field in range(f.HELD_FIELDS):
            held[field][at] = held[field][at + 1]


@compiled
def _forget_oldest_done(world: World, server: int) -> None:
    fleet = world.fleet
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        if not math.isnan(world.held[f.DONE_S][place]):
            drop_batch(world, server, place)
            return


@compiled
def report(world: World, server: int, age_s: float) -> None:
    """Let the router know what a server had done ``age_s`` ago."""
    fleet, seen_s = world.fleet, world.state[f.NOW_S] - age_s
    place = server * fleet.depth
    while place < server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server]):
        done_s = world.held[f.DONE_S][place]
        if done_s <= seen_s:  # NaN is not
            fleet.servers[r.LAST_ANSWER_S][server] = done_s
            drop_batch(world, server, place)
        else:
            place += 1


@compiled
def fail(world: World, server: int) -> None:
    """Stop a server; what it ran is lost, and the energy of it spent as far as it came."""
    account(world, server)
    fleet, held, truth = world.fleet, world.held, world.truth
    truth[f.IS_UP][server] = 0
    truth[f.BUSY_PARTS][server] = 0
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        if math.isnan(held[f.STARTED_S][place]) or not math.isnan(held[f.DONE_S][place]):
            continue
        model = server * fleet.columns + int(fleet.batches[r.COLUMN][place])
        held[f.BATCH_ID][place] = -1  # its end, or its answer, will not come
        if held[f.HAS_RUN][place] != 0:
            continue
        items = int(fleet.batches[r.ITEMS][place])
        ran_s, mean_s = world.state[f.NOW_S] - held[f.STARTED_S][place], world.service_s[model][items - 1]
        if mean_s > 0:
            truth[f.BUSY_J][server] += world.energy_j[model][items - 1] * ran_s / mean_s


@compiled
def lose_batches(world: World, server: int) -> None:
    """Queue again, or give up, all that a failed server held; the router has noticed."""
    fleet, held, requests, state = world.fleet, world.held, world.requests, world.state
    for place in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[r.BATCH_COUNT][server])):
        request = int(held[f.FIRST][place]) if math.isnan(held[f.DONE_S][place]) else -1
        while request >= 0:
            following = int(requests[f.NEXT][request])
            requests[f.NEXT][request] = -1
            if requests[f.ATTEMPTS][request] < state[f.MAX_ATTEMPTS]:
                enqueue(world, request)
            else:
                give_up(world, request, f.FAILED)
            request = following
    fleet.servers[r.BATCH_COUNT][server] = 0
    fleet.servers[r.HELD_ITEMS][server] = fleet.servers[r.BOUND_ITEMS][server]


@compiled
def enqueue(world: World, request: int) -> None:
    """Let a request wait for a decision."""
    requests, state = world.requests, world.state
    requests[f.STATUS][request] = f.WAITING
    push_request(world.heap, int(state[f.QUEUED]), requests, request)
    state[f.QUEUED] += 1
    state[f.QUEUE_ITEMS] += requests[f.REQUEST_ITEMS][request]
    state[f.WAITING_ITEMS] += requests[f.REQUEST_ITEMS][request]


@compiled
def give_up(world: World, request: int, status: float) -> None:
    """End a request without an answer."""
    world.requests[f.STATUS][request] = status
    world.requests[f.ANSWERED_S][request] = world.state[f.NOW_S]
    world.state[f.LOST_COUNT] += 1
