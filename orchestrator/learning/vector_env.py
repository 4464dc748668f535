"""A batch of worlds as stable-baselines3 wants it.

Worlds next to each other, ``replicas`` of them, play the same task and trace (common random numbers), begin it together
and wait for each other at its end; so what differs between them is what the policy did. Rewards come as [worlds, 4]
with the time that passed behind them, which ``ObjectivesBuffer`` takes, or summed by preference for an algorithm that
knows no more. They are divided by the requests of a deadline's time, so that what is to come, which counts by time, is
of one size in a world of ten requests a deadline and in one of a thousand.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv

from orchestrator.learning.curriculum import Curriculum, Episode
from orchestrator.learning.tasks import requests_per_deadline, utility
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, HOLD_ACTION
from orchestrator.policies.registry import parse_policy
from orchestrator.simulation.rewards import weights_of
from orchestrator.simulation.world_batch import NO_ADVICE, WorldBatch


def base_actions(observations: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return what the base policy would do in each of some observations, [n, OBSERVATION]."""
    lines = observations[:, : feat.ROWS * feat.FEATURES].reshape(len(observations), feat.ROWS, feat.FEATURES)
    chosen = lines[:, :, feat.BASE_CHOICE]
    return np.where(chosen.max(axis=1) > 0, chosen.argmax(axis=1), HOLD_ACTION)


class Ranges:
    """The least and the most of every feature that was seen; what a policy file says of its training."""

    def __init__(self) -> None:
        self.low = np.full(feat.FEATURES + feat.CONTEXT, np.inf, np.float32)
        self.high = np.full(feat.FEATURES + feat.CONTEXT, -np.inf, np.float32)

    def note(self, observations: NDArray[np.float32]) -> None:
        """Take observations in, [n, OBSERVATION]."""
        lines = observations[:, : feat.ROWS * feat.FEATURES].reshape(-1, feat.FEATURES)
        for part, seen in (
            (slice(0, feat.FEATURES), lines[lines[:, feat.PRESENT] > 0]),
            (slice(feat.FEATURES, None), observations[:, -feat.CONTEXT :]),
        ):
            if len(seen):
                self.low[part] = np.minimum(self.low[part], seen.min(axis=0))
                self.high[part] = np.maximum(self.high[part], seen.max(axis=0))


