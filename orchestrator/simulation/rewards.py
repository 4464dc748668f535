"""Worlds to learn in, and what an episode in them earns: four numbers, never one.

Each is relative to a request, so that they are of one size in any scenario:

0. accuracy: for each answer in time where its accuracy lies between the least and the most of the fleet, 0..1; a
   request that is late or lost earns 0.
1. latency: −0.3 · latency/deadline for each answer.
2. energy: −joules above idle, over the joules an item takes on average over the servers at their widest width in full
   batches; 0 where joules are unknown. Idle power is left out because no choice changes it.
3. lateness: −4 for each answer that was late and each request that was lost.

Accuracy and joules are paid when a batch is sent, as what its width and size promise, and settled when it ends: a
choice is paid for what it alone decides before others come between. That changes no sum over an episode, whose first
and last moments have nothing under way (a potential, Ng et al., ICML'99).

The first three are weighed by what requests prefer. Lateness is not: a preference says what is wanted of answers in
time, and a late one is worth little more than none. At even weights a wider width, a third of the range of accuracy, is
not worth a risk of more than 3 % that it comes late.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.compiled import compiled
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import World

OBJECTIVES: Final = ("accuracy", "latency", "energy", "lateness")
LATE_PRICE: Final = 4.0
LATENCY_SHARE: Final = 0.3

_ACCURACY, _LATENCY, _ENERGY, _LATENESS = range(len(OBJECTIVES))

_ANSWERED_SUM: Final = 0  # of what is kept between two steps
_IN_TIME_SUM: Final = 1
_ACCURACY_SUM: Final = 2
_LATENCY_SUM_S: Final = 3
_LOST_SUM: Final = 4
_SPENT_SUM_J: Final = 5
TIME_SUM: Final = 6
_PROMISED_ACCURACY: Final = 7
_PROMISED_J: Final = 8
SUMS: Final = 9
SCALES: Final = 4
"""Entries of what ``reward_scales`` returns."""
_LEAST_ACCURACY: Final = 0
_ACCURACY_SPREAD: Final = 1
DEADLINE_SCALE: Final = 2
_ITEM_J: Final = 3


@dataclass(frozen=True, slots=True)
class Task:
    """What a world is made of; its requests weigh accuracy, latency and energy by a preference that adds up to 1.

    ``crowding`` is how much denser arrivals have to be borne too, where policies are fitted; 1: not.
    """

    settings: ScenarioSettings
    servers: tuple[SimulatedServer, ...]
    preference: tuple[float, float, float] = (1 / 3, 1 / 3, 1 / 3)
    crowding: float = 1.0


def weights_of(preference: Sequence[float]) -> tuple[float, float, float, float]:
    """Return what the objectives weigh for a preference."""
    accuracy, latency, energy = preference
    return accuracy, latency, energy, 1.0


def reward_scales(task: Task) -> tuple[float, float, float, float]:
    """Return the least accuracy, its spread, the deadline in seconds, and joules of a request, NaN while unknown."""
    accuracies = [m.accuracy for s in task.servers for m in s.models]
    request_j = per_item_joules(task) * task.settings.workload.items
    return min(accuracies), max(accuracies) - min(accuracies), task.settings.objectives.deadline_ms / 1e3, request_j


def per_item_joules(task: Task) -> float:
    """Return the joules of an item at the widest width in full batches, mean of the servers; NaN while unknown."""
    widest = [max(s.models, key=lambda m: m.width) for s in task.servers]
    known = [m.energy_j[-1] / m.max_batch_size for m in widest if m.energy_j is not None]
    return float(np.mean(known)) if len(known) == len(widest) else math.nan


@compiled
def write_rewards(world: World, scales: Any, sums: Any, rewards: Any) -> None:
    """Write what was earned since the call before, by OBJECTIVES; ``sums`` is kept between calls."""
    state, joules = world.state, 0.0
    for server in range(world.fleet.server_count):
        joules += world.truth[sim.BUSY_J][server]
    promised, promised_j = _promised(world, scales)
    answered = _grown(sums, _ANSWERED_SUM, state[sim.ANSWERED_COUNT])
    in_time = _grown(sums, _IN_TIME_SUM, state[sim.ON_TIME_COUNT])
    accuracy = _grown(sums, _ACCURACY_SUM, state[sim.IN_TIME_ACCURACY_SUM])
    latency_s = _grown(sums, _LATENCY_SUM_S, state[sim.LATENCY_SUM_S])
    lost = _grown(sums, _LOST_SUM, state[sim.LOST_COUNT])
    spent_j = _grown(sums, _SPENT_SUM_J, joules) + _grown(sums, _PROMISED_J, promised_j)
    spread = scales[_ACCURACY_SPREAD]
    rewards[_ACCURACY] = (accuracy - in_time * scales[_LEAST_ACCURACY]) / spread if spread > 0 else in_time
    rewards[_ACCURACY] += _grown(sums, _PROMISED_ACCURACY, promised)
    rewards[_LATENCY] = -LATENCY_SHARE * latency_s / scales[DEADLINE_SCALE]
    rewards[_LATENESS] = LATE_PRICE * (in_time - answered - lost)
    is_known = scales[_ITEM_J] > 0 and not math.isnan(spent_j)
    rewards[_ENERGY] = -spent_j / scales[_ITEM_J] if is_known else 0.0


@compiled
def _grown(sums: Any, entry: int, value: float) -> float:
    """Return by how much a sum has grown since it was kept, and keep it."""
    grown = value - sums[entry]
    sums[entry] = value
    return grown


@compiled
def _promised(world: World, scales: Any) -> tuple[float, float]:
    """Return the accuracy, as rewards have it, and the joules that the batches under way will have come to."""
    fleet, accuracy, joules = world.fleet, 0.0, 0.0
    for server in range(fleet.server_count):
        for slot in range(server * fleet.depth, server * fleet.depth + int(fleet.servers[col.BATCH_COUNT][server])):
            if not math.isnan(world.held[sim.DONE_S][slot]) or fleet.batches[col.COLUMN][slot] < 0:
                continue
            model = server * fleet.columns + int(fleet.batches[col.COLUMN][slot])
            items = fleet.batches[col.ITEMS][slot]
            requests = items / world.requests[sim.REQUEST_ITEMS][int(world.held[sim.FIRST][slot])]
            spread = scales[_ACCURACY_SPREAD]
            above = fleet.models[col.ACCURACY][model] - scales[_LEAST_ACCURACY]
            accuracy += requests * (above / spread if spread > 0 else 1.0)
            joules += world.energy_j[model][int(items) - 1]
    return accuracy, joules
