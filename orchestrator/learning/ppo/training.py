"""PPO on rollouts of the compiled simulator: MaskablePPO of sb3-contrib, fed with buffers that it has not filled.

A round collects a rollout (``groups``), values it by the critic, estimates advantages (``advantages``) and lets
MaskablePPO update. Meanwhile the next rollout is collected, by the network as it was before: what it explores is one
update old, and PPO weighs it by how likely its choices were then.

The baseline goes first: until critic and group together explain half of the variance of returns the actor is left as it
is, because its advantages would be the noise of arrivals. The critic alone can't come that far where arrivals rule, for
it sees the state and not what is to come; the group does. Every round says how much both explain, how much the critic
alone, and one in four how much signal there is in the actor's gradient over its noise, measured between parts of the
rollout that have no world in common.

The network begins as its base policy (orchestrator.policies.learned.network), so the first round is no worse than a
rule. What is validated and served are averages of the weights of late (``CandidatePolicy``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.logger import Logger, configure

from orchestrator.learning.groups import Groups
from orchestrator.learning.ppo.advantages import (
    estimate_advantages,
    explained_variance,
    signal_to_noise,
    subtract_baselines,
)
from orchestrator.learning.ppo.networks import CandidatePolicy
from orchestrator.learning.ppo.ranges import Ranges
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import action_count
from orchestrator.policies.learned.network import Floats32
from orchestrator.simulation.rollouts import Rollout

EXPLAINED: Final = 0.5
"""Of the variance of returns, which the baseline must explain before the actor moves."""
_NOTED: Final = 8
"""One choice of so many says what range features have; to look at all would take as long as to collect them."""
_SIGNAL_EVERY: Final = 4  # rounds
_NOISE_PARTS: Final = 8
_NOISE_CHOICES: Final = 256  # of each part


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """What a run is made of.

    Attributes:
        choices: of a rollout, over all worlds.
        replicas: worlds that share a trace.
        segment: deadlines of a rollout.
        horizon: T of the advantages, in deadlines.
        memories: L of each objective, likewise.
        batch: choices of a step of the optimiser.
        epochs: passes over a rollout.
        entropy: weight of the entropy in the loss.
        strength: what the base policy's choice adds to its score.
        averaged: part of the averaged weights that each update keeps.
    """

    choices: int = 4096
    replicas: int = 8
    segment: float = 8.0
    horizon: float = 4.0
    memories: tuple[float, float, float, float] = (0.5, 1.0, 0.5, 3.0)
    batch: int = 512
    epochs: int = 4
    learning_rate: float = 1e-3
    entropy: float = 1e-3
    strength: float = 3.0
    averaged: float = 0.8


@dataclass(frozen=True, slots=True)
class Round:
    """What a round did.

    Attributes:
        choices: that were collected.
        explained: part of the variance of returns that critic and group explained.
        by_critic: that the critic explained alone, before it learned from them.
        signal: of the actor's gradient, over its noise, as it was when it was last measured.
        is_moving: whether the actor was updated too.
        reward: a deadline's weighed rewards over what is usual, mean of the worlds.
        collected_s, took_s: seconds of the rollout, most of them during the update before, and of the whole round.
    """

    choices: int
    explained: float
    by_critic: float
    signal: float
    is_moving: bool
    reward: float
    collected_s: float = field(compare=False)
    took_s: float = field(compare=False)


class Samples(MaskableRolloutBuffer):
    """Choices in any order, of whoever collected them."""

    def fill(self, observations: Any, masks: Any, actions: Any, log_probs: Any, advantages: Any, values: Any) -> None:
        """Take the arrays of a rollout, [choices, …]; values are [2, choices, objectives], expected and returned."""
        self.observations, self.action_masks, self.actions = observations, masks, actions[:, None]
        self.log_probs, self.advantages = log_probs, advantages
        self.values, self.returns = values
        self.buffer_size, self.n_envs, self.mask_dims = len(actions), 1, masks.shape[1]
        self.full = self.generator_ready = True


class Ppo:
    """One run: groups of worlds, actor and critic.

    Args:
        weights: of the rewards, by OBJECTIVES.
        scale: what a deadline's rewards are divided by, so that values are of one size: its requests, times what the
            weights are worth.
        log: a folder for TensorBoard and a CSV file; None: nothing is logged.
    """

    def __init__(
        self, groups: Groups, weights: Floats32, *, scale: float, settings: PpoSettings, seed: int, log: Path | None
    ) -> None:
        self._groups, self._settings = groups, settings
        self._weights = (weights / scale).astype(np.float32)
        self.ranges = Ranges()
        self.choices = 0
        self._is_moving = False
        self._moved, self._last_signal = 0, 0.0
        torch.set_num_threads(1)  # layers are small, and the other cores have the next rollout to collect
        self._model = MaskablePPO(
            CandidatePolicy,
            None,  # type: ignore[arg-type]
            learning_rate=settings.learning_rate,
            n_steps=1,
            batch_size=settings.batch,
            n_epochs=settings.epochs,
            ent_coef=settings.entropy,
            target_kl=0.03,
            normalize_advantage=False,  # they are already
            policy_kwargs={"strength": settings.strength, "optimizer_kwargs": {"eps": 1e-5, "fused": True}},
            rollout_buffer_class=Samples,
            seed=seed,
            device="cpu",
            _init_setup_model=False,
        )
        size, actions = feat.observation_size(groups.lines), action_count(groups.lines)
        self._model.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)
        self._model.action_space, self._model.n_envs = gymnasium.spaces.Discrete(actions), 1
        self._model._setup_model()
        formats = [] if log is None else ["tensorboard", "csv"]
        self._model.set_logger(Logger(None, []) if log is None else configure(str(log), formats))

    @property
    def policy(self) -> CandidatePolicy:
        """Actor and critic."""
        assert isinstance(self._model.policy, CandidatePolicy)
        return self._model.policy

    def export_weights(self) -> dict[str, Floats32]:
        """Return the averaged weights as a policy file holds them."""
        return self.policy.average_net.export_weights()

    def close(self) -> None:
        """End the log."""
        self._model.logger.close()

    def round(self) -> Round:
        """Collect a rollout and update, if there was anything to choose."""
        began_s = time.perf_counter()
        if not self._groups.is_started:
            self._explore()
        rollouts, collected_s = self._groups.finish()
        if not any(rollout.counts.any() for rollout in rollouts):  # nothing to learn from
            return Round(0, 0.0, 0.0, 0.0, self._is_moving, 0.0, collected_s, collected_s)
        parts = [self._prepare(rollout) for rollout in rollouts]
        spans = sum(float(r.times[w, c] - r.times[w, 0]) for r in rollouts for w, c in enumerate(r.counts))
        reward = sum(float(r.rewards[w, :c].sum()) for r in rollouts for w, c in enumerate(r.counts)) / max(1e-9, spans)
        self._explore()
        observations, masks, actions, log_probs, advantages, expected, returns = (
            np.concatenate(arrays) for arrays in zip(*parts, strict=True)
        )
        self.ranges.note(observations[::_NOTED])
        total = returns.sum(axis=1)
        by_critic, explained = (explained_variance(v, total) for v in (expected.sum(axis=1), total - advantages))
        advantages /= max(1e-9, float(advantages.std()))
        self._is_moving = is_moving = self._is_moving or explained >= EXPLAINED
        self.policy.scoring.requires_grad_(is_moving)
        samples = self._model.rollout_buffer
        assert isinstance(samples, Samples)
        samples.fill(observations, masks, actions, log_probs, advantages, (expected, returns))
        if is_moving:
            if self._moved % _SIGNAL_EVERY == 0:
                self._last_signal = self._signal(samples)
            self._moved += 1
        with _flushed_denormals():
            self._model.train()
        if is_moving:
            self.policy.average(self._settings.averaged)
        self.choices += len(actions)
        took_s = time.perf_counter() - began_s
        found = Round(len(actions), explained, by_critic, self._last_signal, is_moving, reward, collected_s, took_s)
        for name in ("explained", "by_critic", "signal", "reward"):
            self._model.logger.record(f"rollout/{name}", getattr(found, name))
        self._model.logger.dump(self.choices)
        return found

    def state(self) -> dict[str, Any]:
        """Return all that a resumed run needs, for torch to save."""
        return {
            "policy": self.policy.state_dict(),
            "optimizer": self.policy.optimizer.state_dict(),
            "ranges": (torch.as_tensor(self.ranges.low), torch.as_tensor(self.ranges.high)),
            "choices": self.choices,
            "is_moving": self._is_moving,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state; worlds begin anew."""
        self.policy.load_state_dict(state["policy"])
        self.policy.optimizer.load_state_dict(state["optimizer"])
        self.ranges.low, self.ranges.high = (tensor.numpy() for tensor in state["ranges"])
        self.choices, self._is_moving = int(state["choices"]), bool(state["is_moving"])

    def return_to(self, weights: Mapping[str, Floats32]) -> None:
        """Go on with an actor of these weights, as a policy file holds them."""
        for net in (self.policy.scoring, self.policy.average_net):
            net.import_weights(weights)

    def _explore(self) -> None:
        """Begin the next rollout; what is learned meanwhile does not reach it."""
        self._groups.start(self.policy.scoring.export_weights(), self._settings.strength)

    def _prepare(self, rollout: Rollout) -> Sequence[NDArray[Any]]:
        """Return the choices of a rollout with advantages and returns, each array [choices, …]."""
        settings, counts = self._settings, rollout.counts
        np.multiply(rollout.rewards, self._weights, out=rollout.rewards)
        places = np.arange(rollout.observations.shape[1])
        is_choice, is_seen = places[:-1] < counts[:, None], places <= counts[:, None]
        seen = rollout.observations[is_seen]
        values = np.zeros((*is_seen.shape, rollout.rewards.shape[2]), np.float32)
        with torch.no_grad():
            values[is_seen] = self.policy.value_net(torch.as_tensor(seen)).numpy()
        advantages = estimate_advantages(rollout, values, horizon=settings.horizon, memories=settings.memories)
        centred = subtract_baselines(advantages.sum(axis=2), rollout, replicas=settings.replicas)
        expected = values[:, :-1][is_choice]
        return (
            rollout.observations[:, :-1][is_choice],
            rollout.masks[:, :-1][is_choice],
            rollout.actions[is_choice],
            rollout.log_probs[is_choice],
            centred[is_choice],
            expected,
            advantages[is_choice] + expected,
        )

    def _signal(self, samples: Samples) -> float:
        """Return the actor's gradient over its noise, from stretches of the rollout that are of other worlds."""
        net, gradients = self.policy.scoring, []
        count = min(_NOISE_CHOICES, len(samples.actions) // _NOISE_PARTS)
        for part in range(_NOISE_PARTS):
            at = slice(part * len(samples.actions) // _NOISE_PARTS, None)
            observations, masks, actions, advantages = (
                torch.as_tensor(array[at][:count])
                for array in (samples.observations, samples.action_masks, samples.actions, samples.advantages)
            )
            scores = net(observations).masked_fill(~masks, -1e8)
            chosen = torch.log_softmax(scores, dim=1).gather(1, actions)[:, 0]
            found = torch.autograd.grad((chosen * advantages).mean(), list(net.parameters()))
            gradients.append(np.concatenate([g.numpy().ravel() for g in found]))
        return signal_to_noise(np.array(gradients, np.float64)) if count else 0.0


@contextmanager
def _flushed_denormals() -> Iterator[None]:
    """Let numbers next to 0 be 0; with Adam's moments of weights that hardly matter steps take ten times as long else.

    It is a state of the whole process, in which others may compute something that needs them.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)
