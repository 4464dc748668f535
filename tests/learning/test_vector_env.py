"""Worlds to learn in, as an algorithm from outside meets them."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.learning.curriculum import Curriculum
from orchestrator.learning.tasks import requests_per_deadline, utility
from orchestrator.learning.vector_env import FleetVecEnv
from orchestrator.policies.learned.actions import ACTIONS
from orchestrator.policies.learned.features import OBSERVATION
from orchestrator.simulation.rewards import weights_of
from orchestrator.simulation.world_batch import WorldBatch
from tests.simulation.test_world_batch import task


def env(**values: object) -> FleetVecEnv:
    return FleetVecEnv(Curriculum(3, only=task(requests=60)), worlds=2, **values)  # type: ignore[arg-type]


def test_every_observation_lies_in_the_declared_space_and_every_allowed_action_does() -> None:
    made, rng = env(), np.random.default_rng(0)
    observations = made.reset()
    for _ in range(200):
        assert observations.shape == (2, OBSERVATION)
        assert all(made.observation_space.contains(observation) for observation in observations)
        masks = np.array(made.action_masks())
        assert masks.shape == (2, ACTIONS)
        actions = np.array([rng.choice(np.flatnonzero(mask)) for mask in masks])
        assert all(made.action_space.contains(action) for action in actions)
        observations, rewards, ended, infos = made.step(actions)
        assert np.isfinite(rewards).all()
        assert [bool(info) for info in infos] == list(ended)
    made.close()


def test_equal_seeds_and_actions_are_the_same_episodes_to_the_bit() -> None:
    runs = []
    for _ in range(2):
        made = env()
        seen = [made.reset()]
        for _ in range(100):
            observations, rewards, _, _ = made.step(made.advice.clip(0))
            seen += [observations, rewards]
        runs.append(seen)
    for one, other in zip(*runs, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_episode_ends_with_what_it_earned_and_a_scalar_reward_weighs_its_objectives() -> None:
    made, given = env(fleet=(3, 3, 4)), task(requests=60)
    made.reset()
    seeds = made.seeds()
    beside = WorldBatch(2)
    for world in range(2):
        beside.load(world, given, int(seeds[world]))
    step, order = beside.settle(), np.array([[0, 0, 3], [1, 1, 0]])
    ended, earned = np.zeros(2, bool), np.full(2, np.nan)
    while not ended.all():
        _, rewards, now_ended, infos = made.step(order)
        step = beside.step(order)
        running = ~ended
        expected = step.rewards @ np.array(weights_of(given.preference)) / requests_per_deadline(given)
        assert rewards[running] == pytest.approx(expected[running])
        assert (now_ended[running] == step.ended[running]).all()
        for world in np.flatnonzero(running & now_ended):
            earned[world] = infos[world]["episode"]["r"]
        ended |= now_ended
    assert earned == pytest.approx([utility(given, beside.totals(world)) for world in range(2)])
