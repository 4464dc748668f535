"""What came out of a run: the figures that policies are compared by, all of them together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim


@dataclass(frozen=True, slots=True)
class ServerResult:
    """What one server did.

    Attributes:
        name: unique in the fleet.
        items: that it ran.
        groups: batches that it ran them in.
        utilisation_ratio: how much of it was busy while it was up.
        energy_j: idle and batches; None while unknown.
    """

    name: str
    items: int
    groups: int
    utilisation_ratio: float
    energy_j: float | None


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy did with one trace.

    Attributes:
        scenario, policy, seed: of the run.
        requests: that arrived.
        answered: of them; ``shed`` by the router, ``rejected`` by the policy, ``failed`` with a server: the others.
        attainment_ratio: answered within the deadline, of all that arrived.
        accuracy: mean of the widths that answered; None when nothing was.
        effective_accuracy: mean over all that arrived: of an answer in time its accuracy, else 0.
        mean_s, p50_s, p99_s: latency of what was answered; None when nothing was.
        goodput_rps: requests a second that were answered in time.
        joules_per_answer: all energy, idle included, over the answered requests; None while unknown.
        utilisation_variance: over the servers.
        mean_batch: items of a batch.
        decisions: how often the policy was asked.
        duration_s: virtual time, to the last answer or refusal.
        servers: by name.
    """

    scenario: str
    policy: str
    seed: int
    requests: int
    answered: int
    shed: int
    rejected: int
    failed: int
    attainment_ratio: float
    accuracy: float | None
    effective_accuracy: float
    mean_s: float | None
    p50_s: float | None
    p99_s: float | None
    goodput_rps: float
    joules_per_answer: float | None
    utilisation_variance: float
    mean_batch: float | None
    decisions: int
    duration_s: float
    servers: tuple[ServerResult, ...]


def summarise(simulation: Simulation, *, seed: int, warm_up_ratio: float = 0.0) -> Result:
    """Return the figures of a run that has ended.

    Args:
        simulation: after ``run``.
        seed: it was made with.
        warm_up_ratio: of the requests, the first, that latencies, accuracy and attainment leave out.
    """
    world, state = simulation.world, simulation.world.state
    count = len(simulation.trace.arrived_s)
    counted = slice(int(warm_up_ratio * count), count)
    table = {
        field: np.asarray(world.requests[field])[counted]
        for field in (sim.STATUS, sim.ARRIVED_S, sim.ANSWERED_S, sim.DEADLINE_S, sim.ACCURACY)
    }
    is_answered = table[sim.STATUS] == sim.ANSWERED
    latency_s = np.sort((table[sim.ANSWERED_S] - table[sim.ARRIVED_S])[is_answered])
    is_on_time = is_answered & (table[sim.ANSWERED_S] <= table[sim.DEADLINE_S])
    on_time = int(np.count_nonzero(is_on_time))
    servers = tuple(_server_results(simulation))
    energies = [s.energy_j for s in servers]
    known = [e for e in energies if e is not None]
    items, batches = sum(s.items for s in servers), sum(s.groups for s in servers)
    statuses = np.asarray(world.requests[sim.STATUS])[:count]
    all_answered = int(np.count_nonzero(statuses == sim.ANSWERED))
    span_s = float(state[sim.NOW_S]) - float(table[sim.ARRIVED_S][0])
    return Result(
        scenario=simulation.settings.name,
        policy=simulation.policy.name,
        seed=seed,
        requests=count,
        answered=all_answered,
        shed=int(np.count_nonzero(statuses == sim.SHED)),
        rejected=int(np.count_nonzero(statuses == sim.REJECTED)),
        failed=int(np.count_nonzero(statuses == sim.FAILED)),
        attainment_ratio=on_time / len(is_answered),
        accuracy=float(table[sim.ACCURACY][is_answered].mean()) if len(latency_s) else None,
        effective_accuracy=float(table[sim.ACCURACY][is_on_time].sum()) / len(is_answered),
        mean_s=float(latency_s.mean()) if len(latency_s) else None,
        p50_s=_quantile(latency_s, 0.5),
        p99_s=_quantile(latency_s, 0.99),
        goodput_rps=on_time / span_s if span_s > 0 else 0.0,
        joules_per_answer=sum(known) / all_answered if len(known) == len(energies) and all_answered else None,
        utilisation_variance=float(np.var([s.utilisation_ratio for s in servers])),
        mean_batch=items / batches if batches else None,
        decisions=int(state[sim.TURN]),
        duration_s=float(state[sim.NOW_S]),
        servers=servers,
    )


def _server_results(simulation: Simulation) -> Sequence[ServerResult]:
    truth = simulation.world.truth
    found = []
    for index, server in enumerate(simulation.servers):
        up_s = truth[sim.UP_S][index]
        energy_j = truth[sim.IDLE_W][index] * up_s + truth[sim.BUSY_J][index]
        found.append(
            ServerResult(
                server.name,
                int(truth[sim.ITEMS_RUN][index]),
                int(truth[sim.BATCHES_RUN][index]),
                float(truth[sim.BUSY_S][index] / up_s) if up_s > 0 else 0.0,
                None if math.isnan(energy_j) else float(energy_j),
            )
        )
    return found


def _quantile(ascending: np.ndarray[tuple[int], np.dtype[np.float64]], ratio: float) -> float | None:
    """Return a quantile by nearest rank."""
    if not len(ascending):
        return None
    return float(ascending[max(0, math.ceil(ratio * len(ascending)) - 1)])
