"""ppo-paper, trained by stable-baselines3's own PPO and network for the fleet of one scenario.

What is ours and not the paper's, because that is not public to us: the state (orchestrator.policies.learned.features),
the reward (orchestrator.learning.objective), the network and PPO's settings.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from orchestrator.errors import ConfigError
from orchestrator.learning.objective import run_policy
from orchestrator.learning.ppo.vector_env import FleetVecEnv
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import Floats32
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PAPER, PolicyFile
from orchestrator.simulation.rewards import Task

_BASE = "lert:slack"
_WORLDS, _STEPS = 32, 256  # of a rollout
_VALIDATE_EVERY = 6  # rollouts
_TRACES = 3  # of those that choose


def paper_fleet(task: Task) -> tuple[int, int, int]:
    """Return how many servers, widths and batch choices ppo-paper takes from.

    Raises:
        ConfigError: when it can't see them all at once.
    """
    widths = {m.width for s in task.servers for m in s.models}
    most = max(m.max_batch_size for s in task.servers for m in s.models)
    if len(task.servers) * len(widths) > feat.ROWS:
        raise ConfigError(
            f"{task.settings.name} has {len(task.servers)} servers of {len(widths)} widths; ppo-paper sees at most "
            f"{feat.ROWS} pairs, so take a smaller fleet or fit with --policy fitted"
        )
    return len(task.servers), len(widths), int(math.log2(most)) + 1


def train_paper(
    traffic: Traffic, *, seconds: float, seed: int, report: Callable[[float, str], None] = lambda part, text: None
) -> PolicyFile:
    """Return the ppo-paper that was best on the traces that choose, after so many seconds and one rollout at least.

    Raises:
        ConfigError: when the fleet is too large.
    """
    fleet = paper_fleet(traffic.task)
    env = FleetVecEnv(traffic.task, fleet, worlds=_WORLDS, base=_BASE, seed=seed)
    settings = {"net_arch": [64, 64]}
    model = PPO("MlpPolicy", env, n_steps=_STEPS, batch_size=512, n_epochs=4, ent_coef=0.005, target_kl=0.03,
                policy_kwargs=settings, seed=seed, device="cpu")  # fmt: skip
    watch = _Watch(traffic, env, fleet, seconds, report)
    model.learn(2**40, callback=watch)
    watch.validate()
    assert watch.best is not None
    return watch.best


class _Watch(BaseCallback):
    """Validates every few rollouts, and ends a training whose time is over."""

    def __init__(
        self,
        traffic: Traffic,
        env: FleetVecEnv,
        fleet: tuple[int, int, int],
        seconds: float,
        report: Callable[[float, str], None],
    ) -> None:
        super().__init__()
        self.best: PolicyFile | None = None
        self._traffic, self._env, self._fleet, self._report = traffic, env, fleet, report
        self._seconds, self._began_s = seconds, time.monotonic()
        self._rollouts, self._utility = 0, -math.inf

    def validate(self) -> None:
        """Keep the policy when it is the best so far."""
        weights = _export(self.model)
        made = {"choices": int(self.model.num_timesteps), "scenario": self._traffic.task.settings.name}
        file = PolicyFile(PAPER, _BASE, weights, *self._env.ranges.known(), fleet=self._fleet, provenance=made)
        runs = [
            run_policy(self._traffic.task, LearnedPolicy(file), trace) for trace in self._traffic.choosing()[:_TRACES]
        ]
        utility = float(np.mean([run["utility"] or 0.0 for run in runs]))
        if utility > self._utility:
            self.best, self._utility = file, utility
        self._report(self._part(), f"ppo-paper: {made['choices']:,} choices, utility {utility:.4f}")

    def _part(self) -> float:
        return min(1.0, (time.monotonic() - self._began_s) / max(1e-9, self._seconds))

    def _on_step(self) -> bool:
        return self._rollouts == 0 or self._part() < 1

    def _on_rollout_end(self) -> None:
        self._rollouts += 1
        if self._rollouts % _VALIDATE_EVERY == 0:
            self.validate()


def _export(model: Any) -> dict[str, Floats32]:
    """Return the weights of a PPO model as a policy file holds them."""
    first, _, second, _ = model.policy.mlp_extractor.policy_net
    layers = {"first": first, "second": second, "out": model.policy.action_net}
    weights: dict[str, Floats32] = {}
    for name, layer in layers.items():
        weights[f"{name}.weight"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        weights[f"{name}.bias"] = layer.bias.detach().numpy().copy()
    return weights
