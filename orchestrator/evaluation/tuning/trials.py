"""What came of the configurations of one policy on one scenario, all on the same traces.

The score is the utility of orchestrator.simulation.utility, mean of the traces. All other figures are kept too, so
that whoever compares can ask for the best at equal attainment and accuracy instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from orchestrator.evaluation.cases import load_case
from orchestrator.evaluation.figures import WARM_UP_RATIO
from orchestrator.evaluation.tuning.space import configurations
from orchestrator.policies import parse_policy
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.utility import Utility, make_utility

FIRST_SEED: Final = 2_000_000
"""Of the traces; those that anything is reported or validated on have lower ones."""
FIGURES: Final = ("attainment_ratio", "accuracy", "effective_accuracy", "joules_per_answer", "mean_s", "p99_s")


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is tried.

    Attributes:
        budget: How many configurations each policy gets.
        traces: How many traces each configuration is run on.
        requests: How many requests a run has at most; None: as many as the scenario says.
        seed: The seed of the configurations.
    """

    budget: int = 32
    traces: int = 2
    requests: int | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Job:
    """The configurations of one policy on one scenario."""

    path: Path
    policy: str
    extent: Extent


@dataclass(frozen=True, slots=True)
class Trial:
    """What came of one configuration.

    Attributes:
        spec: The configuration.
        utility: Its mean over traces.
        figures: FIGURES in their order, means over traces; None where a trace has none.
    """

    spec: str
    utility: float
    figures: tuple[float | None, ...]


@dataclass(frozen=True, slots=True)
class _TracedScenario:
    """A scenario with its traces."""

    settings: ScenarioSettings
    servers: tuple[SimulatedServer, ...]
    traces: tuple[Trace, ...]
    utility_scale: Utility


def run_job(job: Job) -> tuple[Trial, ...]:
    """Return what came of every configuration, in their order; the same for the same job in whatever process."""
    scenario = _load(job.path, job.extent)
    widths = sorted({m.width for s in scenario.servers for m in s.models})
    done: dict[str, Trial] = {}
    specs = configurations(job.policy, widths, job.extent.budget, job.extent.seed)
    for spec in specs:
        if spec not in done:
            done[spec] = _try(scenario, spec)
    return tuple(done[spec] for spec in specs)


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the most utility, the first of equals."""
    return max(trials, key=lambda trial: trial.utility)


@lru_cache(maxsize=1)
def _load(path: Path, extent: Extent) -> _TracedScenario:
    settings, servers = load_case(path, extent.requests)
    ordered = tuple(sorted(servers, key=lambda s: s.name))  # as in Simulation, so that traces are the same
    traces = tuple(draw_trace(settings, ordered, FIRST_SEED + at) for at in range(extent.traces))
    return _TracedScenario(settings, ordered, traces, make_utility(settings, servers))


def _try(scenario: _TracedScenario, spec: str) -> Trial:
    results: list[Result] = []
    for at, trace in enumerate(scenario.traces):
        simulation = Simulation(scenario.settings, scenario.servers, parse_policy(spec), trace=trace)
        simulation.run()
        results.append(summarise(simulation, seed=FIRST_SEED + at, warm_up_ratio=WARM_UP_RATIO))
    rows = [{name: getattr(result, name) for name in FIGURES} for result in results]
    utility = sum(scenario.utility_scale.utility(row) for row in rows) / len(rows)
    return Trial(spec, utility, tuple(_mean([row[name] for row in rows]) for name in FIGURES))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
