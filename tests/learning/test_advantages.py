"""Advantages of several objectives, held against a plain reading of their definition."""

from __future__ import annotations

import numpy as np
import pytest

from orchestrator.learning.advantages import estimate_advantages, weigh_advantages

STEPS, WORLDS = 9, 4


def by_definition(
    rewards: np.ndarray,
    values: np.ndarray,
    starts: np.ndarray,
    last: np.ndarray,
    last_starts: np.ndarray,
    gammas: np.ndarray,
    lambdas: np.ndarray,
) -> np.ndarray:
    """Σ_k Π(γλ) δ_{t+k} as far as the episode goes, for each world and objective by itself."""
    found = np.zeros_like(rewards)
    for w in range(WORLDS):
        begins = [*starts[:, w], last_starts[w]]
        all_values = np.concatenate([values[:, w], last[w][None]])
        for t in range(STEPS):
            total, factor = np.zeros(3), 1.0
            for k in range(t, STEPS):
                is_end = begins[k + 1] == 1
                total += factor * (rewards[k, w] + (0 if is_end else gammas[k, w] * all_values[k + 1]) - all_values[k])
                factor *= gammas[k, w] * lambdas[k, w]
                if is_end:
                    break
            found[t, w] = total
    return found


def test_advantages_are_what_their_definition_says_for_every_objective_apart() -> None:
    rng = np.random.default_rng(0)
    rewards, values = rng.standard_normal((2, STEPS, WORLDS, 3))
    starts = (rng.random((STEPS, WORLDS)) < 0.3).astype(float)
    last, last_starts = rng.standard_normal((WORLDS, 3)), np.array([True, False, False, True])
    gammas, lambdas = rng.uniform(0.5, 1, (2, STEPS, WORLDS))
    found = estimate_advantages(
        rewards, values, starts, last, last_starts, gammas=gammas, lambdas=lambdas  # type: ignore[arg-type]
    )  # fmt: skip
    expected = by_definition(rewards, values, starts, last, last_starts, gammas, lambdas)
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_an_easy_scenario_counts_as_much_as_a_hopeless_one_and_nothing_is_made_of_noise() -> None:
    rng = np.random.default_rng(1)
    advantages = rng.standard_normal((200, WORLDS, 3)).astype(np.float32)
    advantages[:, 0] *= 100
    advantages[:, 3] *= 1e-6
    even = np.full_like(advantages, 1 / 3)
    spreads = weigh_advantages(advantages[:, :3], even[:, :3], replicas=1).std(axis=0)
    assert spreads[0] > 0.9
    assert spreads.min() > 0.01  # a hundredth of it before
    assert weigh_advantages(advantages, even, replicas=1)[:, 3].std() < 1e-6


def test_the_preference_weighs_and_keeps_what_the_objectives_are_worth_to_each_other() -> None:
    rng = np.random.default_rng(1)
    advantages = rng.standard_normal((200, 1, 3)).astype(np.float32)
    advantages[..., 1] *= 10  # lateness costs more than all else
    only_energy = np.zeros_like(advantages)
    only_energy[..., 2] = 1
    alone = weigh_advantages(advantages, only_energy, replicas=1)
    assert np.corrcoef(alone.ravel(), advantages[..., 2].ravel())[0, 1] > 0.999
    even = weigh_advantages(advantages, np.full_like(advantages, 1 / 3), replicas=1)
    assert np.corrcoef(even.ravel(), advantages[..., 1].ravel())[0, 1] > 0.97


def test_what_a_trace_brought_about_for_all_its_replicas_is_nobody_s_merit() -> None:
    rng = np.random.default_rng(2)
    own = rng.standard_normal((20, WORLDS, 3)).astype(np.float32)
    luck = np.repeat(np.array([[[5.0], [-7.0]]]), 2, axis=1)  # of the two groups of two
    preferences = np.full_like(own, 1 / 3)
    lucky = weigh_advantages((own + luck).astype(np.float32), preferences, replicas=2)
    np.testing.assert_allclose(lucky, weigh_advantages(own, preferences, replicas=2), atol=1e-4)
    assert lucky.mean() == pytest.approx(0, abs=1e-5)
