"""A policy fitted to one fleet and its traffic: found by evolution and by PPO, and promoted only when it is better.

Evolution and PPO get the same time and the same cores. Then all stand side by side on traffic that nobody learned from:
the policy in force, the rules as they are, the rules that were evolved, and what PPO made of the best of them. The best
of these is held against the policy in force on traffic that nothing was chosen by (``judging``). It is promoted when
the mean difference is above 0 with all of its 95 % interval; else the policy in force stays, and the report says why.
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
from orchestrator.learning.evolution import PORTFOLIO, Evolved, evolve
from orchestrator.learning.groups import Groups
from orchestrator.learning.judging import Candidate, Contender, judge, mean_utility, promote
from orchestrator.learning.objective import objective_weights
from orchestrator.learning.ppo.training import Ppo, PpoSettings, Round
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import RULE, SLIM, PolicyFile, write_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.scenario.settings import digest_scenario

_KEEP_EVERY_S: Final = 30.0
_VALIDATE_EVERY_S: Final = 10.0
_PPO: Final = "ppo"

Report = Callable[[float, str], None]
"""Called with the part of the work that is done, and a line of text or none."""
Clock = Callable[[], float]
"""Returns seconds."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """What a fit is made of.

    Attributes:
        present: the policy in force, by its spec; what is promoted must be better than it.
        seconds: that evolution and PPO have, each.
        learners: which of the two.
    """

    present: str
    seconds: float = 120.0
    seed: int = 0
    threads: int = 2
    learners: tuple[str, ...] = ("evolution", "ppo")
    ppo: PpoSettings = field(default_factory=PpoSettings)


@dataclass(frozen=True, slots=True)
class Fit:
    """What came of a fit.

    Attributes:
        candidates: all, the best by the traces that choose first.
        promoted: the one to serve; None: the one in force stays.
        why: in words.
        evolved, rounds: what the two learners did; None and empty where they were not asked.
        choices: that PPO learned from.
        seconds: all of it took.
    """

    candidates: tuple[Candidate, ...]
    promoted: Candidate | None
    why: str
    evolved: Evolved | None
    rounds: tuple[Round, ...]
    choices: int
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
    shares = len(settings.learners) + 0.2
    with ThreadPoolExecutor(settings.threads, thread_name_prefix="fit") as pool:
        evolved: Evolved | None = None
        if "evolution" in settings.learners:
            evolved = _evolve(traffic, settings, folder, pool, lambda part, text: report(part / shares, text), clock)
        base = PORTFOLIO[0] if evolved is None else max(evolved.portfolio, key=lambda rule: evolved.portfolio[rule])
        learned: PolicyFile | None = None
        rounds: tuple[Round, ...] = ()
        choices = 0
        if _PPO in settings.learners:
            first = (len(settings.learners) - 1) / shares
            learning = _Learning(traffic, settings, folder, base, pool, clock)
            learned, rounds, choices = learning.run(lambda part, text: report(first + part / shares, text))
        contenders = [Contender("in force", settings.present, present)]
        for origin, specs in (("rule", PORTFOLIO), ("evolution", evolved.specs if evolved else ())):
            for spec in specs:
                if spec != settings.present:
                    contenders.append(Contender(origin, spec, parse_policy(spec), _rule_file(spec)))
        if learned is not None:
            contenders.append(Contender(_PPO, _PPO, LearnedPolicy(learned), learned))
        candidates = judge(traffic, contenders, execute or run_on(pool, lambda: settings.threads))
        report(1.0, "")
    promoted, why = promote(candidates)
    return Fit(candidates, promoted, why, evolved, rounds, choices, time.monotonic() - began_s)


def write_promoted(path: Path, promoted: Candidate) -> None:
    """Write the policy file of a candidate that is promoted; raises ConfigError when it can't be written."""
    assert promoted.file is not None, "who is in force is never promoted"
    write_policy_file(path, promoted.file)


def _evolve(
    traffic: Traffic,
    settings: FitSettings,
    folder: RunFolder,
    pool: ThreadPoolExecutor,
    report: Report,
    clock: Clock,
) -> Evolved:
    kept = folder.read("evolution") or {"history": [], "seconds": 0.0}
    began_s = clock()
    kept_s = began_s

    def keep(history: list[list[list[float]]]) -> None:
        nonlocal kept_s
        now_s = clock()
        spent_s = kept["seconds"] + now_s - began_s
        if now_s - kept_s > _KEEP_EVERY_S or spent_s >= settings.seconds:
            kept_s = now_s
            folder.write("evolution", {"history": history, "seconds": spent_s})

    found = evolve(
        traffic.task,
        traffic.fit,
        seconds=max(0.0, settings.seconds - kept["seconds"]),
        seed=settings.seed,
        pool=pool,
        history=kept["history"],
        keep=keep,
        report=report,
        clock=clock,
    )
    report(1.0, f"evolution: {found.specs[0]}, after {found.generations} generations, {found.runs:,} runs")
    return found


