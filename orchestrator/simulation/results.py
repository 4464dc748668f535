"""What came out of a run: all figures together; and policies compared on the same arrivals, noise and faults."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from orchestrator.executors import Executor, run_here, run_in_order
from orchestrator.policies.protocol import Policy
from orchestrator.simulation.scenario.capacity import most_accuracy
from orchestrator.simulation.scenario.fleet import SimulatedServer, families_of
from orchestrator.simulation.scenario.settings import ScenarioSettings, fullest_fleet
from orchestrator.simulation.scenario.trace import Trace, draw_trace, only_family
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import Family

WARM_UP_RATIO: Final = 0.05
"""The share of the requests, the first ones, that latencies, accuracy and attainment leave out in comparisons."""
_AVERAGED: Final = (
    *(
        "effective_accuracy",
        "attainment_ratio",
        "accuracy",
        "mean_s",
        "p99_s",
        "goodput_rps",
        "joules_per_answer",
        "mean_batch",
    ),
    "decisions",
)
_FAMILY_AVERAGED: Final = (
    "requests",
    "attainment_ratio",
    "alone_ratio",
    "effective_accuracy",
    "accuracy",
    "p99_s",
)


@dataclass(frozen=True, slots=True)
class ServerResult:
    """What one server did.

    Attributes:
        groups: The batches that it ran; a file of results calls them so.
        utilisation_ratio: How much of it was busy while it was up.
        energy_j: Joules of idling and of batches; None while unknown.
        peak_bytes: Memory of its instances, all of which are there from the beginning.
    """

    name: str
    items: int
    groups: int
    utilisation_ratio: float
    energy_j: float | None
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class FamilyResult:
    """What became of one family's requests; figures are as in Result.

    Attributes:
        alone_ratio: Its attainment_ratio with the same requests while nobody asks for the others; None when not run.
    """

    name: str
    requests: int
    attainment_ratio: float
    accuracy: float | None
    effective_accuracy: float
    p99_s: float | None
    alone_ratio: float | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one policy did with one trace.

    Attributes:
        answered: of ``requests``; the others were ``shed`` by the router, ``rejected`` by the policy or ``failed``.
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
        families: each of several families; empty when there is one.
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
    families: tuple[FamilyResult, ...] = ()


def summarise(simulation: Simulation, *, seed: int, warm_up_ratio: float = 0.0) -> Result:
    """Return the figures of a run that has ended; latencies, accuracy and attainment without the first requests.

    ``warm_up_ratio`` says how many of the requests those are.
    """
    world, state = simulation.world, simulation.world.state
    count = len(simulation.trace.arrived_s)
    table = world.requests[:, int(warm_up_ratio * count) : count]
    is_answered = table[sim.STATUS] == sim.ANSWERED
    whole = _of_requests("", table)
    latency_s = np.sort((table[sim.ANSWERED_S] - table[sim.ARRIVED_S])[is_answered])
    servers = tuple(_server_results(simulation))
    energies = [s.energy_j for s in servers]
    known = [e for e in energies if e is not None]
    items, batches = sum(s.items for s in servers), sum(s.groups for s in servers)
    shed, rejected, failed, answered = (
        int(np.count_nonzero(world.requests[sim.STATUS][:count] == status))
        for status in (sim.SHED, sim.REJECTED, sim.FAILED, sim.ANSWERED)
    )
    span_s = float(state[sim.NOW_S]) - float(table[sim.ARRIVED_S][0])
    return Result(
        scenario=simulation.settings.name,
        policy=simulation.policy.name,
        seed=seed,
        requests=count,
        answered=answered,
        shed=shed,
        rejected=rejected,
        failed=failed,
        attainment_ratio=whole.attainment_ratio,
        accuracy=whole.accuracy,
        effective_accuracy=whole.effective_accuracy,
        mean_s=float(latency_s.mean()) if len(latency_s) else None,
        p50_s=_quantile(latency_s, 0.5),
        p99_s=whole.p99_s,
        goodput_rps=whole.attainment_ratio * whole.requests / span_s if span_s > 0 else 0.0,
        joules_per_answer=sum(known) / answered if len(known) == len(energies) and answered else None,
        utilisation_variance=float(np.var([s.utilisation_ratio for s in servers])),
        mean_batch=items / batches if batches else None,
        decisions=int(state[sim.TURN]),
        duration_s=float(state[sim.NOW_S]),
        servers=servers,
        families=_family_results(simulation, table),
    )


def _family_results(simulation: Simulation, table: NDArray[np.float64]) -> tuple[FamilyResult, ...]:
    if len(simulation.families) == 1:
        return ()
    of = [table[:, table[sim.FAMILY] == index] for index in range(len(simulation.families))]
    return tuple(_of_requests(name, own) for name, own in zip(simulation.families, of, strict=True) if own.size)


def _of_requests(name: str, table: NDArray[np.float64]) -> FamilyResult:
    """Return the figures of requests, at least one, in columns of the world's table."""
    is_answered = table[sim.STATUS] == sim.ANSWERED
    is_on_time = is_answered & (table[sim.ANSWERED_S] <= table[sim.DEADLINE_S])
    latency_s = np.sort((table[sim.ANSWERED_S] - table[sim.ARRIVED_S])[is_answered])
    return FamilyResult(
        name=name,
        requests=len(is_answered),
        attainment_ratio=int(np.count_nonzero(is_on_time)) / len(is_answered),
        accuracy=float(table[sim.ACCURACY][is_answered].mean()) if len(latency_s) else None,
        effective_accuracy=float(table[sim.ACCURACY][is_on_time].sum()) / len(is_answered),
        p99_s=_quantile(latency_s, 0.99),
    )


