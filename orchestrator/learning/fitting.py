"""A policy fitted to one fleet and its traffic: found by evolution and by PPO, and promoted only when it is better.

Evolution and PPO get the same time and the same cores. Then all stand side by side on traffic that nobody learned from:
the policy in force, the rules as they are, the rules that were evolved, and what PPO made of the best of them. The best
of these is held against the policy in force on traffic that nothing was chosen by, window by window. It is promoted
when the mean difference is above 0 with all of its 95 % interval; else the policy in force stays, and the report says
why. A window is a unit of the interval, because what happens within one hangs together.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.evolution import PORTFOLIO, Evolved, evolve
from orchestrator.learning.groups import Groups
from orchestrator.learning.objective import FIGURES, objective_weights, run_policy
from orchestrator.learning.ppo.training import Ppo, PpoSettings, Round
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import RULE, SLIM, PolicyFile, write_policy_file
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Policy
from orchestrator.reporting.student import half_interval
from orchestrator.simulation.results import mean_of_known
from orchestrator.simulation.scenario.settings import digest_scenario
from orchestrator.simulation.scenario.trace import Trace

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
        origin: "in force", "rule", "evolution" or "ppo".
        spec: of a rule; of what PPO made "ppo".
        file: what is written where it is promoted; None: it is the one in force.
        chosen_by: mean utility on the traces that choose.
        figures: means on the traces that are held out.
        better_by: mean utility there over that of the policy in force, with its interval.
    """

    origin: str
    spec: str
    file: PolicyFile | None
    chosen_by: float
    figures: dict[str, float | None]
    better_by: Difference


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
) -> Fit:
    """Return what evolution and PPO make of some traffic, and whether it is better than what is in force.

    Both have their time by ``clock``; by processor time it is the same beside other work.

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
        policies: list[tuple[str, str, Policy, PolicyFile | None]] = [("in force", settings.present, present, None)]
        for origin, specs in (("rule", PORTFOLIO), ("evolution", evolved.specs if evolved else ())):
            for spec in specs:
                if spec != settings.present:
                    policies.append((origin, spec, parse_policy(spec), _rule_file(spec)))
        if learned is not None:
            policies.append((_PPO, _PPO, LearnedPolicy(learned), learned))
        candidates = _judge(traffic, policies, pool)
        report(1.0, "")
    promoted, why = promote(candidates)
    return Fit(candidates, promoted, why, evolved, rounds, choices, time.monotonic() - began_s)


def promote(candidates: Sequence[Candidate]) -> tuple[Candidate | None, str]:
    """Return who is promoted of candidates, the best by choice first, and why; None: who is in force stays."""
    best = candidates[0]
    if best.file is None:
        return None, "no candidate was better than the policy in force on the traffic that chooses"
    if not best.better_by.low > 0:
        return None, f"{best.spec} was best, but on held-out traffic it is not surely better: {best.better_by}"
    return best, f"{best.spec} is better on held-out traffic: {best.better_by} of utility"


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
        self._traffic, self._settings, self._folder, self._base, self._pool = traffic, settings, folder, base, pool
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
        utility = float(np.mean(_utilities(self._traffic, LearnedPolicy(file), self._choosing, self._pool)[0]))
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


def _utilities(
    traffic: Traffic, policy: Policy, traces: Sequence[Trace], pool: ThreadPoolExecutor
) -> tuple[NDArray[np.float64], dict[str, float | None]]:
    """Return the utility of a policy on each trace, and the means of its figures."""
    runs = list(pool.map(lambda trace: run_policy(traffic.task, policy, trace), traces))
    figures = {name: mean_of_known([run[name] for run in runs]) for name in ("utility", *FIGURES)}
    return np.array([run["utility"] for run in runs], float), figures


def _judge(
    traffic: Traffic, policies: Sequence[tuple[str, str, Policy, PolicyFile | None]], pool: ThreadPoolExecutor
) -> tuple[Candidate, ...]:
    """Return the candidates, the best by the traces that choose first; the first of ``policies`` is in force."""
    choosing, held_out = traffic.choosing(), traffic.held_out()
    found, in_force = [], np.zeros(0)
    for origin, spec, policy, file in policies:
        chosen_by = float(np.mean(_utilities(traffic, policy, choosing, pool)[0]))
        own, figures = _utilities(traffic, policy, held_out, pool)
        in_force = own if file is None else in_force
        better_by = paired(own, in_force)
        if file is not None:
            file = replace(file, validation={"over_present": better_by, "held_out_windows": len(own), **figures})
        found.append(Candidate(origin, spec, file, chosen_by, figures, better_by))
    return tuple(sorted(found, key=lambda candidate: -candidate.chosen_by))


def paired(own: NDArray[np.float64], other: NDArray[np.float64]) -> Difference:
    """Return the mean of the differences of two policies on the same windows, with its 95 % interval by Student's t."""
    differences = own - other
    mean, half = float(differences.mean()), half_interval(differences.tolist())
    return Difference(mean, mean - half, mean + half)


def identity(traffic: Traffic, settings: FitSettings) -> dict[str, Any]:
    """Return what a run is about, as JSON values; one that is about anything else is not resumed."""
    about = asdict(settings)
    del about["seconds"]  # whoever resumes may give it longer
    scenario = digest_scenario(traffic.task.settings, traffic.task.servers)
    return {**about, "scenario": scenario, "arrivals": traffic.digest}
