"""PPO for as long as it is given, and the best that it has come to.

What is explored is not what is served: an exploring actor draws, and what is served takes the highest score. So it does
what the base policy would until something has gained more than ``strength`` on it. Long before that an actor has
learned which way is better. So each validation is a line search: the averaged weights are tried with several strengths,
on traces of its own, and the best of all validations is kept. What comes out is the untrained network, which is
its base, unless the best is likely better than that.

An actor that has become surely worse than the best goes back to it, and on from there by other arrivals. Validations
take at most a part of the time, so on large fleets they are rarer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.executors import Executor
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.groups import Groups
from orchestrator.learning.judging import paired, utilities_of
from orchestrator.learning.objective import objective_weights
from orchestrator.learning.ppo.training import Ppo, PpoSettings, Round
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import SLIM, PolicyFile

STRENGTHS: Final = (1.0, 0.3, 0.1)
"""Of the one that is explored with, which a validation tries."""
VALIDATING: Final = 0.25
"""Part of the time that validations take at the most."""
_KEEP_EVERY_S: Final = 30.0

Report = Callable[[float, str], None]
"""Called with the part of the time that is over, and a line of text or none."""


class _Validated(NamedTuple):
    """A policy with its utility on each trace of validations."""

    file: PolicyFile
    utilities: NDArray[np.float64]


def _is_likely_better(one: _Validated, other: _Validated) -> bool:
    """Return whether one is better than the other by more than a standard error, trace by trace."""
    gains = one.utilities - other.utilities
    return bool(gains.mean() > gains.std(ddof=1) / np.sqrt(len(gains)))


class PpoLearner:
    """A network on top of a rule that learns of some traffic; it goes on from what the folder has kept.

    It takes as many parameters as a fit has choices; ``fitting`` alone makes one.

    Args:
        traffic: What is learned from, and validated on.
        base: The rule, by its spec.
        name: Of what the folder keeps of it.
        seconds: How long, by ``clock``; what has to be compiled first is not counted.
        seed: Of everything.
        execute: Runs what is validated.
    """

    def __init__(
        self,
        traffic: Traffic,
        base: str,
        settings: PpoSettings,
        folder: RunFolder,
        name: str,
        *,
        seconds: float,
        seed: int,
        threads: int,
        execute: Executor,
        clock: Callable[[], float],
    ) -> None:
        self._traffic, self._base, self._settings, self._folder, self._name = traffic, base, settings, folder, name
        self._seconds, self._execute, self._clock = seconds, execute, clock
        state = folder.read_state(name)
        if state is not None and state.get("base") != base:
            state = None  # evolution had longer and found another one, of which that network knows nothing
        self._groups = Groups(
            traffic.task,
            traffic.episode,
            base=base,
            replicas=settings.replicas,
            segment=settings.segment,
            choices=settings.choices,
            threads=threads,
            seed=seed + (0 if state is None else int(state["choices"])),
        )
        weights = objective_weights(traffic.task)
        per_deadline = max(1.0, traffic.rate_rps * traffic.task.settings.objectives.deadline_ms / 1e3)
        scale = per_deadline * float(weights.max())
        self._ppo = Ppo(
            self._groups, weights, scale=scale, settings=settings, seed=seed, log=folder.path / "log" / name
        )
        self._validating = traffic.validating()
        self._untrained = self._judge(self._export())
        self._spent_s, self._validating_s, self._began_s = 0.0, 0.0, clock()
        self._best: _Validated | None = None
        if state is not None:
            self._ppo.restore(state)
            self._spent_s = float(state["seconds"])
            self._best = self._of_state(state)

    def run(self, report: Report) -> tuple[PolicyFile, tuple[Round, ...], int]:
        """Return the best, the rounds, and how many choices were learned from, once the time is over."""
        rounds: list[Round] = []
        kept_s = self._clock()
        try:
            is_last = False
            while not is_last:
                rounds.append(self._ppo.round())
                report(self._part, "")
                is_last = self._part >= 1
                if is_last or self._validating_s < VALIDATING * (self._clock() - self._began_s):
                    self._validate(rounds[-1], report)
                if self._best is not None and self._clock() - kept_s > _KEEP_EVERY_S:
                    self._keep()
                    kept_s = self._clock()
            self._keep()
        finally:
            self._ppo.close()
            self._groups.close()
        assert self._best is not None
        file = self._best.file
        if not _is_likely_better(self._best, self._untrained):
            low, high = self._ppo.ranges.known()  # or it would trust itself with nothing
            file = replace(self._untrained.file, low=low, high=high)
        return file, tuple(rounds), self._ppo.choices

    @property
    def _elapsed_s(self) -> float:
        return self._spent_s + self._clock() - self._began_s

    @property
    def _part(self) -> float:
        return min(1.0, self._elapsed_s / max(1e-9, self._seconds))

    def _validate(self, last: Round, report: Report) -> None:
        """Judge the network as it is, and remember it where it is best, or go back to what was."""
        began_s = self._clock()
        file = self._export()
        tried = [self._judge(replace(file, strength=part * self._settings.strength)) for part in STRENGTHS]
        found = max(tried, key=lambda each: each.utilities.mean())
        if self._best is None or _is_likely_better(found, self._best):
            self._best = found
        elif paired(found.utilities, self._best.utilities).high < 0:
            self._ppo.return_to(self._best.file.weights)
        said = f"{last.explained:.0%} of variance explained, gradient signal/noise {last.signal:+.2f}"
        utility, best = found.utilities.mean(), self._best.utilities.mean()
        report(self._part, f"ppo: {self._ppo.choices:,} choices, utility {utility:.4f}, best {best:.4f}; {said}")
        self._validating_s += self._clock() - began_s

    def _judge(self, file: PolicyFile) -> _Validated:
        return _Validated(file, utilities_of(self._traffic, LearnedPolicy(file), self._validating, self._execute))

    def _keep(self) -> None:
        import torch

        assert self._best is not None
        best = {name: torch.as_tensor(array) for name, array in self._best.file.weights.items()}
        strength, utilities = self._best.file.strength, self._best.utilities.tolist()
        kept = {"base": self._base, "seconds": self._elapsed_s, "best": best}
        kept |= {"strength": strength, "utilities": utilities}
        self._folder.write_state(self._name, {**self._ppo.state(), **kept})

    def _of_state(self, state: Mapping[str, Any]) -> _Validated:
        weights = {name: tensor.numpy() for name, tensor in state["best"].items()}
        file = replace(self._export(), weights=weights, strength=float(state["strength"]))
        return _Validated(file, np.array(state["utilities"]))

    def _export(self) -> PolicyFile:
        known = self._ppo.ranges.known()
        return PolicyFile(SLIM, self._base, self._ppo.export_weights(), *known, strength=self._settings.strength)
