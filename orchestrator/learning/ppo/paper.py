"""ppo-paper, trained by sb3-contrib's own MaskablePPO and network for the fleet of one scenario.

What is ours and not the paper's, because that is not public to us: the state (orchestrator.policies.learned.features),
the reward (orchestrator.learning.objective), the network and PPO's settings. The weights of the reward are all in which
the paper's two operating points differ: ``Task.preference`` has them, and without any the reward is the utility.
Validation goes by the same reward, at half, once and nearly twice the load, as training does. So many worlds make up a
rollout that most of the time goes into their choices and not into the calls between them.

Its base is the rule that earns the most by that reward. The network begins by imitating it, which takes seconds: from
nothing it needs minutes to learn that the quickest idle server is quick. Then the critic goes first: until it has seen
some rollouts the actor is left as it is. Advantages are estimated in time (``TimedBuffer``). What keeps it from
settling on the first thing that works is a price on certainty, which falls to nothing with the time that is left, as
the learning rate does. What is validated, as a router would serve it, are averages of the weights of late.

The folder of the run keeps what is learned twice a minute. A run that goes on from there begins new episodes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from orchestrator.errors import ConfigError
from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.objective import earned
from orchestrator.learning.ppo.advantages import accumulate
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
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.trace import Trace

_WORLDS, _STEPS, _BATCH = 128, 128, 2048  # of a rollout and an update
_LEARNING_RATE, _LEAST_LEARNING_RATE = 1e-3, 1e-5
_ENTROPY = 0.01  # weight of it at first, where advantages have a deviation of 1
HORIZON, MEMORY = 4.0, 0.4  # deadlines, of the advantages
_VALIDATE_EVERY = 20  # rollouts
_KEPT = 0.8  # of averaged weights, by each update
_HELD_OUT = 3  # windows at each load
_IMITATED = 128, 512  # steps of all worlds, least and most; one for each second of the training
_EPOCHS = 16  # over what is imitated
_CRITIC_ALONE = 5  # rollouts
_KEEP_EVERY_S = 30.0


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


def identity(traffic: Traffic, weights: tuple[float, float, float] | None, seed: int) -> dict[str, Any]:
    """Return what a training is about, as JSON values; one that is about anything else is not resumed."""
    scenario = digest_scenario(traffic.task.settings, traffic.task.servers)
    return {"kind": PAPER, "scenario": scenario, "weights": weights, "seed": seed}


def train_paper(
    traffic: Traffic,
    weights: tuple[float, float, float] | None,
    folder: RunFolder,
    *,
    rules: Sequence[str],
    seconds: float,
    seed: int,
    report: Callable[[float, str], None] = lambda part, text: None,
) -> PolicyFile:
    """Return the ppo-paper that was best on traces that are not learned from, after so long and one rollout at least.

    ``weights`` are of accuracy, latency and energy in the reward, scaled to add up to 1; None: the reward is utility.
    The best of ``rules`` by that reward is what it begins as and rests on. It goes on from what ``folder`` has kept.

    Raises:
        ConfigError: when the fleet is too large, all weights are 0, or the folder can't be used.
    """
    task = traffic.task
    if weights is not None:
        task = Task(task.settings, task.servers, _scaled(weights))
    fleet = paper_fleet(task)
    judged_at = [Traffic(at_load(task, factor), None) for factor in (LOADS[0], 1.0, LOADS[1])]
    state = folder.read_state(PAPER)
    if state is None:
        report(0.0, f"which of {len(rules)} rules ppo-paper begins as")
        base, choices, spent_s = _best_of(rules, judged_at), 0, 0.0
        report(0.0, f"ppo-paper: begins as {base}")
    else:
        base, choices, spent_s = str(state["base"]), int(state["choices"]), float(state["seconds"])
        report(0.0, f"ppo-paper: goes on after {choices:,} choices")
    env = FleetVecEnv(task, fleet, worlds=_WORLDS, base=base, seed=seed + choices)
    env.reset()
    env.step(np.zeros((_WORLDS, len(fleet)), np.int64))  # what has to be compiled is no learning
    torch.set_num_threads(1)  # as quick on two idle cores, and five times as quick beside other work
    clock = _Clock(time.monotonic() - spent_s, seconds)
    model = MaskablePPO(
        "MlpPolicy",
        env,
        learning_rate=lambda _: max(_LEAST_LEARNING_RATE, _LEARNING_RATE * (1 - clock.part)),
        n_steps=_STEPS,
        batch_size=_BATCH,
        n_epochs=4,
        target_kl=0.03,
        policy_kwargs={"net_arch": [LAYER, LAYER]},
        rollout_buffer_class=TimedBuffer,
        rollout_buffer_kwargs={"elapsed": env.elapsed},
        seed=seed,
        device="cpu",
    )
    model.set_logger(Logger(None, []))  # its own would leave a folder in the temporary one
    watch = _Watch(model, env, base, judged_at, clock, {"seed": seed, "seconds": seconds}, folder, report)
    if state is None:
        _imitate(model, env, int(np.clip(seconds, *_IMITATED)), seed)
    else:
        watch.restore(state)
    model.learn(2**40, callback=watch, reset_num_timesteps=False)
    watch.validate()
    watch.keep()
    return watch.judged()


@dataclass(frozen=True, slots=True)
class _Clock:
    """When a training began, had it not been interrupted, and how long it may take."""

    began_s: float
    seconds: float

    @property
    def elapsed_s(self) -> float:
        return time.monotonic() - self.began_s

    @property
    def part(self) -> float:
        """How much of the time is over, 0..1."""
        return min(1.0, self.elapsed_s / max(1e-9, self.seconds))


def _scaled(weights: tuple[float, float, float]) -> tuple[float, float, float]:
    total = sum(weights)
    if not 0 < total < math.inf:
        raise ConfigError(f"the reward's weights add up to {total:g}; give finite ones of which one is above 0")
    accuracy, latency, energy = weights
    return accuracy / total, latency / total, energy / total


def _best_of(rules: Sequence[str], judged_at: Sequence[Traffic]) -> str:
    """Return the rule that earns the most at these loads, on a trace of each that policies are not judged on."""
    traces = [(at.task, at.fit(0)) for at in judged_at]
    return max(rules, key=lambda rule: _mean_earned(parse_policy(rule), traces))


def _mean_earned(policy: Policy, traces: Sequence[tuple[Task, Trace]]) -> float:
    return float(np.mean([earned(task, policy, trace) for task, trace in traces]))


def _imitate(model: MaskablePPO, env: FleetVecEnv, steps: int, seed: int) -> None:
    """Let the actor choose what the base policy does, as far as it can; where that waits it says no server or width."""
    rng = np.random.default_rng(np.random.SeedSequence([seed, 0xBC]))
    observations, seen = cast(Any, env.reset()), []
    for _ in range(steps):
        masks, choices = np.array(env.env_method("action_masks")), env.base_choices()
        seen.append((observations, masks, choices))
        drawn, _ = model.predict(observations, action_masks=masks)
        observations, *_ = env.step(np.where(choices < 0, drawn, choices))
    all_observations, all_masks, all_choices = (np.concatenate(parts) for parts in zip(*seen, strict=True))
    for _ in range(_EPOCHS):
        order = rng.permutation(len(all_choices))
        for first in range(0, len(order), _BATCH):
            at = order[first : first + _BATCH]
            heads: Any = model.policy.get_distribution(torch.from_numpy(all_observations[at]), all_masks[at])
            wanted = torch.from_numpy(all_choices[at]).T
            likely = [h.log_prob(w.clamp(min=0)) * (w >= 0) for h, w in zip(heads.distributions, wanted, strict=True)]
            model.policy.optimizer.zero_grad()
            torch.autograd.backward(-torch.stack(likely).sum(dim=0).mean())
            model.policy.optimizer.step()


def _let_act(policy: Any, *, learns: bool) -> None:
    """Let the actor learn, or leave it as it is."""
    for part in (policy.mlp_extractor.policy_net, policy.action_net):
        for parameter in part.parameters():
            parameter.requires_grad_(learns)
            if not learns:
                parameter.grad = None


class TimedBuffer(MaskableRolloutBuffer):
    """A rollout whose advantages are estimated in time instead of steps (orchestrator.learning.ppo.advantages).

    A step is a request sent alone or the wait for a batch of many; by steps, waiting would seem to earn the most.
    ``elapsed``, float64 [worlds], is how long the last step took, in deadlines, each time that one is added.
    """

    def __init__(self, *args: Any, elapsed: NDArray[np.float64], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._elapsed, self._passed = elapsed, np.zeros((self.buffer_size, self.n_envs), np.float32)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Add what a step earned and how long it took."""
        self._passed[self.pos] = self._elapsed
        super().add(*args, **kwargs)

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[np.bool_]) -> None:
        """Estimate advantages and returns of all steps."""
        values = np.concatenate([self.values, last_values.cpu().numpy().reshape(1, -1)])
        ended = np.concatenate([self.episode_starts[1:], dones.reshape(1, -1)])
        gamma = np.exp(-self._passed / HORIZON) * (1 - ended)
        delta = self.rewards + gamma * values[1:] - values[:-1]
        self.advantages = accumulate(delta, gamma * np.exp(-self._passed / MEMORY))
        self.returns = self.advantages + self.values


