"""Behaviour cloning: before it explores, a policy learns to do what the best heuristic of each scenario does.

Vanilla PPO loses to queueing heuristics by orders of magnitude where it begins from nothing (QGym, arXiv 2410.06170); a
residual on one heuristic begins as good as that one, and cloning the best of several, scenario by scenario, begins it
better. Half of the steps are taken as the base policy takes them, half as the teacher does, so that the states of both
are seen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.learning.networks import ScoringNet
from orchestrator.learning.vector_env import FleetVecEnv
from orchestrator.simulation.world_batch import NO_ADVICE

_MASKED = -1e8  # as sb3-contrib masks


@dataclass(frozen=True, slots=True)
class Lessons:
    """What teachers did.

    Attributes:
        observations: float32 [n, OBSERVATION].
        masks: bool [n, ACTIONS].
        actions: int64 [n].
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]


def collect_lessons(env: FleetVecEnv, count: int, *, seed: int) -> Lessons:
    """Return at least so many choices with what the teacher of their world would do."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xB0C]))
    env.reset()
    kept: list[tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]] = []
    have = 0
    follows = rng.random(env.num_envs) < 0.5
    while have < count:
        known = env.advice != NO_ADVICE
        kept.append((env.observations[known].copy(), env.masks[known].copy(), env.advice[known].copy()))
        have += int(known.sum())
        actions = np.where(known & follows, env.advice, env.base_actions())
        _, _, ended, _ = env.step(actions)
        follows = np.where(ended, rng.random(env.num_envs) < 0.5, follows)
    return Lessons(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))


def clone(
    net: ScoringNet,
    lessons: Lessons,
    *,
    epochs: int,
    seed: int,
    first: int = 0,
    learning_rate: float = 1e-3,
    batch_size: int = 512,
    report: Callable[[int, float, float], None] = lambda epoch, loss, agreement: None,
) -> float:
    """Train a network to do as the teachers did; return the share of held-out lessons that it then repeats.

    Args:
        net: changed in place.
        lessons: a tenth is held out.
        epochs: over all of the others.
        seed: of their order.
        first: epoch, when earlier ones are done.
        learning_rate: of Adam.
        batch_size: of its steps.
        report: is told epoch, loss and agreement.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC10E]))
    order = rng.permutation(len(lessons.actions))
    held, used = order[: len(order) // 10], order[len(order) // 10 :]
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    agreement = _agreement(net, lessons, held)
    for epoch in range(first, epochs):
        total = 0.0
        rng.shuffle(used)
        for first in range(0, len(used), batch_size):
            part = used[first : first + batch_size]
            loss = torch.nn.functional.cross_entropy(
                _scores(net, lessons, part), torch.as_tensor(lessons.actions[part])
            )
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            total += float(loss.detach()) * len(part)
        agreement = _agreement(net, lessons, held)
        report(epoch, total / max(1, len(used)), agreement)
    return agreement


def _scores(net: ScoringNet, lessons: Lessons, part: NDArray[np.int64]) -> torch.Tensor:
    scores: torch.Tensor = net(torch.as_tensor(lessons.observations[part]))
    return scores.masked_fill(~torch.as_tensor(lessons.masks[part]), _MASKED)


def _agreement(net: ScoringNet, lessons: Lessons, part: NDArray[np.int64]) -> float:
    if not len(part):
        return 1.0
    with torch.no_grad():
        chosen = _scores(net, lessons, part).argmax(dim=1).numpy()
    return float((chosen == lessons.actions[part]).mean())
