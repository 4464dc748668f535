"""An hour of bursts on a host whose memory does not hold everything, in simulated seconds."""

from __future__ import annotations

import random
from collections import Counter

from orchestrator.planner.actions import ActionKind
from orchestrator.planner.state import SchedulerState
from tests.planner.fluid_host import MIB, FluidHost, fluid_models, limits_for, name_of

HOUR_S = 3600


def test_an_hour_of_bursts_stays_within_every_bound() -> None:
    uniforms = random.Random(20251009)
    models = fluid_models()
    host = FluidHost(models, cpus=4, base_bytes=60 * MIB, noise=0.04, seed=7)
    limits = limits_for(models, 330 * MIB, idle_s=20.0)
    state = SchedulerState()
    burst_until_s, burst_width, burst_rate = 0.0, 25, 0.0
    served, lost, waits = 0.0, 0.0, []
    for _ in range(HOUR_S):
        if host.now_s >= burst_until_s and uniforms.random() < 0.02:
            burst_until_s = host.now_s + uniforms.uniform(5, 90)
            burst_width, burst_rate = uniforms.choice([25, 50, 75, 100]), uniforms.uniform(100, 700)
        is_burst = host.now_s < burst_until_s
        arrivals = {name_of(25): 20.0 + (burst_rate if is_burst and burst_width == 25 else 0.0)}
        if is_burst and burst_width != 25:
            arrivals[name_of(burst_width)] = burst_rate
        host.advance(arrivals, 1.0)
        for name, rate in arrivals.items():
            model = host.models[name]
            served += model.rates.items_per_s
            lost += rate if not model.instances else 0.0
            waits.append(model.rates.waiting_requests)
        state = host.step(state, limits)

    assert host.peak_bytes <= limits.memory_budget_bytes
    kinds = Counter(action.kind for _, action in host.done)
    assert kinds[ActionKind.SCALE_UP] >= 10
    assert kinds[ActionKind.SCALE_DOWN] >= 5
    assert all(plan.refusals == () or plan.refusals[0].numbers for plan in host.plans)
    # Nothing flutters: 180 bursts at the most, and a handful of changes for each.
    assert len(host.done) < 400
    # The base load never goes without: the minimum set has stayed since the first second.
    assert all(action.model != name_of(25) for _, action in host.done if action.kind is ActionKind.UNLOAD)
    assert lost < 0.05 * served
    # Queues are drained: after the bursts nothing is left waiting.
    for _ in range(60):
        host.advance({name_of(25): 20.0}, 1.0)
        state = host.step(state, limits)
    assert sum(model.queue_items for model in host.models.values()) < 1.0
    assert max(model.instances for model in host.models.values()) == 1
