"""One cell of a suite: a policy on a trace, with every seed of its random numbers, in whatever process it lands.

All randomness is drawn beforehand. A trace's seed gives arrivals, noise and faults, the same for all policies. The
random numbers that policies use are the trace's own for seed 0 and drawn anew for every other seed. A policy that uses
none does the same whatever the seed, so it is not run again: that is found out on the first trace, by running it twice
and comparing every figure.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from orchestrator.errors import ConfigError, UntrustedError
from orchestrator.evaluation.cases import PolicyEntry, load_case, make_entry, open_policy
from orchestrator.evaluation.figures import RunFigures, Timeline, take_figures, take_timeline
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.protocol import RowPolicy
from orchestrator.policies.tables.candidates import build_rows
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import DECIDED, DISTRUSTED, Simulation

CellKey = tuple[str, str, int]
"""Digest of the scenario, identity of the policy, seed of the trace."""
_TIMED_DECISIONS: Final = 400
_TIMED_REQUESTS: Final = 2000


@dataclass(frozen=True, slots=True)
class Cell:
    """What one job runs.

    Attributes:
        digest: Of the scenario, the number of requests included.
        trace: The seed of the trace.
        seeds: How many seeds of random numbers there are, ascending from 0.
        is_first: Whether it is the first trace of its case: then the timeline is kept and decisions are timed, and
            a second seed shows whether the policy draws random numbers at all.
    """

    digest: str
    path: Path
    requests: int | None
    entry: PolicyEntry
    trace: int
    seeds: int
    is_first: bool

    @property
    def key(self) -> CellKey:
        """The cell's identity: equal keys have equal figures, apart from the number of seeds."""
        return self.digest, self.entry.identity, self.trace


@dataclass(frozen=True, slots=True)
class CellResult:
    """What came of a cell.

    Attributes:
        runs: One a seed; only seed 0 for a policy that draws no random numbers.
        cpu_s: Processor time of all of them, on one core; no figure, because it differs from run to run.
        timeline: How seed 0 went over time; None but for the first trace.
        decision_s: Median and 99th percentile of one decision (candidates, features and choice), called from Python
            as the router does; None but for the first trace.
    """

    runs: tuple[RunFigures, ...]
    cpu_s: float
    timeline: Timeline | None = None
    decision_s: tuple[float, float] | None = None


def run_cell(cell: Cell) -> CellResult:
    """Return what came of a cell; the same figures for the same cell.

    Raises:
        ConfigError: when a file, of the scenario or of the policy, says something else here than where the cell was
            planned.
    """
    if digest_scenario(*_load(cell.path, cell.requests)) != cell.digest:
        raise ConfigError(f"{cell.path} has changed, or is another one on this machine; share one folder of scenarios")
    if make_entry(cell.entry.label, cell.entry.spec).identity != cell.entry.identity:
        raise ConfigError(f"the file of {cell.entry.spec} has changed, or is another one on this machine; share one")
    began_s = time.process_time()
    simulation, first = _run(cell, 0)
    runs = [first]
    if cell.seeds > 1:
        second = _run(cell, 1)[1]
        if replace(second, seed=0) != first:
            runs += [second, *(_run(cell, seed)[1] for seed in range(2, cell.seeds))]
    cpu_s = time.process_time() - began_s
    if not cell.is_first:
        return CellResult(tuple(runs), cpu_s)
    return CellResult(tuple(runs), cpu_s, take_timeline(simulation), _time_decisions(cell))


def _run(cell: Cell, seed: int) -> tuple[Simulation, RunFigures]:
    settings, servers = _load(cell.path, cell.requests)
    policy = open_policy(cell.entry.spec)
    trace = _trace(cell.path, cell.requests, cell.trace)
    if seed:
        uniforms = np.random.default_rng(np.random.SeedSequence([cell.trace, seed])).random(trace.uniforms.shape)
        trace = replace(trace, uniforms=uniforms)
    simulation = Simulation(settings, servers, policy, trace=trace)
    simulation.run()
    return simulation, take_figures(simulation, seed=seed, fallback_ratio=_fallback_ratio(simulation))


def _time_decisions(cell: Cell) -> tuple[float, float] | None:
    """Return what decisions take; None when there were none to time, or the policy does not decide on tables."""
    policy = open_policy(cell.entry.spec)
    if not isinstance(policy, RowPolicy):
        return None
    settings, servers = _load(cell.path, min(cell.requests or _TIMED_REQUESTS, _TIMED_REQUESTS))
    simulation = Simulation(settings, servers, policy, seed=cell.trace)
    simulation.decide_outside()
    world = simulation.world
    taken_s: list[float] = []
    while len(taken_s) <= _TIMED_DECISIONS and simulation.next_decision() is not None:
        began_s = time.perf_counter()
        count = build_rows(world.fleet, world.head, world.rows, world.scratch)
        row, items, _, until_s = _choose(policy, simulation, count)
        taken_s.append(time.perf_counter() - began_s)
        simulation.apply(row, items, until_s)
    counted_s = taken_s[1:]  # the first one may load compiled code
    if not counted_s:
        return None
    median_s, p99_s = np.quantile(counted_s, (0.5, 0.99))
    return float(median_s), float(p99_s)


def _choose(policy: RowPolicy, simulation: Simulation, count: int) -> tuple[int, float, int, float]:
    """Return what a policy decides; where a learned one does not trust itself, what its base does."""
    asked = simulation.memory, simulation.world.rows, count, simulation.world.head.query
    try:
        return policy.choose_row(*asked)
    except UntrustedError:
        assert isinstance(policy, LearnedPolicy)
        return policy.base.choose_row(*asked)


def _fallback_ratio(simulation: Simulation) -> float | None:
    """Return how much of its decisions a learned policy left to its base; None for every other policy."""
    if not isinstance(simulation.policy, LearnedPolicy):
        return None
    decided, distrusted = simulation.learned_counts[DECIDED], simulation.learned_counts[DISTRUSTED]
    return float(distrusted / decided) if decided else 0.0


@lru_cache(maxsize=4)
def _load(path: Path, requests: int | None) -> tuple[ScenarioSettings, tuple[SimulatedServer, ...]]:
    return load_case(path, requests)


@lru_cache(maxsize=2)
def _trace(path: Path, requests: int | None, seed: int) -> Trace:
    settings, servers = _load(path, requests)
    return draw_trace(settings, sorted(servers, key=lambda s: s.name), seed)
