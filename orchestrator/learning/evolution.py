"""Evolution: the knobs of rules, fitted by CMA-ES (Hansen, arXiv 1604.00772; the package ``cmaes``).

What is searched of a rule is what ``slimsched tune`` searches, as one cube (orchestrator.evaluation.tuning.space). Each
rule of the portfolio, which is every one that binds late, is first tried as it is; the few that do best are evolved in
turns, generation by generation, until the time is over. Of rules that did the same, as several do while there is little
load, one is taken. Every generation meets traces of its own, all of its candidates the same ones, so nothing is fitted
to one trace's luck. What counts in the end is the mean of the last generations' distribution, which has seen many
traces, and not the single candidate that was luckiest on a few.

The search is deterministic but for the time that it has: given the utilities of its generations again, it is where it
was. So these are all that an interrupted one needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from orchestrator.evaluation.tuning.space import default_point, spec_at
from orchestrator.learning.groups import DrawTrace
from orchestrator.learning.objective import run_policy
from orchestrator.policies.protocol import Policy
from orchestrator.policies.registry import parse_policy
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.trace import Floats

PORTFOLIO: Final = (
    "thrift",
    "thrift:brownout",
    "lert:brownout",
    "lert:slack",
    "lert:reserve",
    "lert:narrowest",
    "slackfit",
    "slackfit-accuracy",
    "max-accuracy",
    "max-batch",
    "clockwork",
    "nexus",
    "control-limit",
    "clipper-plus:slack",
    "clipper-aimd:slack",
    "achq",
    "model-switching",
    "alert",
)
"""Rules that are tried: all that bind late, but those that draw at random or change what they are shown."""
_EVOLVED: Final = 2
_TRIALS: Final = 8  # traces that say which of the portfolio are evolved
_TRACES: Final = 4  # of a generation
_SIGMA: Final = 0.15  # of the first generation, in the unit cube


@dataclass(frozen=True, slots=True)
class Evolved:
    """What evolution found.

    Attributes:
        specs: of the rules that were evolved, at the mean of their distributions, the best first.
        portfolio: mean utility of each rule as it is, on the trial traces.
        runs: how many traces were run in all.
        generations: of each rule that was evolved.
    """

    specs: tuple[str, ...]
    portfolio: Mapping[str, float]
    runs: int
    generations: int


def evolve(
    task: Task,
    draw: DrawTrace,
    *,
    seconds: float,
    seed: int,
    pool: Executor,
    portfolio: Sequence[str] = PORTFOLIO,
    history: Sequence[Sequence[Sequence[float]]] = (),
    keep: Callable[[list[list[list[float]]]], None] = lambda history: None,
    report: Callable[[float, str], None] = lambda part, text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Evolved:
    """Return the rules that evolution ends with after so many seconds, and one generation of each at the least.

    Args:
        task: the fleet, and what is asked of it.
        draw: gives traces.
        seconds: how long, beside what ``history`` took.
        seed: of the search.
        pool: threads to run in.
        portfolio: the rules, by their specs without knobs.
        history: utilities of the portfolio's trials, then of each generation, of a search that was interrupted.
        keep: is called with the history after each generation.
        report: is called with the part of the time that is over and what was found.
        clock: in seconds.
    """
    began_s, known = clock(), list(history)
    runner = _Runner(task, draw, pool)
    as_they_are = runner.mean_utilities(portfolio, _TRIALS, known[0][0] if known else None)
    done = [[as_they_are.tolist()]]
    rules = _best_of(portfolio, as_they_are)
    searches = [_search(rule, seed + at) for at, rule in enumerate(rules)]
    while len(done) < 2 or len(done) < len(known) or clock() - began_s < seconds:
        generation: list[list[float]] = []
        for at, (rule, search) in enumerate(zip(rules, searches, strict=True)):
            points = [search.ask() for _ in range(search.population_size)]
            specs = [_spec_at(rule, point) for point in points]
            found = runner.mean_utilities(specs, _TRACES, known[len(done)][at] if len(done) < len(known) else None)
            search.tell([(point, -float(utility)) for point, utility in zip(points, found, strict=True)])
            generation.append(found.tolist())
        done.append(generation)
        keep(done)
        report(min(1.0, (clock() - began_s) / max(1e-9, seconds)), "")
    specs = [_spec_at(rule, search.mean) for rule, search in zip(rules, searches, strict=True)]
    ending = runner.mean_utilities(specs, 2 * _TRIALS)
    ranked = tuple(specs[at] for at in np.argsort(-ending))
    return Evolved(ranked, dict(zip(portfolio, as_they_are.tolist(), strict=True)), runner.runs, len(done) - 1)


@dataclass(slots=True)
class _Runner:
    """Runs rules on traces that none has met before."""

    task: Task
    draw: DrawTrace
    pool: Executor
    runs: int = 0
    traces: int = 0  # that were met so far

    def mean_utilities(self, specs: Sequence[str], traces: int, known: Sequence[float] | None = None) -> Floats:
        """Return the mean utility of each rule on the next traces; what is known of them already is not run."""
        numbers = range(self.traces, self.traces + traces)
        self.traces += traces
        if known is not None:
            return np.array(known)
        self.runs += len(specs) * traces
        found = run_all(self.task, [parse_policy(spec) for spec in specs], [self.draw(n) for n in numbers], self.pool)
        return np.asarray(found.mean(axis=1))


def _best_of(portfolio: Sequence[str], utilities: Floats) -> list[str]:
    """Return the best rules, the best first; of such as did the same, where others are left, the first alone."""
    ranked = np.argsort(-utilities, kind="stable")
    _, firsts = np.unique(utilities.round(9), return_index=True)
    others = sorted(ranked, key=lambda at: at not in firsts)
    return [portfolio[at] for at in others[:_EVOLVED]]


def _search(rule: str, seed: int) -> Any:
    from cmaes import CMA

    mean = np.resize(default_point(rule), max(2, len(default_point(rule))))  # CMA asks for two numbers at least
    return CMA(mean=mean, sigma=_SIGMA, bounds=np.array([[0.0, 1.0]] * len(mean)), seed=seed)


def run_all(task: Task, policies: Sequence[Policy], traces: Sequence[Any], pool: Executor) -> Floats:
    """Return the utility of each policy on each trace, float64 [policies, traces]."""
    jobs = [pool.submit(run_policy, task, policy, trace) for policy in policies for trace in traces]
    found = [job.result()["utility"] or 0.0 for job in jobs]
    return np.array(found).reshape(len(policies), len(traces))


def _spec_at(rule: str, point: Sequence[float]) -> str:
    inside = np.clip(point, 0.0, 1.0).tolist()
    return spec_at(rule, inside[: len(default_point(rule))])
