"""Advantages of several objectives, held against a plain reading of their definition."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.learning.ppo.advantages import (
    estimate_advantages,
    explained_variance,
    signal_to_noise,
    subtract_baselines,
)
from orchestrator.simulation.rollouts import Rollout, new_rollout

WORLDS, ROOM, HORIZON, MEMORIES = 4, 9, 3.0, (0.5, 1.0, 0.5, 3.0)


def drawn(seed: int = 0) -> tuple[Rollout, np.ndarray[tuple[int, ...], np.dtype[np.float32]]]:
    """A rollout of worlds that came to unlike many choices, and what a critic expects of what they saw."""
    rng = np.random.default_rng(seed)
    rollout = new_rollout(WORLDS, ROOM, lines=1)
    rollout.rewards[:] = rng.standard_normal(rollout.rewards.shape)
    rollout.times[:] = np.cumsum(rng.exponential(0.5, rollout.times.shape), axis=1)
    rollout.counts[:] = [9, 4, 0, 1]
    rollout.ended[:] = [False, True, True, False]
    return rollout, rng.standard_normal((WORLDS, ROOM + 1, 4)).astype(np.float32)


def test_advantages_are_what_their_definition_says_for_every_objective_apart() -> None:
    rollout, values = drawn()
    found = estimate_advantages(rollout, values, horizon=HORIZON, memories=MEMORIES)
    for world in range(WORLDS):
        count = int(rollout.counts[world])
        for objective, memory in enumerate(MEMORIES):
            for first in range(count):
                total, factor = 0.0, 1.0
                for t in range(first, count):
                    passed = rollout.times[world, t + 1] - rollout.times[world, t]
                    gamma = np.exp(-passed / HORIZON)
                    behind = 0.0 if t == count - 1 and rollout.ended[world] else gamma * values[world, t + 1, objective]
                    total += factor * (rollout.rewards[world, t, objective] + behind - values[world, t, objective])
                    factor *= gamma * np.exp(-passed / memory)
                assert found[world, first, objective] == pytest.approx(total, abs=1e-4)
        assert (found[world, count:] == 0).all()


def test_what_a_trace_brought_about_at_a_moment_is_nobody_s_merit() -> None:
    rollout, _ = drawn()
    rollout.counts[:] = ROOM
    rng = np.random.default_rng(1)
    own = rng.standard_normal((WORLDS, ROOM)).astype(np.float32)
    luck = (7 * rollout.times[:, :ROOM]).astype(np.float32)  # the later, the better, whatever is done
    luck[2:] *= -1  # of the other group
    rollout.times[1], rollout.times[3] = rollout.times[0], rollout.times[2]
    luck[1], luck[3] = luck[0], luck[2]
    lucky = subtract_baselines(own + luck, rollout, replicas=2)
    np.testing.assert_allclose(lucky, subtract_baselines(own, rollout, replicas=2), atol=1e-4)
    np.testing.assert_allclose(lucky[0] + lucky[1], 0, atol=1e-4)  # a mean over the group at each time


def test_between_two_choices_a_baseline_is_interpolated_and_worlds_without_choices_do_not_count() -> None:
    rollout, _ = drawn()
    rollout.counts[:] = [2, 1, 0, 1]
    rollout.times[0, :2], rollout.times[1, :1], rollout.times[3, :1] = (0, 4), 1, 9
    advantages = np.zeros((WORLDS, ROOM), np.float32)
    advantages[0, :2], advantages[1, 0], advantages[3, 0] = (8, 0), 10, 3
    found = subtract_baselines(advantages, rollout, replicas=2)
    assert found[1, 0] == pytest.approx(10 - (10 + 6) / 2)  # the other's 8 has fallen to 6
    assert found[0, :2] == pytest.approx([8 - 9, 0 - 5])
    assert found[3, 0] == 0  # its group has no other choice
    assert (found[2] == 0).all()


def test_a_critic_that_knows_explains_all_and_one_that_knows_nothing_nothing() -> None:
    returns = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    assert explained_variance(returns, returns) == 1
    assert explained_variance(np.zeros_like(returns), returns) == pytest.approx(0)
    assert explained_variance(-returns, returns) == pytest.approx(-3, rel=1e-5)
    assert explained_variance(returns, np.ones_like(returns)) == 0


def test_signal_stands_out_of_noise_as_it_is_larger() -> None:
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((8, 4000))
    assert signal_to_noise(noise) == pytest.approx(0, abs=0.2)
    assert signal_to_noise(noise + 1.0) == pytest.approx(8, rel=0.1)  # 4000 of 4000/8
    assert signal_to_noise(np.ones((8, 3))) == 0