class _Watch(BaseCallback):
    """Validates every few rollouts, keeps what is learned, and ends a training whose time is over."""

    def __init__(
        self,
        model: MaskablePPO,
        env: FleetVecEnv,
        base: str,
        judged_at: Sequence[Traffic],
        clock: _Clock,
        settings: Mapping[str, float],
        folder: RunFolder,
        report: Callable[[float, str], None],
    ) -> None:
        super().__init__()
        self.best: PolicyFile | None = None
        self._model, self._env, self._base, self._judged_at, self._report = model, env, base, judged_at, report
        self._made: dict[str, Any] = {"scenario": env.task.settings.name, "settings": dict(settings)}
        if not math.isnan(sum(env.task.preference)):
            self._made["reward_weights"] = list(env.task.preference)
        self._clock, self._folder, self._kept_s = clock, folder, time.monotonic()
        self._rollouts, self._reward = 0, -math.inf
        mean = get_ema_multi_avg_fn(_KEPT)  # type: ignore[no-untyped-call]
        self._averaged = AveragedModel(model.policy, multi_avg_fn=mean)

    def validate(self) -> None:
        """Keep the policy when it is the best so far."""
        file = self._file(_export(self._averaged.module), int(self._model.num_timesteps))
        reward = _mean_earned(LearnedPolicy(file), [(at.task, at.choosing()[0]) for at in self._judged_at])
        if reward > self._reward:
            self.best, self._reward = replace(file, validation={"reward": reward}), reward
        choices = file.provenance["choices"]
        self._report(self._clock.part, f"ppo-paper: {choices:,} choices, {reward:.4f} a request")

    def keep(self) -> None:
        """Keep all that a resumed run needs."""
        assert self.best is not None
        ranges, policy = self._env.ranges, self._model.policy
        state = {
            "base": self._base,
            "seconds": self._clock.elapsed_s,
            "choices": int(self._model.num_timesteps),
            "rollouts": self._rollouts,
            "policy": policy.state_dict(),
            "optimizer": policy.optimizer.state_dict(),
            "averaged": self._averaged.state_dict(),
            "ranges": (torch.as_tensor(ranges.low), torch.as_tensor(ranges.high)),
            "best": {name: torch.as_tensor(array) for name, array in self.best.weights.items()},
            "best_choices": self.best.provenance["choices"],
            "reward": self._reward,
        }
        self._folder.write_state(PAPER, state)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what was kept; worlds begin anew."""
        self._model.policy.load_state_dict(state["policy"])
        self._model.policy.optimizer.load_state_dict(state["optimizer"])
        self._averaged.load_state_dict(state["averaged"])
        self._model.num_timesteps, self._rollouts = int(state["choices"]), int(state["rollouts"])
        self._env.ranges.low, self._env.ranges.high = (tensor.numpy() for tensor in state["ranges"])
        self._reward = float(state["reward"])
        best = self._file({name: tensor.numpy() for name, tensor in state["best"].items()}, int(state["best_choices"]))
        self.best = replace(best, validation={"reward": self._reward})

    def _file(self, weights: Mapping[str, Floats32], choices: int) -> PolicyFile:
        task = self._env.task
        widths = tuple(sorted({int(m.width) for s in task.servers for m in s.models}))
        file = PolicyFile(
            PAPER,
            self._base,
            weights,
            *self._env.ranges.known(),
            fleet=self._env.fleet,
            widths=widths,
            provenance={"choices": choices, **self._made},
        )
        return file if math.isnan(sum(task.preference)) else replace(file, preference=task.preference)

    def judged(self) -> PolicyFile:
        """Return the best, with what it earns above its base on traces that nothing was chosen by."""
        assert self.best is not None
        traces = [(at.task, trace) for at in self._judged_at for trace in at.held_out()[:_HELD_OUT]]
        low, high = self._env.ranges.known()  # of all that was seen, after the best too
        self.best = replace(self.best, low=low, high=high)
        over_base = _mean_earned(LearnedPolicy(self.best), traces) - _mean_earned(parse_policy(self._base), traces)
        return replace(self.best, validation={**self.best.validation, "over_base": over_base})

    def _on_training_start(self) -> None:
        if self.best is None:
            self._averaged.update_parameters(self._model.policy)
            self.validate()
            self.keep()

    def _on_step(self) -> bool:
        return self._rollouts == 0 or self._clock.part < 1

    def _on_rollout_start(self) -> None:
        self._model.ent_coef = _ENTROPY * (1 - self._clock.part)
        _let_act(self._model.policy, learns=self._rollouts >= _CRITIC_ALONE)

    def _on_rollout_end(self) -> None:
        self._averaged.update_parameters(self._model.policy)
        self._rollouts += 1
        if self._rollouts % _VALIDATE_EVERY == 0:
            self.validate()
        if time.monotonic() - self._kept_s > _KEEP_EVERY_S:
            self.keep()
            self._kept_s = time.monotonic()


def _export(policy: Any) -> dict[str, Floats32]:
    """Return the weights of a policy of stable-baselines3 as a policy file holds them."""
    first, _, second, _ = policy.mlp_extractor.policy_net
    layers = {"first": first, "second": second, "choices": policy.action_net}
    weights: dict[str, Floats32] = {}
    for name, layer in layers.items():
        weights[f"{name}.weight"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        weights[f"{name}.bias"] = layer.bias.detach().numpy().copy()
    return weights