def _server_results(simulation: Simulation) -> Sequence[ServerResult]:
    found = []
    controlled = {each.server: each.peak_bytes for each in simulation.controllers}
    for index, (server, of_server) in enumerate(
        zip(simulation.servers, simulation.world.truth.T.tolist(), strict=True)
    ):
        items, batches, up_s = int(of_server[sim.ITEMS_RUN]), int(of_server[sim.BATCHES_RUN]), of_server[sim.UP_S]
        utilisation_ratio = of_server[sim.BUSY_S] / up_s if up_s > 0 else 0.0
        energy_j = of_server[sim.IDLE_W] * up_s + of_server[sim.BUSY_J]
        known_j = None if math.isnan(energy_j) else energy_j
        all_bytes = sum(model.instances * model.instance_bytes for model in server.models)
        peak_bytes = controlled.get(index, all_bytes)
        found.append(ServerResult(server.name, items, batches, utilisation_ratio, known_j, peak_bytes))
    return found


def _quantile(ascending: np.ndarray[tuple[int], np.dtype[np.float64]], ratio: float) -> float | None:
    """Return a quantile by nearest rank."""
    if not len(ascending):
        return None
    return float(ascending[max(0, math.ceil(ratio * len(ascending)) - 1)])


@dataclass(frozen=True, slots=True)
class Comparison:
    """The results of each policy on each trace, in the order of traces.

    ``rate_rps`` are items a second of the last trace, ``most_accuracy`` is the fluid bound at that rate; None when the
    fleet can't serve it for good. Of so many ``callers``, who wait for their answers, the rate is the most that they
    send, and no bound is known.
    """

    rate_rps: float
    most_accuracy: float | None
    results: tuple[Result, ...]
    callers: int | None = None

    def by_policy(self) -> dict[str, list[Result]]:
        """Return each policy's results, in the order the policies were given."""
        found: dict[str, list[Result]] = {}
        for result in self.results:
            found.setdefault(result.policy, []).append(result)
        return found

    def family_averages(self) -> dict[tuple[str, str], Mapping[str, float | None]]:
        """Return the means of each family's figures over traces, by policy and family; a figure may be None."""
        found: dict[tuple[str, str], list[FamilyResult]] = {}
        for result in self.results:
            for family in result.families:
                found.setdefault((result.policy, family.name), []).append(family)
        return {
            key: {name: mean_of_known([getattr(own, name) for own in families]) for name in _FAMILY_AVERAGED}
            for key, families in found.items()
        }

    def averages(self) -> dict[str, Mapping[str, float | None]]:
        """Return the means of each policy's figures over traces, requests without an answer as ``lost`` among them.

        A figure that is unknown on one trace is None.
        """
        found: dict[str, Mapping[str, float | None]] = {}
        for policy, results in self.by_policy().items():
            means = {name: mean_of_known([getattr(result, name) for result in results]) for name in _AVERAGED}
            found[policy] = {**means, "lost": mean_of_known([float(r.shed + r.rejected + r.failed) for r in results])}
        return found


def change_workload(settings: ScenarioSettings, *, load_ratio: float | None, requests: int | None) -> ScenarioSettings:
    """Return a scenario with another load or number of requests, where they are given."""
    given = {"load_ratio": load_ratio, "requests": requests}
    changed = {key: value for key, value in given.items() if value is not None}
    return settings.with_workload(**changed)


def compare_policies(
    settings: ScenarioSettings,
    servers: Sequence[SimulatedServer],
    policies: Mapping[str, Policy],
    *,
    seeds: int,
    alone: bool = False,
    execute: Executor = run_here,
) -> Comparison:
    """Run every policy on the traces of so many seeds, from 0 on; ``alone``: each family's requests alone as well.

    Results have the names that ``policies`` go by: of two files' policies the own names may be one.
    """
    jobs = [(name, policy, seed) for seed in range(seeds) for name, policy in policies.items()]
    found = run_in_order(execute, partial(_run_one, settings, servers, alone), jobs)
    rate_rps = found[-1][0]
    callers, bound = settings.workload.callers, None
    if callers is None:
        bound = most_accuracy(fullest_fleet(settings, servers), rate_rps, shares=settings.family_shares())
    return Comparison(rate_rps, bound, tuple(result for _, result in found), callers)


def _run_one(
    settings: ScenarioSettings, servers: Sequence[SimulatedServer], alone: bool, job: tuple[str, Policy, int]
) -> tuple[float, Result]:
    """Return the items a second of a trace, and what a policy did with it."""
    name, policy, seed = job
    trace = draw_trace(settings, servers, seed)

    def run(trace: Trace) -> Result:
        simulation = Simulation(settings, servers, policy, trace=trace)
        simulation.run()
        return summarise(simulation, seed=seed, warm_up_ratio=WARM_UP_RATIO)

    found = run(trace)
    if alone:
        names = list(families_of(servers))
        families = [
            replace(own, alone_ratio=run(only_family(trace, names.index(Family(own.name)))).attainment_ratio)
            for own in found.families
        ]
        found = replace(found, families=tuple(families))
    return trace.rate_rps, replace(found, policy=name)


def mean_of_known(values: Sequence[float | None]) -> float | None:
    """Return the mean of values; None where one is unknown, or there are none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known and len(known) == len(values) else None
