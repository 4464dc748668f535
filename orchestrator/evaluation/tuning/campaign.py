"""Every policy on every scenario, all of its configurations on the same traces, on any executor.

The score is the utility of orchestrator.simulation.utility, mean of the traces. All other figures are kept too, so
that whoever compares can ask for the best at equal attainment and accuracy instead.

A job is one policy on one scenario: seconds. What is done lies in OUT.partial, a JSON line a job, so an interruption
loses at most the jobs under way; the first line says what it is all about, and a campaign about anything else refuses
to go on.

Two files are left. OUT maps the stem of a scenario to policies to ``{"spec": …}`` with the best one's figures: what
``slimsched evaluate`` reads. OUT's ``.trials.json`` holds ``provenance`` and of every trial its spec, its utility and
its figures, in the order that ``columns`` says.
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
from orchestrator.evaluation.tuning.space import BUCKETS, RANKS, SEARCHED, configurations
from orchestrator.executors import Executor, Progress, run_here
from orchestrator.policies.parsing import parse_policy
from orchestrator.reporting.journal import Journal, differences
from orchestrator.reporting.outputs import write_file
from orchestrator.simulation.results import WARM_UP_RATIO, Result, mean_of_known, summarise
from orchestrator.simulation.scenario.fleet import SimulatedServer
from orchestrator.simulation.scenario.settings import ScenarioSettings, digest_scenario, load_scenario
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.simulation import Simulation
from orchestrator.simulation.utility import EXCHANGE, Utility, make_utility

FIRST_SEED: Final = 2_000_000
"""Of the traces; those that anything is reported or validated on have lower ones."""
FIGURES: Final = ("attainment_ratio", "accuracy", "effective_accuracy", "joules_per_answer", "mean_s", "p99_s")
_DIGITS: Final = 6


@dataclass(frozen=True, slots=True)
class Extent:
    """How many configurations of each policy are tried on how many traces each, and the requests of a run at most.

    Without a number of requests it has as many as the scenario says.
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
    """What came of one configuration: means over traces, FIGURES in their order, None where a trace has none."""

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
    return Trial(spec, utility, tuple(mean_of_known([row[name] for row in rows]) for name in FIGURES))


Trials = dict[tuple[str, str], tuple[Trial, ...]]
"""What came of each policy on each scenario, by the stem of its file and the policy."""


def find_scenarios(given: Sequence[Path]) -> list[Path]:
    """Return the scenarios' files of files and folders.

    Raises:
        ConfigError: when there is none, or two have one stem, by which the result keeps them apart.
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
    execute: Executor = run_here,
    progress: Progress = lambda done, of: None,
) -> Trials:
    """Return what came of all; what the partial file holds already is not run again.

    Files of scenarios are of different stems. The partial file is to be removed when the result is written.
    ``progress`` is called before the first job and after each.

    Raises:
        ConfigError: when a scenario or the partial file can't be used, or that is about something else.
    """
    digests = {path.stem: digest_scenario(*load_scenario(path)) for path in paths}
    binding = {"scenarios": digests, "extent": asdict(extent)}
    done: Trials = {}

    def replay(number: int, values: Mapping[str, Any]) -> None:
        if number > 1:
            done[str(values["scenario"]), str(values["policy"])] = tuple(
                Trial(str(t["spec"]), float(t["utility"]), tuple(t["figures"])) for t in values["trials"]
            )
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
        for count, (job, trials) in enumerate(execute(run_job, missing), len(jobs) - len(missing) + 1):
            done[job.path.stem, job.policy] = trials
            journal.write({"scenario": job.path.stem, "policy": job.policy, "trials": list(map(asdict, trials))})
            progress(count, len(jobs))
    return {(job.path.stem, job.policy): done[job.path.stem, job.policy] for job in jobs}


def describe_tuning(
    scenarios: Sequence[Path],
    policies: Sequence[str],
    extent: Extent,
    out: Path,
    *,
    duration_s: float,
    processes: int | None,
) -> dict[str, Any]:
    """Return how a file of tuned policies came about, as JSON values: the command that makes it again, and what it did.

    Scenarios (files and folders) and policies are those that were asked for; no policies: all. ``processes`` are None
    where a cluster ran it.
    """
    parts = ["slimsched tune", *(f"--scenario {s}" for s in scenarios), *(f"--policy {p}" for p in policies)]
    parts += [f"--{key} {value}" for key, value in asdict(extent).items() if value is not None]
    return {
        "command": " ".join([*parts, f"--out {out}"]),
        **asdict(extent),
        "trace_seeds": [FIRST_SEED + at for at in range(extent.traces)],
        "utility": f"effective accuracy - {EXCHANGE:.4g} * joules an answer / most joules a request",
        "searched": {**SEARCHED, "buckets": BUCKETS, "numbers of a knob of servers": RANKS},
        "duration_s": round(duration_s),
        "processes": processes,
    }


def write_tuned(path: Path, trials: Trials, provenance: Mapping[str, Any]) -> None:
    """Write both files, each as a whole or not at all; raises ConfigError when one can't be written."""
    best: dict[str, dict[str, Any]] = {}
    every: dict[str, dict[str, Any]] = {}
    for (stem, policy), own in trials.items():
        chosen = best_of(own)
        best.setdefault(stem, {})[policy] = {"spec": chosen.spec, **_figures(chosen)}
        every.setdefault(stem, {})[policy] = [[trial.spec, *_figures(trial).values()] for trial in own]
    tried = {"provenance": provenance, "columns": ["spec", "utility", *FIGURES], "trials": every}
    for place, values, depth in ((path.with_suffix(".trials.json"), tried, 3), (path, best, 2)):
        write_file(place, _render(values, depth) + "\n", remedy="choose another place with --out")


def _figures(trial: Trial) -> dict[str, float | None]:
    figures = dict(zip(("utility", *FIGURES), (trial.utility, *trial.figures), strict=True))
    return {name: None if value is None else float(f"{value:.{_DIGITS}g}") for name, value in figures.items()}


def _render(values: Any, depth: int, indent: str = "") -> str:
    """Return JSON that is spread over lines down to a depth and has one line for each value below it."""
    if depth == 0 or not values or not isinstance(values, dict | list):
        return json.dumps(values, ensure_ascii=False, allow_nan=False)
    inner = indent + " "
    if isinstance(values, list):
        rows = [_render(value, depth - 1, inner) for value in values]
        return "[\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}]"
    rows = [f"{json.dumps(key)}: {_render(value, depth - 1, inner)}" for key, value in values.items()]
    return "{\n" + ",\n".join(inner + row for row in rows) + f"\n{indent}}}"
