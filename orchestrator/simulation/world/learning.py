"""What a simulated router learns of answers: what batches of a width take, and how far that can be trusted.

It learns from what it sees, by the rules of ``orchestrator.profile``, as a live one does.
"""

from __future__ import annotations

import math

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.profile.fit import FADE_EVERY_S, Line, Sums, faded_sums, fitted_line, observed_sums
from orchestrator.profile.margin import Margin, first_margin, margin_ratio, observed_margin, remembered_margin
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

_fitted_line = compiled(fitted_line)
_observed_sums = compiled(observed_sums)
_faded_sums = compiled(faded_sums)
_first_margin = compiled(first_margin)
_observed_margin = compiled(observed_margin)
_remembered_margin = compiled(remembered_margin)
_margin_ratio = compiled(margin_ratio)


@compiled
def seen_s(world: World, server: int, slot: int) -> float:
    """Return how long a batch took as its router sees it: since it began, by what the router knew then."""
    batches, held = world.fleet.batches, world.held
    if held[sim.HAS_RUN][slot] == 0 and world.truth[sim.HOST][server] < 0:
        return held[sim.TAKES_S][slot]
    began_s = batches[col.BEGAN_S][slot]
    if math.isnan(began_s):
        last_s = world.fleet.servers[col.LAST_ANSWER_S][server]
        sent_s = batches[col.SENT_S][slot]
        began_s = last_s if last_s > sent_s else sent_s  # NaN is not above
    return world.state[sim.NOW_S] - began_s


@compiled
def observe(world: World, model: int, items: float, took_s: float) -> None:
    """Fit a width's expected times to one more batch, as orchestrator.profile.fit.LatencyFit does."""
    sums = _sums(world, model)
    _put_sums(world, model, _observed_sums(sums, _fitted_line(*sums, _start(world, model)), items, took_s))
    world.models[sim.SEEN_S][model] = world.state[sim.NOW_S]


@compiled
def fade(world: World) -> None:
    """Let what was not observed lately go back to where it began, as orchestrator.profile.fit.LatencyTable does."""
    state, fits = world.state, world.models
    now_s, since_s = state[sim.NOW_S], state[sim.FADED_S]
    if state[sim.LEARNS] == 0 or now_s - since_s < FADE_EVERY_S:
        return
    state[sim.FADED_S] = now_s
    for model in range(world.fleet.server_count * world.fleet.columns):
        sums = _sums(world, model)
        faded = _faded_sums(sums, _start(world, model), now_s - max(since_s, fits[sim.SEEN_S][model]))
        if faded[3] != sums[3]:
            _put_sums(world, model, faded)


@compiled
def _sums(world: World, model: int) -> Sums:
    fits = world.models
    weight, sum_n, sum_nn = fits[sim.FIT_WEIGHT][model], fits[sim.FIT_N][model], fits[sim.FIT_NN][model]
    return (weight, sum_n, sum_nn, fits[sim.FIT_T_S][model], fits[sim.FIT_NT_S][model])


@compiled
def _start(world: World, model: int) -> Line:
    return world.models[sim.START_PER_ITEM_S][model], world.models[sim.START_FIXED_S][model]


@compiled
def _put_sums(world: World, model: int, sums: Sums) -> None:
    fits, models = world.models, world.fleet.models
    weight, sum_n, sum_nn, sum_t_s, sum_nt_s = sums
    fits[sim.FIT_WEIGHT][model], fits[sim.FIT_N][model], fits[sim.FIT_NN][model] = weight, sum_n, sum_nn
    fits[sim.FIT_T_S][model], fits[sim.FIT_NT_S][model] = sum_t_s, sum_nt_s
    models[col.PER_ITEM_S][model], models[col.FIXED_S][model] = _fitted_line(*sums, _start(world, model))


@compiled
def judge(world: World, model: int, ratio: float, slot: int) -> None:
    """Note how much longer than expected an answer took, as orchestrator.profile.fit.LatencyTable.judge does."""
    truth, models, now_s = world.models, world.fleet.models, world.state[sim.NOW_S]
    known = first = _first_margin(world.state[sim.SLACK_MARGIN], now_s)
    if not math.isnan(truth[sim.MARGIN_MEAN][model]):
        mean, deviation = truth[sim.MARGIN_MEAN][model], truth[sim.MARGIN_DEVIATION][model]
        seen = Margin(mean, deviation, truth[sim.MARGIN_DEVIATIONS][model], models[col.MARGIN_SEEN_S][model])
        known = _remembered_margin(seen, first)
    margin = _observed_margin(known, ratio, world.held[sim.ALLOWED_RATIO][slot], now_s)
    truth[sim.MARGIN_MEAN][model], truth[sim.MARGIN_DEVIATION][model] = margin.mean, margin.deviation
    truth[sim.MARGIN_DEVIATIONS][model] = margin.deviations
    models[col.MARGIN][model], models[col.MARGIN_SEEN_S][model] = _margin_ratio(margin), now_s
