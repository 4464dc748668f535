"""Advantages of several objectives: estimated apart, each with a memory of its own, and freed of what arrivals did.

For each objective by itself, by generalised advantage estimation (Schulman et al., arXiv 1506.02438) in time instead of
steps, because choices come as often as arrivals do, and a deadline may hold ten of them or a thousand. With Δ the time
to the next choice in deadlines, γ = exp(−Δ/T) and λ_o = exp(−Δ/L_o),

    δ_t = r_t + γ·V(s_{t+1}) − V(s_t),    A_t = δ_t + γ·λ_o·A_{t+1}.

A rollout that stops in the middle of a trace ends in what the critic expects of the rest. L differs by objective:
accuracy and joules are paid when a batch is sent, so a short memory keeps the noise of others' batches out; whether
somebody is late shows deadlines later.

Then the sum over objectives, which come weighed, is held against what other worlds made of the same arrivals at the
same moment: from each advantage the mean of the group at its time is subtracted (the input-dependent baseline of Mao et
al., ICLR'19, for each time index). A mean over a whole rollout would leave in what a crowd in its middle did to
everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.simulation.rollouts import Rollout

Floats32 = NDArray[np.float32]


def estimate_advantages(rollout: Rollout, values: Floats32, *, horizon: float, memories: Sequence[float]) -> Floats32:
    """Return advantages, float32 [worlds, choices, objectives]; 0 where a world came to no choice.

    Args:
        rollout: with rewards that are weighed.
        values: [worlds, choices + 1, objectives], of what was seen, and behind the last choice of where it led to.
        horizon: T, in deadlines.
        memories: L of each objective, in deadlines.
    """
    places, counts = np.arange(rollout.rewards.shape[1]), rollout.counts[:, None]
    is_choice, is_last = (places < counts)[:, :, None], (places == counts - 1)[:, :, None]
    passed = np.where(is_choice, np.diff(rollout.times)[:, :, None], 0)
    gamma = np.exp(-passed / horizon) * ~(is_last & rollout.ended[:, None, None])
    delta = np.where(is_choice, rollout.rewards + gamma * values[:, 1:] - values[:, :-1], 0)
    kept = gamma * np.exp(-passed / memories) * (is_choice & ~is_last)
    advantages, most = np.zeros_like(rollout.rewards), int(counts.max(initial=0))
    advantages[:, :most] = accumulate(delta[:, :most].swapaxes(0, 1), kept[:, :most].swapaxes(0, 1)).swapaxes(0, 1)
    return advantages


def accumulate(delta: NDArray[Any], kept: NDArray[Any]) -> NDArray[Any]:
    """Return A_t = δ_t + k_t·A_{t+1} along the first axis, where nothing comes behind the last."""
    found, following = np.empty_like(delta), np.zeros(delta.shape[1:], delta.dtype)
    for step in range(len(delta) - 1, -1, -1):
        found[step] = following = delta[step] + kept[step] * following
    return found


def subtract_baselines(advantages: Floats32, rollout: Rollout, *, replicas: int) -> Floats32:
    """Return advantages, [worlds, choices], without the mean of their group at their time.

    ``replicas`` worlds next to each other share a trace. Between two choices of a world its advantage is interpolated.
    """
    centred = np.zeros_like(advantages)
    for first in range(0, len(advantages), replicas):
        group = [world for world in range(first, first + replicas) if rollout.counts[world]]
        for world in group:
            count = rollout.counts[world]
            own = rollout.times[world, :count]
            at_time = [
                np.interp(own, rollout.times[w, : rollout.counts[w]], advantages[w, : rollout.counts[w]]) for w in group
            ]
            centred[world, :count] = advantages[world, :count] - np.mean(at_time, axis=0)
    return centred


def explained_variance(values: Floats32, returns: Floats32) -> float:
    """Return which part of the variance of returns values explain, 1 at the most; 0 where returns do not vary."""
    variance = float(np.var(returns))
    return 1 - float(np.var(returns - values)) / variance if variance > 0 else 0.0


def signal_to_noise(gradients: NDArray[np.float64]) -> float:
    """Return the squared length of a mean gradient over that of its error, from independent parts [parts, numbers].

    0 is noise alone; it may come out below 0, because the error is taken out of the length.
    """
    parts = len(gradients)
    mean = gradients.mean(axis=0)
    error = float(((gradients - mean) ** 2).sum()) / (parts * (parts - 1))
    return (float(mean @ mean) - error) / error if error > 0 else 0.0
