"""ppo-paper, trained by sb3-contrib's own MaskablePPO and network for the fleet of one scenario.

What is ours and not the paper's, because that is not public to us: the state (orchestrator.policies.learned.features),
the reward (orchestrator.learning.objective), the network and PPO's settings. The weights of the reward are all in which
the paper's two operating points differ: ``Task.preference`` has them, and without any the reward is the utility.
Validation goes by the same reward, at half, once and nearly twice the load, as training does. So many worlds make up a
rollout that most of the time goes into their choices and not into the calls between them.

The likeliest choices swing from one update to the next. So the learning rate falls with the time that is left, and what
is validated, as a router would serve it, are averages of the weights of late.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.callbacks import BaseCallback
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from orchestrator.errors import ConfigError
from orchestrator.learning.objective import earned
from orchestrator.learning.ppo.vector_env import LOADS, FleetVecEnv, at_load
from orchestrator.learning.traffic import Traffic
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import Floats32
from orchestrator.policies.learned.paper import LAYER
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PAPER, PolicyFile
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Policy
from orchestrator.simulation.rewards import Task

_BASE = "lert:slack"
_WORLDS, _STEPS, _BATCH = 128, 128, 2048  # of a rollout and an update
_LEARNING_RATE, _LEAST_LEARNING_RATE = 1e-3, 1e-5
_VALIDATE_EVERY = 20  # rollouts
_KEPT = 0.8  # of averaged weights, by each update
_HELD_OUT = 3  # windows at each load


def paper_fleet(task: Task) -> tuple[int, int, int]:
    """Return how many servers, widths and batch choices ppo-paper takes from.

    Raises:
        ConfigError: when it can't see them all at once, or there are several families.
    """
    if task.settings.families:
        raise ConfigError(
            f"{task.settings.name} has several families and ppo-paper is of one; fit with --policy fitted, or leave "
            "out the others"
        )
    widths = {m.width for s in task.servers for m in s.models}
    most = max(m.max_batch_size for s in task.servers for m in s.models)
    if len(task.servers) * len(widths) > feat.ROWS:
        raise ConfigError(
            f"{task.settings.name} has {len(task.servers)} servers of {len(widths)} widths; ppo-paper sees at most "
            f"{feat.ROWS} pairs, so take a smaller fleet or fit with --policy fitted"
        )
    return len(task.servers), len(widths), int(math.log2(most)) + 1


def train_paper(
    traffic: Traffic,
    weights: tuple[float, float, float] | None = None,
    *,
    seconds: float,
    seed: int,
    report: Callable[[float, str], None] = lambda part, text: None,
) -> PolicyFile:
    """Return the ppo-paper that was best on traces that are not learned from, after so long and one rollout at least.

    ``weights`` are of accuracy, latency and energy in the reward, scaled to add up to 1; None: the reward is utility.

    Raises:
        ConfigError: when the fleet is too large, or all weights are 0.
    """
    task = traffic.task
    if weights is not None:
        task = Task(task.settings, task.servers, _scaled(weights))
    fleet = paper_fleet(task)
    env = FleetVecEnv(task, fleet, worlds=_WORLDS, base=_BASE, seed=seed)
    env.reset()
    env.step(np.zeros((_WORLDS, len(fleet)), np.int64))  # what has to be compiled is no learning
    part = partial(_part, time.monotonic(), seconds)
    model = MaskablePPO(
        "MlpPolicy",
        env,
        learning_rate=lambda _: max(_LEAST_LEARNING_RATE, _LEARNING_RATE * (1 - part())),
        n_steps=_STEPS,
        batch_size=_BATCH,
        n_epochs=4,
        target_kl=0.03,
        policy_kwargs={"net_arch": [LAYER, LAYER]},
        seed=seed,
        device="cpu",
    )
    watch = _Watch(model, task, env, fleet, part, {"seed": seed, "seconds": seconds}, report)
    model.learn(2**40, callback=watch)
    watch.validate()
    return watch.judged()


def _part(began_s: float, seconds: float) -> float:
    """Return how much of the time of a training is over, 0..1."""
    return min(1.0, (time.monotonic() - began_s) / max(1e-9, seconds))


def _scaled(weights: tuple[float, float, float]) -> tuple[float, float, float]:
    total = sum(weights)
    if total <= 0:
        raise ConfigError("all weights of the reward are 0; give one that is not")
    accuracy, latency, energy = weights
    return accuracy / total, latency / total, energy / total


class _Watch(BaseCallback):
    """Validates every few rollouts, and ends a training whose time is over."""

    def __init__(
        self,
        model: MaskablePPO,
        task: Task,
        env: FleetVecEnv,
        fleet: tuple[int, int, int],
        part: Callable[[], float],
        settings: Mapping[str, float],
        report: Callable[[float, str], None],
    ) -> None:
        super().__init__()
        self.best: PolicyFile | None = None
        self._model, self._task, self._env, self._fleet, self._report = model, task, env, fleet, report
        self._validation = [Traffic(at_load(task, factor), None) for factor in (LOADS[0], 1.0, LOADS[1])]
        self._made: dict[str, Any] = {"scenario": task.settings.name, "settings": dict(settings)}
        if not math.isnan(sum(task.preference)):
            self._made["reward_weights"] = list(task.preference)
        self._part, self._rollouts, self._reward = part, 0, -math.inf
        mean = get_ema_multi_avg_fn(_KEPT)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(model.policy, multi_avg_fn=mean)

    def validate(self) -> None:
        """Keep the policy when it is the best so far."""
        weights = _export(self._averaged.module)
        made = {"choices": int(self._model.num_timesteps), **self._made}
        widths = tuple(sorted({int(m.width) for s in self._task.servers for m in s.models}))
        ranges = self._env.ranges.known()
        file = PolicyFile(PAPER, _BASE, weights, *ranges, fleet=self._fleet, widths=widths, provenance=made)
        if not math.isnan(sum(self._task.preference)):
            file = replace(file, preference=self._task.preference)
        served = LearnedPolicy(file)
        reward = float(np.mean([earned(at.task, served, at.choosing()[0]) for at in self._validation]))
        if reward > self._reward:
            self.best, self._reward = replace(file, validation={"reward": reward}), reward
        self._report(self._part(), f"ppo-paper: {made['choices']:,} choices, {reward:.4f} a request")

    def judged(self) -> PolicyFile:
        """Return the best, with what it earns above its base on traces that nothing was chosen by."""
        assert self.best is not None
        traces = [(at.task, trace) for at in self._validation for trace in at.held_out()[:_HELD_OUT]]

        def mean_of(policy: Policy) -> float:
            return float(np.mean([earned(task, policy, trace) for task, trace in traces]))

        over_base = mean_of(LearnedPolicy(self.best)) - mean_of(parse_policy(_BASE))
        return replace(self.best, validation={**self.best.validation, "over_base": over_base})

    def _on_step(self) -> bool:
        return self._rollouts == 0 or self._part() < 1

    def _on_rollout_end(self) -> None:
        self._averaged.update_parameters(self._model.policy)
        self._rollouts += 1
        if self._rollouts % _VALIDATE_EVERY == 0:
            self.validate()


def _export(policy: Any) -> dict[str, Floats32]:
    """Return the weights of a policy of stable-baselines3 as a policy file holds them."""
    first, _, second, _ = policy.mlp_extractor.policy_net
    layers = {"first": first, "second": second, "out": policy.action_net}
    weights: dict[str, Floats32] = {}
    for name, layer in layers.items():
        weights[f"{name}.weight"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        weights[f"{name}.bias"] = layer.bias.detach().numpy().copy()
    return weights
