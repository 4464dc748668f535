"""Every policy on every scenario, over one process or some, kept as it comes.

A job is one policy on one scenario: seconds. What is done lies in OUT.partial, a JSON line a job, so an interruption
loses at most the jobs under way; the first line says what it is all about, and a campaign about anything else refuses
to go on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.side_by_side import Progress, run_jobs
from orchestrator.evaluation.tuning.trials import Extent, Job, Trial, run_job
from orchestrator.reporting.journal import Journal, differences
from orchestrator.simulation.scenario.settings import digest_scenario, load_scenario

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
            journal.write(
                {"scenario": job.path.stem, "policy": job.policy, "trials": [asdict(trial) for trial in trials]}
            )
            progress(count, len(jobs))
    return {(job.path.stem, job.policy): done[job.path.stem, job.policy] for job in jobs}


def _trial(values: Mapping[str, Any]) -> Trial:
    return Trial(str(values["spec"]), float(values["utility"]), tuple(values["figures"]))
