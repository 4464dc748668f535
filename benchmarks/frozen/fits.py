"""What evolution and PPO make of each scenario, each learner with the same processor time on one core.

Fits are kept as they come. Each is what ``slimsched train-router --scenario`` does, with the best single policy in
force. Its traces, to learn from, to choose by and to prove oneself on, are of other seeds than those of the judgement.

Beside it every rule that a fit tries has its knobs tuned to the scenario by itself, all with the same time, by CMA-ES
over four traces a generation: a fit has one time for all of them, and what it is held against should be as good as it
can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.evaluation.cases import Case
from orchestrator.executors import Executor
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.evolution import PORTFOLIO, evolve
from orchestrator.learning.fitting import PPO, PPO_EVOLVED, FitSettings, fit, write_promoted
from orchestrator.learning.groups import DrawTrace
from orchestrator.learning.tasks import given_traffic
from orchestrator.policies.learned.policy_file import SLIM
from orchestrator.policies.tables.compiled import SOURCE_DIGEST
from orchestrator.reporting.journal import Journal, differences
from orchestrator.simulation.rewards import Task

_REMEDY = "remove it to begin anew"


@dataclass(frozen=True, slots=True)
class Fitted:
    """What came of a fit; policies by their specs.

    Attributes:
        evolution: The best rule that was evolved.
        ppo: What PPO made of the best rule as it is.
        fitted: What was promoted, or the policy in force.
        origin: "evolution", "ppo", "ppo-evolved", "rule" or "in force".
        tuned: Each rule with the knobs that were tuned to the scenario, by the rule.
        generations, runs: Of evolution.
        choices: That PPO learned from by itself.
        seconds: That all of it took by the clock.
    """

    evolution: str
    ppo: str
    fitted: str
    origin: str
    tuned: Mapping[str, str]
    generations: int
    runs: int
    choices: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Budget:
    """Processor time, in seconds.

    Attributes:
        learner: Of each learner of a fit.
        rule: Of each rule that is tuned by itself.
    """

    learner: float
    rule: float


def fit_all(
    cases: Sequence[Case], present: str, *, budget: Budget, folder: Path, execute: Executor, say: Callable[[str], None]
) -> Mapping[str, Fitted]:
    """Return what was fitted to the scenario of each case, by its stem.

    What a folder holds already of fits with the same policy in force, time and code is not done again.

    Raises:
        ConfigError: when it holds others.
    """
    found: dict[str, Fitted] = {}
    binding = {"present": present, **asdict(budget), "code": SOURCE_DIGEST}
    digests = {case.stem: case.digest for case in cases}

    def replay(number: int, values: dict[str, Any]) -> None:
        if number > 1:
            stem, digest = values.pop("scenario"), values.pop("digest")
            if digests.get(stem) == digest:
                found[stem] = Fitted(**values)
            return
        for key, was, now in differences(values, binding):
            raise ConfigError(f"{path} was begun with {key} = {was}, now it is {now}; {_REMEDY}")

    path = folder / "fits.jsonl"
    with Journal(path, replay, remedy=_REMEDY) as journal:
        if journal.is_new:
            journal.write(binding)
        missing = [case for case in cases if case.stem not in found]
        for case, fitted in execute(partial(_fit, present, budget, folder), missing):
            found[case.stem] = fitted
            journal.write({"scenario": case.stem, "digest": case.digest, **asdict(fitted)})
            say(f"{case.stem}: {fitted.origin} {fitted.fitted}; {fitted.runs:,} runs, {fitted.choices:,} choices")
    return found


def tune(task: Task, draw: DrawTrace, rules: Sequence[str], *, seconds: float) -> dict[str, str]:
    """Return each rule with the knobs that so much processor time has found for it, one generation at the least."""
    with ThreadPoolExecutor(1) as pool:
        return {
            rule: evolve(
                task, draw, seconds=seconds, seed=0, pool=pool, portfolio=(rule,), clock=time.process_time
            ).specs[0]
            for rule in rules
        }


def _fit(present: str, budget: Budget, folder: Path, case: Case) -> Fitted:
    traffic = given_traffic(case.path, None, None)
    settings = FitSettings(present, seconds=budget.learner, threads=1)
    run = RunFolder(folder / "run" / case.stem, {}, resume=True, restart=False)
    run.end()  # a fit that was interrupted begins anew, so that its budget is what it says
    result = fit(traffic, settings, run, clock=time.process_time)
    run.end()
    assert result.evolved is not None
    promoted, specs = result.promoted, dict[str, str]()
    for learned in result.candidates:
        if learned.origin in (PPO, PPO_EVOLVED):
            file = folder / f"{case.stem}-{learned.origin}.npz"
            write_promoted(file, learned)
            specs[learned.origin] = f"{SLIM}:{file}"
    spec = present if promoted is None else specs.get(promoted.origin, promoted.spec)
    return Fitted(
        evolution=result.evolved.specs[0],
        ppo=specs[PPO],
        fitted=spec,
        origin="in force" if promoted is None else promoted.origin,
        tuned=tune(traffic.task, traffic.fit, PORTFOLIO, seconds=budget.rule),
        generations=result.evolved.generations,
        runs=result.evolved.runs,
        choices=sum(each.choices for each in result.learned if each.origin == PPO),
        seconds=round(result.seconds, 1),
    )
