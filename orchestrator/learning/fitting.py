"""A policy fitted to one fleet and its traffic: found by evolution and by PPO, and promoted only when it is better.

Evolution and PPO get the same time and the same cores: evolution from the rules as they are, PPO on top of the best of
these. Then PPO learns as long again on top of the best that was evolved. All stand side by side on traffic that nobody
learned from, beside the policy in force and the rules as they are. The best of them is held against the policy in force
on traffic that nothing was chosen by (``judging``). It is promoted when the mean difference is above 0 with all of its
95 % interval; else the policy in force stays, and the report says why.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np

from orchestrator.executors import Executor, run_on
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.evolution import PORTFOLIO, Evolved, Rung, best_rule, evolve
from orchestrator.learning.judging import Candidate, JudgedPolicy, judge, promote
from orchestrator.learning.learner import PpoLearner
from orchestrator.learning.ppo.training import PpoSettings, Round
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import RULE, PolicyFile, write_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.scenario.digest import digest_scenario

_KEEP_EVERY_S: Final = 30.0
_JUDGING: Final = 0.2  # of a learner's time, roughly
EVOLUTION: Final = "evolution"
PPO: Final = "ppo"
"""By itself, on top of a rule as it is."""
PPO_EVOLVED: Final = "ppo-evolved"
"""On top of the best rule that was evolved."""

Report = Callable[[float, str], None]
"""Called with the part of the work that is done, and a line of text or none."""
Clock = Callable[[], float]
"""Returns seconds."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What a fit is made of.

    Attributes:
        present: the policy in force, by its spec; what is promoted must be better than it.
        seconds: that each learner has: evolution, PPO, and PPO on top of evolution.
        learners: EVOLUTION and PPO, or one of them alone.
    """

    present: str
    seconds: float = 120.0
    seed: int = 0
    threads: int = 2
    learners: tuple[str, ...] = (EVOLUTION, PPO)
    ppo: PpoSettings = field(default_factory=PpoSettings)


@dataclass(frozen=True, slots=True)
class Learned:
    """What PPO did.

    Attributes:
        origin: PPO or PPO_EVOLVED.
        base: the rule that it learned on top of.
        file: the best that it came to.
        choices: that it learned from, those before an interruption too.
    """

    origin: str
    base: str
    file: PolicyFile
    rounds: tuple[Round, ...]
    choices: int


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a fit.

    Attributes:
        candidates: all, the best by the traces that choose first.
        promoted: the one to serve; None: the one in force stays.
        why: in words.
        evolved, learned: what evolution and PPO did; None and empty where they were not asked.
        seconds: all of it took.
    """

    candidates: tuple[Candidate, ...]
    promoted: Candidate | None
    why: str
    evolved: Evolved | None
    learned: tuple[Learned, ...]
    seconds: float


