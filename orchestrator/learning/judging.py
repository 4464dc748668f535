"""Policies side by side on traffic that nobody learned from, and whether the best is better than the one in force.

All stand side by side on traces that choose. Of those that are better there than the policy in force, the one that is
it most surely, by the lower end of the interval, is held against it on traces that nothing was chosen by, window by
window. Several come out equally good as a rule; the one with the best mean alone would often be one that is better in
some windows and worse in others, and fail where its neighbour would not have. A window is a unit of the interval,
because what happens within one hangs together. A run is a job of its own, whoever executes it: its figures follow from
policy and trace alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.executors import Executor, run_in_order
from orchestrator.learning.objective import FIGURES, run_policy
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned.policy import FITTED
from orchestrator.policies.learned.policy_file import PolicyFile, read_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Policy
from orchestrator.reporting.student import half_interval
from orchestrator.simulation.results import mean_of_known
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.trace import Trace


class JudgedPolicy(NamedTuple):
    """A policy that is judged; ``origin``, ``spec`` and ``file`` are as of a ``Candidate``."""

    origin: str
    spec: str
    policy: Policy
    file: PolicyFile | None = None


class Difference(NamedTuple):
    """A mean of paired differences with its 95 % interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.4f} (95 % interval {self.low:+.4f} to {self.high:+.4f})"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A policy that stands for promotion.

    Attributes:
        origin: "in force", "rule", "evolution", "ppo", "ppo-evolved" or "given".
        spec: of a rule; of what PPO made its origin.
        file: what is written where it is promoted; None: it is the one in force.
        utility_choosing: mean on the traces that choose.
        chosen_by: mean utility there over that of the policy in force, with its interval.
        figures: means on the traces that are held out.
        better_by: mean utility there over that of the policy in force, with its interval.
    """

    origin: str
    spec: str
    file: PolicyFile | None
    utility_choosing: float
    chosen_by: Difference
    figures: dict[str, float | None]
    better_by: Difference


def given_policies(present: str, files: Sequence[Path]) -> list[JudgedPolicy]:
    """Return the policy in force, by its spec, and policies of files; raises ConfigError when one can't be used."""
    given = [
        JudgedPolicy("given", str(path), parse_policy(f"{FITTED}:{path}"), read_policy_file(path)) for path in files
    ]
    return [JudgedPolicy("in force", present, parse_policy(present)), *given]


def judge(traffic: Traffic, entries: Sequence[JudgedPolicy], execute: Executor) -> tuple[Candidate, ...]:
    """Return the candidates, the one that is most surely better by the traces that choose first.

    The first entry is in force; what is not better there in the mean comes behind it.
    """
    choosing, held_out = traffic.choosing(), traffic.held_out()
    traces = [*choosing, *held_out]
    runs = _run_all(traffic, [entry.policy for entry in entries], traces, execute)
    found, in_force = [], _utilities(runs[0])
    for entry, own_runs in zip(entries, runs, strict=True):
        own, held_runs = _utilities(own_runs), own_runs[len(choosing) :]
        figures = {name: mean_of_known([run[name] for run in held_runs]) for name in ("utility", *FIGURES)}
        chosen_by, better_by = (
            paired(own[part], in_force[part]) for part in (slice(len(choosing)), slice(len(choosing), None))
        )
        file = entry.file
        if file is not None:
            file = replace(file, validation={"over_present": better_by, "held_out_windows": len(held_out), **figures})
        utility = float(own[: len(choosing)].mean())
        found.append(Candidate(entry.origin, entry.spec, file, utility, chosen_by, figures, better_by))
    return tuple(sorted(found, key=lambda each: (each.chosen_by.value > 0, each.chosen_by.low), reverse=True))


def utilities_of(traffic: Traffic, policy: Policy, traces: Sequence[Trace], execute: Executor) -> NDArray[np.float64]:
    """Return the utility of a policy on each trace."""
    return _utilities(_run_all(traffic, [policy], traces, execute)[0])


def promote(candidates: Sequence[Candidate]) -> tuple[Candidate | None, str]:
    """Return who is promoted of candidates, the best by choice first, and why; None: who is in force stays."""
    best = candidates[0]
    if best.file is None:
        return None, "no candidate was better than the policy in force on the traffic that chooses"
    if not best.better_by.low > 0:
        return None, f"{best.spec} was best, but on held-out traffic it is not surely better: {best.better_by}"
    return best, f"{best.spec} is better on held-out traffic: {best.better_by} of utility"


def paired(own: NDArray[np.float64], other: NDArray[np.float64]) -> Difference:
    """Return the mean of the differences of two policies on the same windows, with its 95 % interval by Student's t."""
    differences = own - other
    mean, half = float(differences.mean()), half_interval(differences.tolist())
    return Difference(mean, mean - half, mean + half)


_Figures = dict[str, float | None]


def _run_all(
    traffic: Traffic, policies: Sequence[Policy], traces: Sequence[Trace], execute: Executor
) -> list[list[_Figures]]:
    """Return the figures of each policy on each trace."""
    runs = run_in_order(execute, partial(_run, traffic.task), [(each, trace) for each in policies for trace in traces])
    return [runs[first : first + len(traces)] for first in range(0, len(runs), len(traces))]


def _run(task: Task, job: tuple[Policy, Trace]) -> _Figures:
    return run_policy(task, *job)


def _utilities(runs: Sequence[_Figures]) -> NDArray[np.float64]:
    return np.array([run["utility"] for run in runs], float)
