"""Every policy on every scenario, over one process or some, kept as it comes.

A job is one policy on one scenario: seconds. What is done lies in OUT.partial, a JSON line a job, so an interruption
loses at most the jobs under way; the first line says what it is all about, and a campaign about anything else refuses
to go on. A last line that was cut off is dropped. How many processes there are changes nothing but the time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.tuning.trials import Extent, Job, Trial, run_job
from orchestrator.simulation.scenario.settings import digest_scenario, load_scenario

Trials = dict[tuple[str, str], tuple[Trial, ...]]
"""By stem of the scenario's file and policy."""
Progress = Callable[[int, int], None]
"""Is told how many jobs of how many are done."""


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
        paths: of scenarios, of different stems.
        policies: of ``tuned_policies``.
        extent: how much of each.
        partial: the file that keeps what is done; to be removed when the result is written.
        processes: with 1 everything runs in this one.
        progress: told before the first job and after each.

    Raises:
        ConfigError: when a scenario or the partial file can't be used, or that is about something else.
    """
    jobs = [Job(path, policy, extent) for path in paths for policy in policies]
    done = _begin(
        partial, {"scenarios": {p.stem: digest_scenario(*load_scenario(p)) for p in paths}, "extent": asdict(extent)}
    )
    missing = [job for job in jobs if (job.path.stem, job.policy) not in done]
    progress(len(jobs) - len(missing), len(jobs))
    results = _side_by_side(missing, processes) if processes > 1 else ((job, run_job(job)) for job in missing)
    with partial.open("a") as file:
        for left, (job, trials) in enumerate(results, start=1):
            done[job.path.stem, job.policy] = trials
            line = {"scenario": job.path.stem, "policy": job.policy, "trials": [asdict(trial) for trial in trials]}
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            progress(len(jobs) - len(missing) + left, len(jobs))
    return {(job.path.stem, job.policy): done[job.path.stem, job.policy] for job in jobs}


def _side_by_side(jobs: Sequence[Job], processes: int) -> Iterator[tuple[Job, tuple[Trial, ...]]]:
    """Yield results as they come; few jobs are handed out ahead, so that an interruption ends soon."""
    left = iter(jobs)
    waiting: dict[Future[tuple[Trial, ...]], Job] = {}
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        try:
            while True:
                while len(waiting) < 2 * processes and (job := next(left, None)) is not None:
                    waiting[pool.submit(run_job, job)] = job
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    yield waiting.pop(future), future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(partial: Path, binding: Mapping[str, Any]) -> Trials:
    """Return what a partial file holds, or begin it."""
    text = _read(partial)
    lines = text.split("\n")[:-1]  # what follows the last end of a line was being written when the end came
    done: Trials = {}
    try:
        for number, line in enumerate(lines):
            values = json.loads(line)
            if number == 0:
                _check_binding(partial, values, json.loads(json.dumps(binding)))
            else:
                done[str(values["scenario"]), str(values["policy"])] = tuple(_trial(t) for t in values["trials"])
    except (KeyError, TypeError, ValueError) as exc:
        raise ConfigError(f"{partial} is damaged ({exc!r}); remove it, or give --restart, to begin anew") from exc
    whole = "".join(line + "\n" for line in lines) or json.dumps(binding) + "\n"
    if whole != text:
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            partial.write_text(whole)
        except OSError as exc:
            raise ConfigError(f"can't write {partial} ({exc.strerror}); choose another place with --out") from exc
    return done


def _read(partial: Path) -> str:
    try:
        return partial.read_text()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"can't read {partial} ({exc}); remove it to begin anew") from exc


def _check_binding(partial: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for section, values in wanted.items():
        for key in sorted({*values, *found[section]}):
            if found[section].get(key) != values.get(key):
                raise ConfigError(
                    f"{partial} was begun with {section}.{key} = {found[section].get(key)}, now it is "
                    f"{values.get(key)}; give what it was begun with, or --restart"
                )


def _trial(values: Mapping[str, Any]) -> Trial:
    return Trial(str(values["spec"]), float(values["utility"]), tuple(values["figures"]))
