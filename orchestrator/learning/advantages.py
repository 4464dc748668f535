"""Advantages of several objectives: estimated apart, each in a unit of its own, weighted last.

For each objective o on its own, by generalised advantage estimation (Schulman et al., arXiv 1506.02438) in time instead
of steps, because choices come as often as arrivals do, and a deadline may hold ten of them or a thousand. With Δ the
time to the next choice in deadlines, γ = exp(−Δ/T) and λ = exp(−Δ/L),

    δ_t = r_t + γ·V(s_{t+1}) − V(s_t),    A_t = δ_t + γ·λ·A_{t+1},    both sums ending with the episode,

then centred within each group of worlds that share a trace, which takes out what the arrivals alone brought about (the
input-dependent baseline of Mao et al., ICLR'19, with the replicas as the baseline), and weighted by the preference that
each observation carries, lateness always by 1. Each objective has a critic of its own and a unit of its own (a
request's share of the range of accuracy, of the deadline, of the joules of the widest width;
orchestrator.simulation.rewards), so none drowns another. They are not divided by their spread in the rollout as
well: that would change what a preference means from rollout to rollout, with how rare lateness happens to be in it.

Last, each group is brought to the same spread, so that an easy scenario counts as much as a hopeless one; but no group
is blown up by more than a third of all spread allows, or noise would be learned where nothing can be gained.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer

from orchestrator.policies.learned import features as feat
from orchestrator.simulation.rewards import OBJECTIVES

Floats = NDArray[np.float32]

_CONTEXT = feat.ROWS * feat.FEATURES  # where it begins in an observation
_PREFERENCE = slice(_CONTEXT + feat.CONTEXT_PREFER_ACCURACY, _CONTEXT + feat.CONTEXT_PREFER_ENERGY + 1)
_LATENESS = 3  # the objective that no preference weighs
_LEAST_SPREAD = 0.3  # of a group, over that of all


def estimate_advantages(
    rewards: Floats,
    values: Floats,
    starts: Floats,
    last_values: Floats,
    last_starts: NDArray[np.bool_],
    *,
    gammas: Floats,
    lambdas: Floats,
) -> Floats:
    """Return advantages, float32 [steps, worlds, objectives].

    Args:
        rewards: [steps, worlds, objectives].
        values: likewise, of the observations that the actions were taken on.
        starts: [steps, worlds], 1 where an episode began with the observation.
        last_values: [worlds, objectives], of the observations behind the last step.
        last_starts: [worlds], whether an episode begins with those.
        gammas: [steps, worlds], discount of what comes after a step.
        lambdas: likewise; see the module.
    """
    advantages = np.zeros_like(rewards)
    following = np.zeros_like(last_values)
    for step in range(len(rewards) - 1, -1, -1):
        is_last = step == len(rewards) - 1
        goes_on = 1 - (last_starts if is_last else starts[step + 1]).astype(np.float32)[:, None]
        next_values = last_values if is_last else values[step + 1]
        gamma = gammas[step][:, None] * goes_on
        delta = rewards[step] + gamma * next_values - values[step]
        following = delta + gamma * lambdas[step][:, None] * following
        advantages[step] = following
    return advantages


def weigh_advantages(advantages: Floats, preferences: Floats, *, replicas: int) -> Floats:
    """Return one advantage a step, float32 [steps, worlds].

    Advantages and preferences, what each objective weighs, are [steps, worlds, objectives]; ``replicas`` worlds next to
    each other share a trace.
    """
    steps, worlds, objectives = advantages.shape
    grouped = advantages.reshape(steps, worlds // replicas, replicas, objectives)
    centred = grouped - grouped.mean(axis=(0, 2), keepdims=True)
    weighed = (centred * preferences.reshape(grouped.shape)).sum(axis=3)
    spread = weighed.std(axis=(0, 2), keepdims=True)
    least = _LEAST_SPREAD * float(np.sqrt((spread**2).mean()))
    scaled: Floats = (weighed / np.sqrt(spread**2 + least**2 + 1e-12)).reshape(steps, worlds)
    return scaled


class ObjectivesBuffer(MaskableRolloutBuffer):
    """A rollout whose rewards, values and returns have a number for each objective.

    ``replicas`` worlds next to each other share a trace; horizon and trace are T and L of the module, in deadlines.
    """

    def __init__(self, *args: Any, replicas: int = 1, horizon: float = 5.0, trace: float = 1.0, **kwargs: Any) -> None:
        self._replicas, self._horizon, self._trace = replicas, horizon, trace
        super().__init__(*args, **kwargs)

    def reset(self) -> None:
        """Forget the rollout."""
        super().reset()
        shape = (self.buffer_size, self.n_envs, len(OBJECTIVES))
        self._objective_rewards = np.zeros(shape, np.float32)
        self._objective_values = np.zeros(shape, np.float32)
        self._elapsed = np.zeros(shape[:2], np.float32)

    def add(  # type: ignore[override]
        self,
        obs: Any,
        action: Any,
        reward: Any,
        episode_start: Any,
        value: torch.Tensor,
        log_prob: torch.Tensor,
        **kwargs: Any,
    ) -> None:
        """Keep a step; values are [worlds, objectives], rewards too, with the time that passed behind them."""
        self._objective_rewards[self.pos] = reward[:, : len(OBJECTIVES)]
        self._elapsed[self.pos] = reward[:, len(OBJECTIVES)]
        self._objective_values[self.pos] = value.detach().cpu().numpy()
        super().add(obs, action, reward.sum(axis=1), episode_start, value[:, 0], log_prob, **kwargs)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[np.bool_]) -> None:
        """Fill in advantages and returns once the rollout is full."""
        advantages = estimate_advantages(
            self._objective_rewards,
            self._objective_values,
            self.episode_starts,
            last_values.detach().cpu().numpy(),
            dones,
            gammas=np.exp(-self._elapsed / self._horizon),
            lambdas=np.exp(-self._elapsed / self._trace),
        )
        weights = np.ones_like(advantages)
        weights[..., :_LATENESS] = self.observations[..., _PREFERENCE]
        self.advantages = weigh_advantages(advantages, weights, replicas=self._replicas)
        self.values = self._objective_values
        self.returns = advantages + self._objective_values
