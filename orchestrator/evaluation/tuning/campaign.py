"""Every policy on every scenario, all of its configurations on the same traces, over one process or some.

The score is the utility of orchestrator.simulation.utility, mean of the traces. All other figures are kept too, so
that whoever compares can ask for the best at equal attainment and accuracy instead.

A job is one policy on one scenario: seconds. What is done lies in OUT.partial, a JSON line a job, so an interruption
loses at most the jobs under way; the first line says what it is all about, and a campaign about anything else refuses
to go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import load_case
from orchestrator.evaluation.figures import WARM_UP_RATIO
from orchestrator.evaluation.side_by_side import Progress, run_jobs
from orchestrator.evaluation.tuning.space import configurations
from orchestrator.policies import parse_policy
from orchestrator.reporting.journal import Journal, differences
from orchestrator.simulation.results import Result, summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, digest_scenario, load_scenario
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
        utility: The mean over traces.
        figures: FIGURES in their order, means over traces; None where a trace has none.
    """

    spec: str
    utility: float
    figures: tuple[float | None, ...]


_TracedScenario = tuple[ScenarioSettings, tuple[SimulatedServer, ...], tuple[Trace, ...], Utility]


def run_job(job: Job) -> tuple[Trial, ...]:
    """Return what came of every configuration, in their order; the same for the same job in whatever process."""
    scenario = _load(job.path, job.extent)
    widths = sorted({m.width for s in scenario[1] for m in s.models})
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
    return settings, ordered, traces, make_utility(settings, servers)


def _try(scenario: _TracedScenario, spec: str) -> Trial:
    settings, servers, traces, utility_scale = scenario
    results: list[Result] = []
    for at, trace in enumerate(traces):
        simulation = Simulation(settings, servers, parse_policy(spec), trace=trace)
        simulation.run()
        results.append(summarise(simulation, seed=FIRST_SEED + at, warm_up_ratio=WARM_UP_RATIO))
    rows = [{name: getattr(result, name) for name in FIGURES} for result in results]
    utility = sum(utility_scale.utility(row) for row in rows) / len(rows)
    return Trial(spec, utility, tuple(_mean([row[name] for row in rows]) for name in FIGURES))


def _mean(values: Sequence[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if len(known) == len(values) else None


Trials = dict[tuple[str, str], tuple[Trial, ...]]
"""What came of each policy on each scenario, by the stem of its file and the policy."""


def find_scenarios(given: Sequence[Path]) -> list[Path]:
    """Return the scenarios' files of files and folders.

    Raises:
        ConfigError: when there is none, or two have one stem, which tells them apart in the result.
    """
    found = [path for entry in given for path in (sorted(entry.glob("*.yaml")) if entry.is_dir() else [entry])]
    if not found:
        raise ConfigError(f"--scenario {given[0]} holds no .yaml file; name another folder or a file")
    stems = [path.stem for path in found]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise ConfigError(f"--scenario: two files are called {twice[0]}.yaml; tune them into two files")
    return found


def run_campaign(
    paths: Sequence[Path],
    policies: Sequence[str],
    extent: Extent,
    partial: Path,
    *,
    processes: int = 1,
    progress: Progress = lambda done, of: None,
) -> Trials:
    """Return what came of all; what the partial file holds already is not run again.

    Args:
        paths: Files of scenarios, of different stems.
        policies: Of ``tuned_policies``.
        extent: How much of each.
        partial: The file that keeps what is done; to be removed when the result is written.
        processes: How many; with 1 everything runs in this one.
        progress: Told before the first job and after each.

    Raises:
        ConfigError: when a scenario or the partial file can't be used, or that is about something else.
    """
    digests = {path.stem: digest_scenario(*load_scenario(path)) for path in paths}
    binding = {"scenarios": digests, "extent": asdict(extent)}
    done: Trials = {}

    def replay(number: int, values: Mapping[str, Any]) -> None:
        if number > 1:
            done[str(values["scenario"]), str(values["policy"])] = tuple(_trial(t) for t in values["trials"])
            return
        for section, wanted in binding.items():
            for key, found, now in differences(values[section], json.loads(json.dumps(wanted))):
                raise ConfigError(
                    f"{partial} was begun with {section}.{key} = {found}, now it is {now}; give what it was begun "
                    "with, or --restart"
                )

    journal = Journal(partial, replay, remedy="remove it, or give --restart, to begin anew")
    jobs = [Job(path, policy, extent) for path in paths for policy in policies]
    missing = [job for job in jobs if (job.path.stem, job.policy) not in done]
    with journal:
        if journal.is_new:
            journal.write(binding)
        progress(len(jobs) - len(missing), len(jobs))
        for count, (job, trials) in enumerate(run_jobs(run_job, missing, processes), len(jobs) - len(missing) + 1):
            done[job.path.stem, job.policy] = trials
            journal.write({"scenario": job.path.stem, "policy": job.policy, "trials": list(map(asdict, trials))})
            progress(count, len(jobs))
    return {(job.path.stem, job.policy): done[job.path.stem, job.policy] for job in jobs}


def _trial(values: Mapping[str, Any]) -> Trial:
    return Trial(str(values["spec"]), float(values["utility"]), tuple(values["figures"]))
