"""Worlds of one fleet as stable-baselines3 wants them: what ppo-paper is trained in.

Its action is three numbers (server, width, batch) and its reward one: what orchestrator.simulation.rewards gives,
weighed by the objective, over the requests of a deadline. Each episode is a trace of its own, at half to nearly twice
the load; of each four one has lulls, and one has surges. A policy is trusted with what it was shown, and what a router
sees on a machine that does other things too is not what a calm simulation shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from orchestrator.learning.objective import objective_weights
from orchestrator.learning.ppo.ranges import Ranges
from orchestrator.learning.traffic import interrupt, rate_of, surge
from orchestrator.policies.learned import features as feat
from orchestrator.simulation.rewards import Task
from orchestrator.simulation.scenario.trace import Trace, draw_trace
from orchestrator.simulation.world_batch import WorldBatch

LOADS: Final = (0.5, 1.8)
"""Least and most load that is trained at, over the task's own."""
_EVERY, _LULL = 20.0, 0.5  # deadlines between lulls or surges at the most, and that the shortest lull lasts
_EVERY_PART = 1 / 3  # of an episode, likewise
_SURGE, _DENSER = (0.25, 2.0), (1.5, 4.0)  # deadlines that a surge lasts, and how much denser it is


def vary_load(task: Task, seed: int) -> Task:
    """Return a task at half to nearly twice its load, by a seed."""
    return at_load(task, float(np.random.default_rng(np.random.SeedSequence([seed, 0x10AD])).uniform(*LOADS)))


def at_load(task: Task, factor: float) -> Task:
    """Return a task at its load times a factor."""
    varied = task.settings.with_workload(load_ratio=task.settings.workload.load_ratio * factor)
    return Task(varied, task.servers, task.preference)


def draw_episode(task: Task, seed: int) -> Trace:
    """Return the trace of an episode; seeds that leave 1 of four have lulls, those that leave 3 surges."""
    trace = draw_trace(task.settings, sorted(task.servers, key=lambda s: s.name), seed)
    deadline_s = task.settings.objectives.deadline_ms / 1e3
    every_s = min(_EVERY * deadline_s, _EVERY_PART * float(trace.arrived_s[-1]))
    random = np.random.default_rng(np.random.SeedSequence([seed, 0x5A9]))
    if seed % 4 == 1:
        return interrupt(trace, every_s=every_s, least_s=_LULL * deadline_s, random=random)
    if seed % 4 == 3:
        lasts_s = min(random.uniform(*_SURGE) * deadline_s, every_s)
        return surge(trace, every_s=every_s, lasts_s=lasts_s, factor=random.uniform(*_DENSER))
    return trace


class FleetVecEnv(VecEnv):
    """Worlds that play one episode after another; ``fleet`` has the servers, widths and batch choices of the action.

    Attributes:
        task, fleet: as given.
        ranges: of all that was seen.
        elapsed: float64 [worlds], how long the last step took in each world, in deadlines; filled anew by each.
    """

    def __init__(self, task: Task, fleet: tuple[int, int, int], *, worlds: int, base: str, seed: int) -> None:
        spaces = gymnasium.spaces
        servers, widths, _ = fleet
        lines = servers * widths
        box = spaces.Box(-1.0, 1.0, (feat.observation_size(lines),), np.float32)
        super().__init__(worlds, box, spaces.MultiDiscrete(list(fleet)))
        self.ranges = Ranges()
        self.elapsed = np.zeros(worlds)
        self.task, self.fleet = task, fleet
        self._batch = WorldBatch(worlds, base=base, holds_on=True, is_apart=True, lines=lines)
        self._rng = np.random.default_rng(np.random.SeedSequence([seed, 0xE9]))
        self._weights = np.zeros((worlds, 4))
        self._actions = np.zeros((worlds, 3), np.int64)

    def reset(self) -> NDArray[np.float32]:
        """Begin new episodes everywhere."""
        for world in range(self.num_envs):
            self._begin(world)
        return self._look()

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]]:
        """Take a step; a world that has ended begins another episode."""
        step = self._batch.step(self._actions.astype(np.int64))
        self.elapsed[:] = step.elapsed
        rewards, ended = (step.rewards * self._weights).sum(axis=1), step.ended.copy()
        for world in np.flatnonzero(ended):
            self._begin(int(world))
        return self._look(), rewards, ended, [{} for _ in range(self.num_envs)]

    def base_choices(self) -> NDArray[np.int64]:
        """Return what the base policy would do in each world, see ``WorldBatch.base_choices``."""
        return self._batch.base_choices(self.fleet)

    def close(self) -> None:
        """Do nothing: no resource is held open."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each world; there is none but what every environment has, and the masks."""
        if attr_name in ("render_mode", "spec"):
            return [None] * self.num_envs
        if attr_name == "action_masks":
            return list(self._batch.allowed_choices(self.fleet))
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Worlds have no attributes to set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Return the masks of each world, bool [servers + widths + batches]; worlds have no other methods."""
        return self.get_attr(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for each: nothing wraps them."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Return None for each: the environment has its own seed."""
        return [None] * self.num_envs

    def _begin(self, world: int) -> None:
        seed = int(self._rng.integers(2**31))
        task = vary_load(self.task, seed)
        pace = max(1.0, rate_of(task) * task.settings.objectives.deadline_ms / 1e3)
        self._weights[world] = objective_weights(task) / pace
        self._batch.load(world, task, draw_episode(task, seed))

    def _look(self) -> NDArray[np.float32]:
        step = self._batch.settle()
        while step.ended.any():  # a trace without a single choice
            for world in np.flatnonzero(step.ended):
                self._begin(int(world))
            step = self._batch.settle()
        observations = self._batch.observations_apart(self.fleet)
        self.ranges.note(observations)
        return observations
