"""Worlds to learn in, drawn at random, and what was earned in them.

A task is drawn from a seed: machines that are unlike in speed, in how their time grows with width, in launch cost and
in power, which some fleets do not know; arrivals of every kind; deadlines, faults, beliefs that are off, and a
preference. So what is learned is how to route, not one fleet. The stage, 0 to 1, says how wide the draw is. Scenario
files may be given beside draws; they are varied in load, deadline and preference.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from orchestrator.policies.learned.decide import WORTH, priced
from orchestrator.policies.tables import columns as col
from orchestrator.simulation.rewards import LATE_PRICE, LATENCY_SHARE, Task, per_item_joules, reward_scales, weights_of
from orchestrator.simulation.scenario.capacity import capacity_rps
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.settings import FaultSettings, ScenarioSettings
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world_batch import totals_of
from orchestrator.snapshot import ServerName

MOST_SERVERS: Final = 16
_KINDS: Final = ("poisson", "gamma", "mmpp", "ramp", "diurnal", "flash-crowd")
_EXTREMES: Final = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
_EXTREME: Final = 0.25
"""Part of the preferences that are all for one objective; other draws hardly come to a corner."""
_PRICED: Final = 0.5
"""Part of the preferences drawn by a price of joules in accuracy, around that of a policy whose requests bring none."""
_UNMETERED: Final = 0.15
"""Part of the fleets in which most or all servers have no known joules."""
_CHOOSY: Final = 0.1
"""Part of the worlds in which requests ask for the accuracy of one of the widths."""
_TRICKLE: Final = 0.15
"""Part of the worlds in which hardly anybody comes."""
_ITEMS: Final = (2, 4, 8, 16, 32)
"""Items of a request, where it is not one."""
_BATCHES: Final = (1, 4, 8, 8, 16, 16, 32, 32)
_INSTANCES: Final = (1, 1, 1, 2, 4)
_DEADLINES: Final = 12
"""Deadlines that a trace lasts, else what a choice brings about later would not be seen."""


def draw_task(seed: int, *, stage: float = 1.0, requests: int = 600) -> Task:
    """Return the task of a seed; the same seed and stage (how wide draws are, 0 to 1) give the same task.

    Its trace has so many ``requests``, and up to ten times as many where they are needed to outlast deadlines.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0x7A5C]))
    most = 2 + round(stage * (MOST_SERVERS - 2))
    count = int(rng.integers(1, most + 1))
    inner = [w for w in (50, 75) if rng.random() < 0.7]
    widths, per_item_s = [25, *inner, 100] if rng.random() < 0.9 else [100], 10 ** rng.uniform(-3.5, -1.5)
    top, drop, bend = rng.uniform(0.6, 0.97), rng.uniform(0.01, 0.05 + 0.1 * stage), rng.uniform(0.5, 3)
    accuracy = {w: top - drop * ((100 - w) / 75) ** bend for w in widths}
    is_metered = rng.random() >= _UNMETERED
    servers = tuple(
        _draw_server(rng, f"s{i:02d}", widths, accuracy, per_item_s, stage, is_metered=is_metered or rng.random() < 0.3)
        for i in range(count)
    )
    batches = sorted(s.models[0].max_batch_size for s in servers)
    items = min(batches[0], int(rng.choice(_ITEMS))) if rng.random() < 0.3 else 1
    alone_s = sorted(s.models[-1].service_s[items - 1] for s in servers)[count // 2]
    settings = {
        "name": f"drawn-{seed}",
        "servers": [{"name": "drawn", "widths": {100: {"item_ms": 1}}}],  # stands for the servers beside it
        "workload": {
            "kind": str(rng.choice(_KINDS)),
            "load_ratio": float(
                rng.uniform(0.2, 0.7 + 0.25 * stage) if rng.random() >= _TRICKLE else 10 ** rng.uniform(-2.5, -0.7)
            ),
            "cv2": float(math.exp(rng.uniform(math.log(0.5), math.log(2 + 14 * stage)))),
            "sojourn_requests": float(math.exp(rng.uniform(3, 5.5))),
            "factor": float(rng.uniform(2, 6)),
            "items": items,
        },
        "objectives": {
            "deadline_ms": 1e3 * alone_s * math.exp(rng.uniform(math.log(3), math.log(30))),
            "queue_limit": 2000,
            "min_accuracy": accuracy[int(rng.choice(widths))] if rng.random() < _CHOOSY else 0.0,
        },
        "telemetry": {"noise": float(0.3 * stage * rng.random())},
    }
    is_faulty = rng.random() < 0.3 * stage
    return Task(
        _timed(ScenarioSettings.model_validate(settings), servers, rng, requests, is_faulty),
        servers,
        _preference(rng, servers),
    )


def vary_task(task: Task, seed: int, *, requests: int = 600) -> Task:
    """Return a scenario with another load, deadline and preference, by a seed; for ``requests`` see ``draw_task``."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xFA21]))
    settings = task.settings
    load_ratio = min(1.1, settings.workload.load_ratio * math.exp(rng.uniform(-0.5, 0.5)))
    deadline_ms = settings.objectives.deadline_ms * math.exp(rng.uniform(-0.6, 0.6))
    objectives = settings.objectives.model_copy(update={"deadline_ms": deadline_ms})
    varied = settings.with_workload(load_ratio=load_ratio).model_copy(update={"objectives": objectives})
    is_faulty = settings.faults.fail_every_s is not None or settings.faults.throttle_every_s is not None
    return Task(_timed(varied, task.servers, rng, requests, is_faulty), task.servers, _preference(rng, task.servers))


def vary_load(task: Task, seed: int) -> Task:
    """Return a task at half to nearly twice its load, by a seed."""
    factor = float(np.random.default_rng(np.random.SeedSequence([seed, 0x10AD])).uniform(0.5, 1.8))
    varied = task.settings.with_workload(load_ratio=task.settings.workload.load_ratio * factor)
    return Task(varied, task.servers, task.preference)


def _timed(
    settings: ScenarioSettings,
    servers: tuple[SimulatedServer, ...],
    rng: np.random.Generator,
    requests: int,
    is_faulty: bool,
) -> ScenarioSettings:
    """Return settings whose trace outlasts its deadlines and meets its faults."""
    rate = requests_per_deadline(Task(settings, servers))
    count = int(min(max(requests, _DEADLINES * rate), 10 * requests))
    span_s = count / rate * settings.objectives.deadline_ms / 1e3
    faults = FaultSettings()
    if is_faulty:
        faults = FaultSettings(
            fail_every_s=float(span_s * rng.uniform(0.5, 3)),
            down_s=span_s * 0.05,
            notice_s=min(0.5, span_s * 0.005),
            throttle_every_s=float(span_s * rng.uniform(0.5, 3)),
            throttle_s=span_s * 0.1,
        )
    return settings.with_workload(requests=count).model_copy(update={"faults": faults})


def _preference(rng: np.random.Generator, servers: Sequence[SimulatedServer]) -> tuple[float, float, float]:
    if rng.random() < _PRICED:
        accuracies = [m.accuracy for s in servers for m in s.models]
        return priced(10 ** rng.uniform(-1.6, -0.2), max(accuracies) - min(accuracies))
    if rng.random() < _EXTREME:
        return _EXTREMES[int(rng.integers(len(_EXTREMES)))]
    accuracy, latency, energy = (float(w) for w in rng.dirichlet([1.5, 1.5, 1.5]))
    return accuracy, latency, energy


def _draw_server(
    rng: np.random.Generator,
    name: str,
    widths: list[int],
    accuracy: Mapping[int, float],
    per_item_s: float,
    stage: float,
    *,
    is_metered: bool,
) -> SimulatedServer:
    own_s = per_item_s * math.exp(rng.uniform(-1, 1) * math.log(1.5 + 2.5 * stage))
    bend, launch_s = rng.uniform(0.7, 2), own_s * rng.uniform(0.2, 5)
    busy_w, launch_ratio, most = rng.uniform(20, 300), rng.uniform(0.3, 1), int(rng.choice(_BATCHES))
    instances = int(rng.choice(_INSTANCES))
    sigma = float(rng.uniform(0, 0.3))
    models = tuple(
        linear_model(
            w,
            per_item_s=own_s * (w / 100) ** bend,
            fixed_s=launch_s,
            max_batch_size=most,
            accuracy=accuracy[w],
            per_item_j=busy_w * own_s * (w / 100) ** bend if is_metered else None,
            fixed_j=busy_w * launch_ratio * launch_s,
            instances=instances,
            sigma=sigma,
        )
        for w in widths
    )
    return SimulatedServer(ServerName(name), models, idle_w=busy_w * 0.2)


def usual_preference(servers: Sequence[SimulatedServer]) -> tuple[float, float, float]:
    """Return what a learned policy weighs by on a fleet whose requests bring no preference."""
    accuracies = [m.accuracy for s in servers for m in s.models]
    return priced(WORTH, max(accuracies) - min(accuracies))


def requests_per_deadline(task: Task) -> float:
    """Return how many requests arrive in the time of a deadline, on average."""
    workload = task.settings.workload
    most_rps = capacity_rps(task.servers, width=workload.load_of_width)
    return workload.load_ratio * most_rps / workload.items * task.settings.objectives.deadline_ms / 1e3


def utility(task: Task, totals: Mapping[str, float]) -> float:
    """Return what an episode of so much (``WorldBatch.totals``) earned a request, as the rewards of its task add up."""
    least, spread, deadline_s, _ = reward_scales(task)
    position = (totals["accuracy"] - least) / spread if spread > 0 else 1.0
    late = totals["answered"] - totals["in_time"] + totals["lost"]
    latency = -LATENCY_SHARE * totals["answered"] * totals["latency_s"] / deadline_s
    per_item_j = per_item_joules(task)
    energy = 0.0 if math.isnan(per_item_j) else -totals["busy_j"] / per_item_j
    earned = np.array([position * totals["answered"], latency, energy, -LATE_PRICE * late])
    return float(earned @ np.array(weights_of(task.preference))) / totals["requests"]


def simulate_totals(task: Task, policy: Any, seed: int) -> dict[str, float]:
    """Return what has come of a trace under any policy, as WorldBatch.totals does."""
    simulation = Simulation(task.settings, task.servers, policy, seed=seed)
    query = simulation.world.head.query
    query[col.PREFER_ACCURACY], query[col.PREFER_LATENCY], query[col.PREFER_ENERGY] = task.preference
    simulation.run()
    busy_j = float(sum(simulation.world.truth[sim.BUSY_J][s] for s in range(len(task.servers))))
    return totals_of(simulation.world.state, busy_j=busy_j)
