"""One family alone is planned for as it was before hosts had several: the plans of drawn hosts are those on record.

Written by ``python -m tests.planner.test_one_family``, on the version before; a change of the planner that is meant to
change plans of one family writes them anew.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from orchestrator.planner.host import Limits
from orchestrator.planner.state import SchedulerState
from tests.planner.fluid_host import MIB, FluidHost, fluid_models, limits_for
from tests.planner.test_plan_properties import disturb, rates_at

RECORDED = Path(__file__).parent / "data" / "one_family_plans.json"
HOSTS = 16
SECONDS = 150


def draw_host(seed: int) -> tuple[FluidHost, Limits]:
    """Return a host and its limits; some have room for everything, some hardly for the minimum set."""
    uniforms = random.Random(seed)
    models = fluid_models()
    host = FluidHost(models, cpus=uniforms.choice([1, 2, 4, 8]), noise=0.04, seed=seed)
    names = [model.name for model in models]
    uniforms.shuffle(names)
    limits = limits_for(
        models,
        host.base_bytes + uniforms.randint(120, 450) * MIB,
        max_instances=uniforms.randint(1, 5),
        wanted=tuple(names[: uniforms.randint(0, 4)]),
        idle_s=uniforms.choice([5.0, 30.0]),
        unload_after_s=uniforms.choice([30.0, 300.0]),
    )
    return host, limits


def plans_of(seed: int) -> list[str]:
    """Return what was planned each second for a drawn host under drawn load, where it was not the same as before."""
    host, limits = draw_host(seed)
    uniforms = random.Random(seed)
    state, lines = SchedulerState(), list[str]()
    for second in range(SECONDS):
        if second % 20 == 0:
            arrivals = rates_at(host, uniforms)
            disturb(host, uniforms)
        host.advance(arrivals, 1.0)
        state = host.step(state, limits)
        made = host.plans[-1]
        actions = [f"{a.kind} {a.model} {a.reason} {a.instances} {a.needed_bytes}" for a in made.actions]
        refusals = [f"{r.kind} {r.model} {r.reason}" for r in made.refusals]
        line = f"{actions} {refusals} {[n.kind.value for n in made.notices]} {dict(made.desired_instances)}"
        if not lines or line != lines[-1]:
            lines.append(line)
    return lines


def test_one_family_is_planned_for_as_on_record() -> None:
    recorded = json.loads(RECORDED.read_text())
    assert [plans_of(seed) for seed in range(HOSTS)] == recorded
    reasons = ("queueing", "make-room", "wanted", "idle", "memory-budget")
    assert all(any(reason in line for lines in recorded for line in lines) for reason in reasons)


if __name__ == "__main__":
    RECORDED.write_text(json.dumps([plans_of(seed) for seed in range(HOSTS)], indent=1) + "\n")