class _Learning:
    """PPO as it learns on top of a rule, and what it has validated best; it goes on from what the folder has kept."""

    def __init__(
        self,
        traffic: Traffic,
        settings: FitSettings,
        folder: RunFolder,
        base: str,
        pool: ThreadPoolExecutor,
        clock: Clock,
    ) -> None:
        self._traffic, self._settings, self._folder, self._base = traffic, settings, folder, base
        self._execute = run_on(pool, lambda: settings.threads)
        self._clock = clock
        state, self._began_s = folder.read_state(), clock()
        self._spent_s = 0.0 if state is None else float(state["seconds"])
        self._groups = Groups(
            traffic.task,
            traffic.fit,
            base=base,
            replicas=settings.ppo.replicas,
            segment=settings.ppo.segment,
            choices=settings.ppo.choices,
            threads=settings.threads,
            seed=settings.seed + (0 if state is None else int(state["choices"])),
        )
        weights = objective_weights(traffic.task)
        per_deadline = max(1.0, traffic.rate_rps * traffic.task.settings.objectives.deadline_ms / 1e3)
        scale = per_deadline * float(weights.max())
        log = folder.path / "log"
        self._ppo = Ppo(self._groups, weights, scale=scale, settings=settings.ppo, seed=settings.seed, log=log)
        if state is not None:
            self._ppo.restore(state)
        self._choosing = traffic.choosing()
        self._best, self._best_utility = self._export(), -np.inf
        if state is not None and state["best"]:
            weights_of = {name: tensor.numpy() for name, tensor in state["best"].items()}
            self._best, self._best_utility = replace(self._best, weights=weights_of), float(state["best_utility"])

    def run(self, report: Report) -> tuple[PolicyFile, tuple[Round, ...], int]:
        """Return what was validated best, the rounds, and how many choices were learned from, once the time is over."""
        rounds: list[Round] = []
        kept_s = validated_s = self._clock()
        try:
            while not rounds or self._part < 1:
                rounds.append(self._ppo.round())
                report(self._part, "")
                if self._clock() - validated_s > _VALIDATE_EVERY_S:
                    self._validate(rounds[-1], report)
                    validated_s = self._clock()
                if self._clock() - kept_s > _KEEP_EVERY_S:
                    self._keep()
                    kept_s = self._clock()
            self._validate(rounds[-1], report)
            self._keep()
        finally:
            self._ppo.close()
            self._groups.close()
        return self._best, tuple(rounds), self._ppo.choices

    @property
    def _elapsed_s(self) -> float:
        return self._spent_s + self._clock() - self._began_s

    @property
    def _part(self) -> float:
        return min(1.0, self._elapsed_s / max(1e-9, self._settings.seconds))

    def _validate(self, last: Round, report: Report) -> None:
        """Judge the network as it is, and remember it where it is best."""
        file = self._export()
        utility = mean_utility(self._traffic, LearnedPolicy(file), self._choosing, self._execute)
        if utility > self._best_utility:
            self._best, self._best_utility = file, utility
        said = f"{last.explained:.0%} of variance explained, gradient signal/noise {last.signal:+.2f}"
        found = f"ppo: {self._ppo.choices:,} choices, utility {utility:.4f}, best {self._best_utility:.4f}; {said}"
        report(self._part, found)

    def _keep(self) -> None:
        import torch

        tensors = {name: torch.as_tensor(array) for name, array in self._best.weights.items()}
        best = {"best": tensors, "best_utility": self._best_utility}
        self._folder.write_state({**self._ppo.state(), "seconds": self._elapsed_s, **best})

    def _export(self) -> PolicyFile:
        return PolicyFile(
            SLIM,
            self._base,
            self._ppo.export_weights(),
            *self._ppo.ranges.known(),
            strength=self._settings.ppo.strength,
            provenance={"settings": asdict(self._settings), "choices": self._ppo.choices, **_versions()},
        )


def _rule_file(spec: str) -> PolicyFile:
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
    return {**about, "scenario": scenario, "arrivals": traffic.digest}