class FleetVecEnv(VecEnv):
    """Worlds that play episodes of a curriculum, for ever; ``replicas``, which divide them, play the same episode.

    ``fleet`` has the servers, widths and batch choices of ppo-paper, whose actions are three numbers and rewards one.
    Without it there are one action, of ppo-slim, and four rewards. The base is that of WorldBatch.
    """

    def __init__(
        self,
        curriculum: Curriculum,
        *,
        worlds: int,
        replicas: int = 1,
        base: str = "lert:slack",
        fleet: tuple[int, int, int] | None = None,
    ) -> None:
        assert worlds % replicas == 0, "replicas divide the worlds"
        spaces = gymnasium.spaces
        space: Any = spaces.Discrete(ACTIONS) if fleet is None else spaces.MultiDiscrete(list(fleet))
        super().__init__(worlds, spaces.Box(-1.0, 1.0, (feat.OBSERVATION,), np.float32), space)
        self.curriculum = curriculum
        self.ranges = Ranges()
        self.advice: NDArray[np.int64] = np.full(worlds, NO_ADVICE)
        self.masks: NDArray[np.bool_] = np.ones((worlds, ACTIONS), np.bool_)
        self.finished: list[tuple[Episode, float]] = []
        self._replicas, self._is_scalar = replicas, fleet is not None
        self._batch = WorldBatch(worlds, base=base, holds_on=fleet is None)
        self._episodes: list[Episode] = []
        self._waiting = np.zeros(worlds, np.bool_)
        self._earned = np.zeros(worlds)
        self._pace = np.ones(worlds)
        self._lengths = np.zeros(worlds, np.int64)
        self.observations: NDArray[np.float32] = np.zeros((worlds, feat.OBSERVATION), np.float32)
        self._actions = np.zeros(worlds, np.int64)

    def reset(self) -> NDArray[np.float32]:
        """Begin new episodes everywhere."""
        self._episodes = []
        for first in range(0, self.num_envs, self._replicas):
            self._begin(first)
        return self._look(np.zeros(self.num_envs, np.bool_))

    def step_async(self, actions: NDArray[np.int64]) -> None:
        """Take the actions of the next step."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]]:
        """Take a step. A world that is done with its episode before its replicas are begins it once more."""
        step = self._batch.step(self._actions.astype(np.int64))
        rewards, ended, elapsed = step.rewards.copy(), step.ended.copy(), step.elapsed.copy()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._lengths += 1
        weights, pace = self._weights(), self._pace[:, None].copy()
        self._earned += (rewards * weights).sum(axis=1)
        for world in np.flatnonzero(ended):
            self._end(int(world), infos[world])
        observations = self._look(ended)
        if self._is_scalar:
            return observations, (rewards * weights * pace).sum(axis=1), ended, infos
        return observations, np.column_stack([rewards * pace, elapsed]), ended, infos

    def close(self) -> None:
        """Do nothing: no resource is held open."""

    def action_masks(self) -> list[NDArray[np.bool_]]:
        """Return what is allowed in each world."""
        return list(self.masks)

    def seeds(self) -> NDArray[np.int64]:
        """Return the seed of each world's episode, int64 [worlds]."""
        return np.repeat([episode.seed for episode in self._episodes], self._replicas).astype(np.int64)

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of each world; there is only the mask, and what every environment has."""
        if attr_name == "action_masks":
            return list(self.masks)
        if attr_name in ("render_mode", "spec"):
            return [None] * self.num_envs
        raise AttributeError(attr_name)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Worlds have no attributes to set."""
        raise AttributeError(attr_name)

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        """Call a method of each world; there is only ``action_masks``."""
        if method_name == "action_masks":
            return self.action_masks()
        raise AttributeError(method_name)

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for each: nothing wraps them."""
        return [False] * self.num_envs

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Return None for each: the curriculum has its own seed."""
        return [None] * self.num_envs

    def _weights(self) -> NDArray[np.float64]:
        preferences = [self._episodes[w // self._replicas].task.preference for w in range(self.num_envs)]
        return np.array([weights_of(preference) for preference in preferences])

    def _begin(self, first: int) -> None:
        """Begin one episode in a group of worlds."""
        episode = self.curriculum.next_episode()
        group = first // self._replicas
        self._episodes[group : group + 1] = [episode]
        for world in range(first, first + self._replicas):
            self._load(world, episode)
            self._waiting[world] = False

    def _load(self, world: int, episode: Episode) -> None:
        self._batch.load(world, episode.task, episode.seed, expert=parse_policy(episode.expert))
        self._earned[world] = self._lengths[world] = 0
        self._pace[world] = 1 / max(1.0, requests_per_deadline(episode.task))

    def _end(self, world: int, info: dict[str, Any]) -> None:
        """Note what an episode earned, and begin the next."""
        first = world - world % self._replicas
        episode = self._episodes[first // self._replicas]
        earned = utility(episode.task, self._batch.totals(world))
        info["episode"] = {"r": earned, "l": int(self._lengths[world]), "t": 0.0}
        info["gap"] = episode.best - earned
        self.finished.append((episode, earned))
        if world == first:
            self.curriculum.note(episode, earned)
        self._waiting[world] = True
        if self._waiting[first : first + self._replicas].all():
            self._begin(first)
        else:
            self._load(world, episode)

    def _look(self, loaded: NDArray[np.bool_]) -> NDArray[np.float32]:
        step = self._batch.settle()
        while step.ended.any():  # a trace without a single choice
            for world in np.flatnonzero(step.ended):
                self._end(int(world), {})
            step = self._batch.settle()
        self.observations = step.observations.copy()
        self.masks, self.advice = step.masks.copy(), step.advice.copy()
        self.ranges.note(self.observations)
        return self.observations
