"""Every policy on every scenario, all of its configurations on the same traces, by the runs of an evaluation.

The score is the utility of orchestrator.simulation.utility, mean of the traces. All other figures are kept too, so
that whoever compares can ask for the best at equal attainment and accuracy instead.

What is done lies in OUT.partial, as that of an evaluation does (``orchestrator.evaluation.campaign``): a run that was
interrupted goes on, also with other policies, traces or scenarios.

Two files are left. OUT maps the stem of a scenario to policies to ``{"spec": …}`` with the best one's figures: what
``slimsched evaluate`` reads. OUT's ``.trials.json`` holds ``provenance`` and of every trial its spec, its utility and
its figures, in the order that ``columns`` says.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from orchestrator.errors import ConfigError
from orchestrator.evaluation.campaign import Records, run_campaign
from orchestrator.evaluation.cases import Case, load_case, make_entry
from orchestrator.evaluation.document import round_value
from orchestrator.evaluation.scores import UTILITY, Score, score_cases
from orchestrator.evaluation.tuning.space import BUCKETS, RANKS, SEARCHED, configurations
from orchestrator.executors import Executor, Progress, run_here
from orchestrator.reporting.outputs import write_file
from orchestrator.simulation.scenario.digest import digest_scenario

FIRST_SEED: Final = 2_000_000
"""Of the traces; those that anything is reported or validated on have lower ones."""
FIGURES: Final = ("attainment_ratio", "accuracy", "effective_accuracy", "joules_per_answer", "mean_s", "p99_s")


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
class Trial:
    """What came of one configuration: means over traces, FIGURES in their order, None where a trace has none."""

    spec: str
    utility: float
    figures: tuple[float | None, ...]


Trials = dict[tuple[str, str], tuple[Trial, ...]]
"""What came of each policy on each scenario, by the stem of its file and the policy."""


def best_of(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the most utility, the first of equals."""
    return max(trials, key=lambda trial: trial.utility)


def find_scenarios(given: Sequence[Path]) -> list[Path]:
    """Return the scenarios' files of files and folders.

    Raises:
        ConfigError: when there is none, or two have one stem, by which the result keeps them apart.
    """
    found = [path for entry in given for path in (sorted(entry.glob("*.yaml")) if os.path.isdir(entry) else [entry])]
    if not found:
        raise ConfigError(f"--scenario {given[0]} holds no .yaml file; name another folder or a file")
    stems = [path.stem for path in found]
    twice = [stem for stem in stems if stems.count(stem) > 1]
    if twice:
        raise ConfigError(f"--scenario: two files are called {twice[0]}.yaml; tune them into two files")
    return found


def try_all(
    paths: Sequence[Path],
    policies: Sequence[str],
    extent: Extent,
    records: Records,
    *,
    execute: Executor = run_here,
    progress: Progress = lambda done, of: None,
) -> Trials:
    """Return what came of all; what the records, which are entered, hold already is not run again.

    Files of scenarios are of different stems. ``progress`` is called before the first run and after each.

    Raises:
        ConfigError: when a scenario or a policy can't be used.
    """
    cases, specs = [], {}
    for path in paths:
        settings, servers = load_case(path, extent.requests)
        widths = sorted({model.width for server in servers for model in server.models})
        own = {policy: configurations(policy, widths, extent.budget, extent.seed) for policy in policies}
        entries = tuple(make_entry(spec, spec) for spec in dict.fromkeys(chain.from_iterable(own.values())))
        traces = tuple(range(FIRST_SEED, FIRST_SEED + extent.traces))
        digest = digest_scenario(settings, servers)
        cases.append(Case(path.stem, False, path, extent.requests, traces, entries, digest))
        specs[path.stem] = own
    run_campaign(cases, records, seeds=1, execute=execute, progress=progress)
    return {
        (scenario.case.stem, policy): tuple(_trial(scenario.scores[spec]) for spec in own)
        for scenario in score_cases(cases, records.results)
        for policy, own in specs[scenario.case.stem].items()
    }


def _trial(score: Score) -> Trial:
    means = {name: float(values.mean()) for name, values in score.figures.items()}
    known = tuple(None if math.isnan(means[name]) else means[name] for name in FIGURES)
    return Trial(score.entry.spec, means[UTILITY], known)


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
        "utility": "effective accuracy - energy_weight * joules an answer / most joules a request",
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
    tried = {"provenance": provenance, "columns": ["spec", UTILITY, *FIGURES], "trials": every}
    for place, values, depth in ((path.with_suffix(".trials.json"), tried, 3), (path, best, 2)):
        write_file(place, _render(values, depth) + "\n", remedy="choose another place with --out")


def _figures(trial: Trial) -> dict[str, float | None]:
    return dict(zip((UTILITY, *FIGURES), map(round_value, (trial.utility, *trial.figures)), strict=True))


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
