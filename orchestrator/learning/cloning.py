"""Behaviour cloning: before it explores, a policy learns to do what the best heuristic of each scenario does.

Vanilla PPO loses to queueing heuristics by orders of magnitude where it begins from nothing (QGym, arXiv 2410.06170); a
residual on one heuristic begins as good as that one, and cloning the best of several, scenario by scenario, begins it
better. Demonstrations are collected in rounds (DAgger: Ross et al., AISTATS'11, arXiv 1011.0686): in the first, half of
the worlds are run by their expert and half by the base policy; in those that follow, half by the policy as it has
become, whose states else drift off from all that it was shown, however well it repeats its expert in his own.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from orchestrator.files import write_atomically
from orchestrator.learning.networks import ScoringNet
from orchestrator.learning.vector_env import FleetVecEnv, base_actions
from orchestrator.simulation.world_batch import NO_ADVICE

_KEPT = 1 / 8
_CAUTION = 3.0
"""Weight of a demonstration in which the expert does as the base policy: to depart must be thrice as likely right, for
a wrong departure costs more than one that is missed."""
_MASKED = -1e8  # as sb3-contrib masks


@dataclass(frozen=True, slots=True)
class Demonstrations:
    """Choices that experts made, with what they saw.

    Attributes:
        episodes: int64 [n], the seed of each one's world.
        observations: float32 [n, OBSERVATION].
        masks: bool [n, ACTIONS].
        actions: int64 [n].
    """

    episodes: NDArray[np.int64]
    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]


def collect_demonstrations(env: FleetVecEnv, count: int, *, seed: int, net: ScoringNet | None = None) -> Demonstrations:
    """Return at least so many choices with what the expert of their world would do.

    Choices that follow each other are alike, so only a part of them is kept: as many demonstrations are then of more
    worlds. The seed draws who runs which world; ``net`` runs those that their expert does not, without it the base
    policy.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xB0C]))
    kept: list[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_], NDArray[np.int64]]] = []
    have = 0
    follows = rng.random(env.num_envs) < 0.5
    while have < count:
        known = env.advice != NO_ADVICE
        taken = known & (rng.random(env.num_envs) < _KEPT)
        kept.append(
            (env.seeds()[taken], env.observations[taken].copy(), env.masks[taken].copy(), env.advice[taken].copy())
        )
        have += int(taken.sum())
        own = base_actions(env.observations) if net is None else _choices(net, env.observations, env.masks)
        actions = np.where(known & follows, env.advice, own)
        _, _, ended, _ = env.step(actions)
        follows = np.where(ended, rng.random(env.num_envs) < 0.5, follows)
    return Demonstrations(*(np.concatenate(parts) for parts in zip(*kept, strict=True)))


def write_demonstrations(path: Path, demonstrations: Demonstrations) -> None:
    """Write demonstrations to a file, as a whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{name: getattr(demonstrations, name) for name in Demonstrations.__dataclass_fields__})
    write_atomically(path, buffer.getvalue())


def read_demonstrations(path: Path) -> Demonstrations:
    """Return the demonstrations of a file that ``write_demonstrations`` wrote."""
    with np.load(path, allow_pickle=False) as arrays:
        return Demonstrations(**arrays)


def joined(parts: Sequence[Demonstrations]) -> Demonstrations:
    """Return the demonstrations of all rounds."""
    names = Demonstrations.__dataclass_fields__
    return Demonstrations(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def held_out(episodes: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return which demonstrations are of a tenth of the worlds, drawn: a seed's own digits say what it draws."""
    worlds = np.unique(episodes)
    return np.isin(episodes, rng.permutation(worlds)[: len(worlds) // 10])


def clone(
    net: ScoringNet,
    demonstrations: Demonstrations,
    *,
    epochs: int,
    seed: int,
    learning_rate: float = 1e-3,
    batch_size: int = 512,
    report: Callable[[int, float, float], None] = lambda epoch, loss, agreement: None,
) -> float:
    """Train a network to do as the experts did; return the share of held-out demonstrations that it then repeats.

    The network is changed in place, by Adam. Demonstrations of a tenth of the worlds are held out; an epoch is a pass
    over all others, in an order by the seed, and after it ``report`` is called with its number, loss and agreement.
    """
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xC10E]))
    is_held = held_out(demonstrations.episodes, rng)
    held, used = np.flatnonzero(is_held), np.flatnonzero(~is_held)
    is_base = base_actions(demonstrations.observations) == demonstrations.actions
    optimizer = torch.optim.Adam(net.parameters(), lr=learning_rate)
    agreement = _agreement(net, demonstrations, held)
    for epoch in range(epochs):
        total = 0.0
        rng.shuffle(used)
        for first in range(0, len(used), batch_size):
            part = used[first : first + batch_size]
            scores = _scores(net, demonstrations.observations[part], demonstrations.masks[part])
            losses = torch.nn.functional.cross_entropy(
                scores, torch.as_tensor(demonstrations.actions[part]), reduction="none"
            )
            weights = torch.as_tensor(np.where(is_base[part], _CAUTION, 1.0).astype(np.float32))
            loss = (losses * weights).sum() / weights.sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call, unused-ignore]
            optimizer.step()
            total += float(loss.detach()) * len(part)
        agreement = _agreement(net, demonstrations, held)
        report(epoch, total / max(1, len(used)), agreement)
    return agreement


def _scores(net: ScoringNet, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> torch.Tensor:
    scores: torch.Tensor = net(torch.as_tensor(observations))
    return scores.masked_fill(~torch.as_tensor(masks), _MASKED)


def _choices(net: ScoringNet, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    with torch.no_grad():
        chosen: NDArray[np.int64] = _scores(net, observations, masks).argmax(dim=1).numpy()
    return chosen


def _agreement(net: ScoringNet, demonstrations: Demonstrations, part: NDArray[np.int64]) -> float:
    if not len(part):
        return 1.0
    chosen = _choices(net, demonstrations.observations[part], demonstrations.masks[part])
    return float((chosen == demonstrations.actions[part]).mean())
