"""Evolution: the knobs of rules, fitted by CMA-ES (Hansen, arXiv 1604.00772; the package ``cmaes``).

What is searched of a rule is what ``slimsched tune`` searches, as one cube (orchestrator.evaluation.tuning.space). Each
rule of the portfolio, which is every one that binds late, is first tried as it is. What a rule is worth as it is says
little of what it is worth with its knobs fitted, so those that do best are evolved in turns, generation by generation,
and the worse half of them leaves after each third of the time (successive halving, Jamieson & Talwalkar 2016). Of rules
that did the same as they are, as several do while there is little load, one is taken. Every generation meets traces of
its own, all of its candidates the same ones, so nothing is fitted to one trace's luck. What counts in the end is the
mean of the last generations' distribution, which has seen many traces, and not the single candidate that was luckiest
on a few.

The search is deterministic but for the time that it has: given the utilities of its generations again, it is where it
was. So these are all that an interrupted one needs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from orchestrator.evaluation.tuning.space import default_point, spec_at
from orchestrator.learning.groups import DrawTrace
from orchestrator.learning.objective import run_policy
from orchestrator.policies.knobs import SLACK_MARGIN_KNOB
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
_MARGINS: Final = (None, 1.0, 1.6, 2.2)  # slack margins of each rule that PPO may learn on top of; None: its own
_RUNGS: Final = (8, 4, 2)  # rules that are evolved in each part of the time
_TRIALS: Final = 8  # traces that say which of the rules are evolved on
_TRACES: Final = 4  # of a generation
_SIGMA: Final = 0.15  # of the first generation, in the unit cube


Rung = list[list[list[float]]]
"""Utilities of one part of the time: one list of what is ranked before it, then of each generation a list per rule."""


@dataclass(frozen=True, slots=True)
class Evolved:
    """What evolution found.

    Attributes:
        specs: of the rules that were evolved to the end, at the mean of their distributions, the best first.
        runs: how many traces were run in all.
        generations: of each rule that was evolved to the end.
    """

    specs: tuple[str, ...]
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
    history: Sequence[Rung] = (),
    spent_s: float = 0.0,
    keep: Callable[[list[Rung]], None] = lambda history: None,
    report: Callable[[float, str], None] = lambda part, text: None,
    clock: Callable[[], float] = time.monotonic,
) -> Evolved:
    """Return the rules that evolution ends with after so many seconds, and one generation a part at the least.

    What it knew, keeps and reports goes through parameters, so that it knows no files and a test needs none.

    Args:
        task: the fleet, and what is asked of it.
        draw: gives traces.
        seconds: how long, with what ``history`` took.
        seed: of the search.
        pool: threads to run in.
        portfolio: the rules, by their specs without knobs.
        history: utilities of a search that was interrupted, by the parts of the time.
        spent_s: what ``history`` took.
        keep: is called with the history after each generation.
        report: is called with the part of the time that is over and what was found.
        clock: in seconds.
    """
    began_s, done = clock() - spent_s, list[Rung]()
    runner = _Runner(task, draw, pool)
    searches = [_Search(rule, seed + at) for at, rule in enumerate(portfolio)]
    for number, count in enumerate(_RUNGS):
        known = list(history[number]) if number < len(history) else []
        ranked = runner.mean_utilities([each.best for each in searches], _TRIALS, known[0][0] if known else None)
        searches = [searches[at] for at in _best_of(ranked)[:count]]
        done.append([[ranked.tolist()]])
        ends_s, is_known = seconds * (number + 1) / len(_RUNGS), number + 1 < len(history)
        while (generation := len(done[-1])) < max(2, len(known)) or (not is_known and clock() - began_s < ends_s):
            before = known[generation] if generation < len(known) else [None] * len(searches)
            done[-1].append([each.advance(runner, found) for each, found in zip(searches, before, strict=True)])
            keep(done)
            report(min(1.0, (clock() - began_s) / max(1e-9, seconds)), "")
    ending = runner.mean_utilities([each.best for each in searches], 2 * _TRIALS)
    specs = tuple(searches[at].best for at in np.argsort(-ending))
    return Evolved(specs, runner.runs, sum(len(rung) - 1 for rung in done))


def best_rule(task: Task, draw: DrawTrace, pool: Executor, *, portfolio: Sequence[str] = PORTFOLIO) -> str:
    """Return the rule that has the most utility on a few traces, as it is or with another slack margin.

    Args:
        task: the fleet, and what is asked of it.
        draw: gives traces.
        pool: threads to run in.
        portfolio: the rules, by their specs without knobs.
    """
    suffixes = ["" if margin is None else f",{SLACK_MARGIN_KNOB.name}={margin:g}" for margin in _MARGINS]
    specs = [f"{rule}{suffix}" for rule in portfolio for suffix in suffixes]
    return specs[int(_Runner(task, draw, pool).mean_utilities(specs, _TRIALS).argmax())]


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


def _best_of(utilities: Floats) -> list[int]:
    """Return the places of the best, the best first; of such as did the same the first alone."""
    _, firsts = np.unique(utilities.round(9), return_index=True)
    return sorted(firsts.tolist(), key=lambda at: (-utilities[at], at))


class _Search:
    """The search for the knobs of one rule.

    Attributes:
        best: its spec: as it is until it has had a generation, then at the mean of its distribution.
    """

    def __init__(self, rule: str, seed: int) -> None:
        from cmaes import CMA

        self._rule, point = rule, default_point(rule)
        mean = np.resize(point, max(2, len(point)))  # CMA asks for two numbers at least
        self._cma = CMA(mean=mean, sigma=_SIGMA, bounds=np.array([[0.0, 1.0]] * len(mean)), seed=seed)
        self.best = rule

    def advance(self, runner: _Runner, known: Sequence[float] | None) -> list[float]:
        """Return the utilities of a generation, and learn from them."""
        points = [self._cma.ask() for _ in range(self._cma.population_size)]
        found = runner.mean_utilities([self._spec_at(point) for point in points], _TRACES, known)
        self._cma.tell([(point, -float(utility)) for point, utility in zip(points, found, strict=True)])
        self.best = self._spec_at(self._cma.mean)
        return [float(utility) for utility in found]

    def _spec_at(self, point: Any) -> str:
        inside = np.clip(point, 0.0, 1.0).tolist()
        return spec_at(self._rule, inside[: len(default_point(self._rule))])


def run_all(task: Task, policies: Sequence[Policy], traces: Sequence[Any], pool: Executor) -> Floats:
    """Return the utility of each policy on each trace, float64 [policies, traces]."""
    jobs = [pool.submit(run_policy, task, policy, trace) for policy in policies for trace in traces]
    found = [job.result()["utility"] or 0.0 for job in jobs]
    return np.array(found).reshape(len(policies), len(traces))