def fit(
    traffic: Traffic,
    settings: FitSettings,
    folder: RunFolder,
    *,
    report: Report = lambda part, text: None,
    clock: Clock = time.monotonic,
    execute: Executor | None = None,
) -> Fit:
    """Return what evolution and PPO make of some traffic, and whether it is better than what is in force.

    Both have their time by ``clock``; by processor time it is the same beside other work. ``execute`` runs what all are
    judged by; None: threads of this process.

    Raises:
        ConfigError: when the policy in force or the state in the folder can't be used.
    """
    began_s = time.monotonic()
    present = parse_policy(settings.present)
    phases, done = len(settings.learners) + (len(settings.learners) > 1), 0

    def tell(part: float, text: str) -> None:
        report((done + part) / (phases + _JUDGING), text)

    with ThreadPoolExecutor(settings.threads, thread_name_prefix="fit") as pool:
        evolved, bases = None, dict[str, str]()
        if EVOLUTION in settings.learners:
            evolved = _evolve(traffic, settings, folder, pool, tell, clock)
            done += 1
        if PPO in settings.learners:
            tell(0.0, f"which of {len(PORTFOLIO)} rules ppo begins as")
            bases[PPO] = best_rule(traffic.task, traffic.fit, pool)
            if evolved is not None:
                bases[PPO_EVOLVED] = evolved.specs[0]
        learned: list[Learned] = []
        for origin, rule in bases.items():
            learner = PpoLearner(
                traffic,
                rule,
                settings.ppo,
                folder,
                origin,
                seconds=settings.seconds,
                seed=settings.seed,
                threads=settings.threads,
                execute=run_on(pool, lambda: settings.threads),
                clock=clock,
            )
            file, rounds, choices = learner.run(tell)
            file = replace(file, provenance={"settings": asdict(settings), "choices": choices, **_versions()})
            learned.append(Learned(origin, rule, file, rounds, choices))
            done += 1
        entries = [JudgedPolicy("in force", settings.present, present)]
        for origin, specs in (("rule", PORTFOLIO), (EVOLUTION, evolved.specs if evolved else ())):
            for spec in specs:
                if spec != settings.present:
                    entries.append(JudgedPolicy(origin, spec, parse_policy(spec), rule_file(spec)))
        entries += [JudgedPolicy(each.origin, each.origin, LearnedPolicy(each.file), each.file) for each in learned]
        candidates = judge(traffic, entries, execute or run_on(pool, lambda: settings.threads))
        report(1.0, "")
    promoted, why = promote(candidates)
    return Fit(candidates, promoted, why, evolved, tuple(learned), time.monotonic() - began_s)


def write_promoted(path: Path, promoted: Candidate) -> None:
    """Write the policy file of a candidate that is promoted; raises ConfigError when it can't be written."""
    assert promoted.file is not None, "who is in force is never promoted"
    write_policy_file(path, promoted.file)


@dataclass(frozen=True, slots=True)
class _Kept:
    """How far an evolution has come, as it is kept: the utilities that it has found, and what that took."""

    utilities: list[Rung] = field(default_factory=list)
    seconds: float = 0.0


def _evolve(
    traffic: Traffic,
    settings: FitSettings,
    folder: RunFolder,
    pool: ThreadPoolExecutor,
    report: Report,
    clock: Clock,
) -> Evolved:
    kept = folder.read("rungs", _Kept) or _Kept()
    began_s = clock() - kept.seconds
    kept_s = clock()

    def keep(history: list[Rung]) -> None:
        nonlocal kept_s
        now_s = clock()
        if now_s - kept_s > _KEEP_EVERY_S or now_s - began_s >= settings.seconds:
            kept_s = now_s
            folder.write("rungs", asdict(_Kept(history, now_s - began_s)))

    found = evolve(
        traffic.task,
        traffic.fit,
        seconds=settings.seconds,
        seed=settings.seed,
        pool=pool,
        history=kept.utilities,
        spent_s=kept.seconds,
        keep=keep,
        report=report,
        clock=clock,
    )
    report(1.0, f"evolution: {found.specs[0]}, after {found.generations} generations, {found.runs:,} runs")
    return found


def rule_file(spec: str) -> PolicyFile:
    """Return the file of a rule with its knobs; raises ConfigError when there is no such rule."""
    parse_policy(spec)
    none = np.zeros(feat.FEATURES + feat.CONTEXT, np.float32)
    return PolicyFile(RULE, spec, {}, none, none, provenance=_versions())


def _versions() -> dict[str, Any]:
    names = ("torch", "stable-baselines3", "sb3-contrib", "cmaes", "numpy")
    return {"versions": {name: version(name) for name in names}, "python": platform.python_version()}


def identity(traffic: Traffic, settings: FitSettings) -> dict[str, Any]:
    """Return what a run is about, as JSON values; one that is about anything else is not resumed."""
    about = asdict(settings)
    del about["seconds"]  # whoever resumes may give it longer
    scenario = digest_scenario(traffic.task.settings, traffic.task.servers)
    return {**about, "scenario": scenario, "arrivals": traffic.digest, "crowding": traffic.task.crowding}
