"""How good a policy is on scenarios that it does not learn from, against the heuristics on the very same traces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.learning.curriculum import EXPERTS
from orchestrator.learning.tasks import draw_task, simulate_totals, usual_preference, utility
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PolicyFile
from orchestrator.policies.registry import parse_policy
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.settings import load_scenario

Preference = tuple[float, float, float]

_MIXES: tuple[Preference, ...] = ((0.6, 0.1, 0.3), (0.45, 0.1, 0.45), (0.2, 0.1, 0.7), (0.75, 0.1, 0.15))
_DRAWN_FROM = 2**31
"""Seeds of drawn validation tasks begin here, beyond all that a curriculum draws."""

_DRAWN, _DRAWN_REQUESTS = 12, 600
"""Scenarios that are drawn where none are given, and the requests of each at most."""


@dataclass(frozen=True, slots=True)
class Validation:
    """A validation scenario and the seeds of its traces.

    ``best`` is what the best heuristic, of the name ``expert``, earned a request over all traces, ``base`` what the
    base policy did.
    """

    task: Task
    seeds: tuple[int, ...]
    best: float
    expert: str
    base: float


@dataclass(frozen=True, slots=True)
class Score:
    """What a policy earned a request, mean of the validation scenarios.

    Likewise the differences to what the base policy and the best heuristic of each earned, and the least of the latter.
    """

    earned: float
    over_base: float
    over_best: float
    worst: float


def drawn_tasks(count: int, *, requests: int) -> list[Task]:
    """Return tasks that no curriculum draws."""
    return [draw_task(_DRAWN_FROM + index, requests=requests) for index in range(count)]


def scenario_task(path: Path, *, requests: int | None = None, preference: Preference | None = None) -> Task:
    """Return the task of a scenario file; without a preference with that of orchestrator.learning.tasks.

    Raises:
        ConfigError: when it can't be used.
    """
    settings, servers = load_scenario(path)
    if requests is not None:
        settings = settings.with_workload(requests=requests)
    return Task(settings, servers, usual_preference(servers) if preference is None else preference)


def file_tasks(paths: Sequence[Path], *, requests: int | None = None) -> list[Task]:
    """Return the tasks of scenario files or of folders of them, each with the usual preference and with another.

    The others are four, which take turns.

    Raises:
        ConfigError: when a folder holds none, or a file can't be used.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.glob("*.yaml")) if path.is_dir() else [path]
        if not found:
            raise ConfigError(f"{path} holds no scenario; its files end in .yaml")
        files += found
    return [
        scenario_task(file, requests=requests, preference=preference)
        for at, file in enumerate(files)
        for preference in (None, _MIXES[at % len(_MIXES)])
    ]


def prepare_validation(tasks: Sequence[Task], *, traces: int, base: str) -> list[Validation]:
    """Return the scenarios with what the heuristics earn there, once for all."""
    found = []
    for task in tasks:
        seeds = tuple(range(traces))
        names = dict.fromkeys((base, *EXPERTS))
        earned = {name: _mean_utility(task, parse_policy(name), seeds) for name in names}
        expert = max(earned, key=lambda name: earned[name])
        found.append(Validation(task, seeds, earned[expert], expert, earned[base]))
    return found


def choose_validations(
    paths: Sequence[Path], scenario: Path | None, *, traces: int, base: str, requests: int
) -> list[Validation]:
    """Return the validations of files and folders, else of the one scenario that is trained on, else of drawn ones.

    Each has so many traces, and at most so many requests where it is drawn; ``base`` is validated against.
    """
    if paths:
        tasks = file_tasks(paths, requests=requests)
    elif scenario is not None:
        tasks = [scenario_task(scenario, requests=requests)]
    else:
        tasks = drawn_tasks(_DRAWN, requests=min(_DRAWN_REQUESTS, requests))
    return prepare_validation(tasks, traces=traces, base=base)


def validate(file: PolicyFile, validations: Sequence[Validation]) -> Score:
    """Return the score of a policy as it would be served: weights, masks, ranges and its base outside of them."""
    policy = LearnedPolicy(file)
    earned = np.array([_mean_utility(v.task, policy, v.seeds) for v in validations])
    over_base = earned - np.array([v.base for v in validations])
    over_best = earned - np.array([v.best for v in validations])
    return Score(float(earned.mean()), float(over_base.mean()), float(over_best.mean()), float(over_best.min()))


def _mean_utility(task: Task, policy: Any, seeds: Sequence[int]) -> float:
    return float(np.mean([utility(task, simulate_totals(task, policy, seed)) for seed in seeds]))
