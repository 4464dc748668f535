"""A simulated router learns of answers what a live one does."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.tables import columns as col
from orchestrator.profile.fit import FADE_EVERY_S, LatencyFit, LatencyTable
from orchestrator.profile.margin import margin_ratio
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World
from orchestrator.simulation.world.learning import fade, judge, observe
from orchestrator.snapshot import ModelName, ServerName
from tests.simulation.test_world_batch import task

SERVER, MODEL = ServerName("s0"), ModelName("m")
AT, SLOT = 0, 0  # of the model among the world's, and of the batch
_FIT = (sim.FIT_WEIGHT, sim.FIT_N, sim.FIT_NN, sim.FIT_T_S, sim.FIT_NT_S)


class Answer(NamedTuple):
    """A batch of so many items, so long after the one before, and how many times longer than usual it took."""

    after_s: float
    items: int
    ratio: float


def new_world() -> World:
    made = task(count=1)
    return Simulation(made.settings, made.servers, parse_policy("lert")).world


@given(
    st.lists(
        st.builds(
            Answer,
            st.floats(0, 2) | st.floats(0, 300),
            st.integers(1, 8),
            st.floats(0.5, 2) | st.floats(0.1, 20),
        ),
        max_size=30,
    )
)
def test_times_and_margins_are_those_of_a_live_router(answers: list[Answer]) -> None:
    world = new_world()
    prior = world.state[sim.SLACK_MARGIN]
    start = LatencyFit(*(world.models[column][AT] for column in _FIT))
    live, now_s, faded_s, allowed = LatencyTable().start(SERVER, MODEL, start), 0.0, 0.0, prior
    for answer in answers:
        now_s = world.state[sim.NOW_S] = now_s + answer.after_s
        if now_s - faded_s >= FADE_EVERY_S:
            live, faded_s = live.fade(now_s=now_s, since_s=faded_s), now_s
        fade(world)
        took_s = answer.ratio * (1e-3 * answer.items + 2e-3)
        live = live.observe(SERVER, MODEL, answer.items, took_s, now_s=now_s)
        observe(world, AT, float(answer.items), took_s)
        world.held[sim.ALLOWED_RATIO][SLOT] = allowed
        live = live.judge(SERVER, MODEL, answer.ratio, allowed, prior=prior, now_s=now_s)
        judge(world, AT, answer.ratio, SLOT)
        margin = live.margin(SERVER, MODEL)
        assert margin is not None
        allowed = margin_ratio(margin)
        assert world.fleet.models[col.MARGIN][AT] == pytest.approx(allowed)
        assert world.fleet.models[col.MARGIN_SEEN_S][AT] == now_s
    line = world.fleet.models[col.PER_ITEM_S][AT], world.fleet.models[col.FIXED_S][AT]
    assert line == pytest.approx(live.fits[SERVER, MODEL].line())
    assert not math.isnan(sum(line))
