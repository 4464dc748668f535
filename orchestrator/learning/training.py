"""Training runs: ppo-slim by MaskablePPO after cloning, ppo-paper by PPO; both end with the file that validated best.

ppo-slim begins as its base heuristic, is cloned from the best heuristic of each drawn scenario, then explores. The
untrained and the cloned policy are validated as well, so what a run returns is never worse on the validation scenarios
than the heuristic that it rests on; whether that is better than the best heuristic there is in its header.

Steps are choices. ppo-slim's discount is by time (orchestrator.learning.advantages); that of ppo-paper is by choice,
as stable-baselines3 has it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any, Final

import numpy as np
import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.utils import set_random_seed

from orchestrator.errors import ConfigError
from orchestrator.learning.advantages import ObjectivesBuffer
from orchestrator.learning.checkpoints import RunFolder, RunState
from orchestrator.learning.cloning import (
    clone,
    collect_demonstrations,
    joined,
    read_demonstrations,
    write_demonstrations,
)
from orchestrator.learning.curriculum import Curriculum
from orchestrator.learning.networks import CandidatePolicy, export_paper, paper_fleet
from orchestrator.learning.validation import Validation, validate
from orchestrator.learning.vector_env import FleetVecEnv
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.policy_file import PAPER, SLIM, PolicyFile, read_policy_file, write_policy_file
from orchestrator.simulation.rewards import Task

_KEEP_EVERY_S: Final = 45.0
_CLONED_WORLDS: Final = 128  # at once; to find the expert of one takes longer than to step it through
_STAGE_GROWS: Final = 0.6  # of all steps, without demonstrations; then draws are as wide as they get

Report = Callable[[int, str], None]
"""Called with how many steps were taken, and what happened."""


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """What a run is made of; all but ``steps`` must be the same when it is resumed.

    Attributes:
        kind: ``ppo-slim`` or ``ppo-paper``.
        base: the policy that ppo-slim rests on and that says what is masked.
        steps: choices, over all worlds.
        worlds: how many are stepped at once, of which ``replicas`` play the same episode.
        rollout: choices a world before each update.
        batch: choices of each step of the optimiser; smaller ones are more steps.
        requests: of an episode.
        demonstrations: choices to clone from; 0 for none.
        clone_rounds: rounds in which these are collected, see orchestrator.learning.cloning.
        clone_epochs: passes over all demonstrations so far, in each round.
        strength: what the base policy's choice adds to its score; e to its power over the number of actions is about
            how much likelier that choice is at the beginning.
        horizon, trace: how far advantages look ahead, in deadlines; see orchestrator.learning.advantages. For
            ppo-paper, whose algorithm counts steps, the discount is 0.99 a choice.
        entropy: weight of the entropy in the loss.
        averaged: part of the averaged weights that each update keeps, see orchestrator.learning.networks.
        warm_up: rollouts that only the critic learns from, because what it says at first would undo what was cloned.
        validate_every: updates between two validations.
        patience: validations without a better score, after which a run ends.
    """

    kind: str = SLIM
    base: str = "lert:slack"
    steps: int = 2_000_000
    seed: int = 0
    worlds: int = 64
    replicas: int = 4
    rollout: int = 128
    batch: int = 512
    requests: int = 600
    demonstrations: int = 60_000
    clone_rounds: int = 6
    clone_epochs: int = 6
    strength: float = 5.0
    learning_rate: float = 3e-4
    horizon: float = 5.0
    trace: float = 1.0
    entropy: float = 1e-3
    averaged: float = 0.9
    warm_up: int = 8
    validate_every: int = 10
    patience: int = 15


def train(
    settings: TrainingSettings,
    folder: RunFolder,
    validations: Sequence[Validation],
    *,
    task: Task | None = None,
    scenarios: Sequence[Task] = (),
    resume: bool = False,
    report: Report = lambda steps, text: None,
) -> PolicyFile:
    """Return the policy that validated best, which is in the folder as well.

    Validations judge policies and end a run early. ``task`` is the only world; without it worlds are drawn, and
    ``scenarios`` are varied and played beside them. ppo-paper needs a task, for its fleet, at loads around its own.
    ``resume`` goes on where the folder's run was interrupted.

    Raises:
        ConfigError: when settings don't fit each other, or the folder's run.
    """
    if settings.worlds % settings.replicas:
        raise ConfigError(
            f"worlds {settings.worlds} is no multiple of replicas {settings.replicas}; change one of them"
        )
    if settings.kind == PAPER and task is None:
        raise ConfigError("ppo-paper is trained for one fleet; name its scenario with --scenario")
    state = folder.begin(asdict(settings), resume=resume)
    curriculum = Curriculum(
        settings.seed,
        requests=settings.requests,
        only=task,
        varies_load=settings.kind == PAPER,
        scenarios=scenarios,
    )
    run = _Run(settings, folder, validations, curriculum, task, state, report)
    try:
        run.learn()
    finally:
        run.model.logger.close()
    return read_policy_file(folder.best)


class _Run:
    """One run: model, worlds, and what is kept of them."""

    def __init__(
        self,
        settings: TrainingSettings,
        folder: RunFolder,
        validations: Sequence[Validation],
        curriculum: Curriculum,
        task: Task | None,
        state: RunState | None,
        report: Report,
    ) -> None:
        self._settings, self._folder, self._validations = settings, folder, validations
        self._task, self._report = task, report
        self._began_s = self._kept_s = time.monotonic()
        self._is_resumed = state is not None
        self.state = state or RunState()
        set_random_seed(settings.seed + self.state.steps)
        is_paper = settings.kind == PAPER
        self._fleet = paper_fleet(task) if is_paper and task is not None else None
        self.env = FleetVecEnv(
            curriculum,
            worlds=settings.worlds,
            replicas=settings.replicas,
            base=settings.base,
            fleet=self._fleet,
        )
        if state is None:
            self.model = self._new_model()
        else:
            curriculum.restore(state.curriculum)
            ranges = self.env.ranges
            ranges.low, ranges.high = np.array(state.low, np.float32), np.array(state.high, np.float32)
            kind: Any = PPO if is_paper else MaskablePPO
            self.model = kind.load(folder.model(state.slot), env=self.env, device="cpu")
        self.model.set_logger(configure(str(folder.path / "log"), ["tensorboard", "csv"]))

    def learn(self) -> None:
        """Run training to its end."""
        if not self._is_resumed:
            self._judge("the untrained policy")
            self.keep()
        if (
            self._settings.kind == SLIM
            and self._settings.demonstrations
            and self.state.cloned < self._settings.clone_rounds
        ):
            self._clone()
            self.keep()
        for turn in range(self._settings.clone_rounds):
            self._folder.demonstrations(turn).unlink(missing_ok=True)
        left = self._settings.steps - self.state.steps
        if left > 0:
            self.model.learn(left, callback=_Watch(self), reset_num_timesteps=False)
            self._judge("the last policy")
            self.keep()

    def keep(self) -> None:
        """Write a checkpoint of the run."""
        self.state.steps = int(self.model.num_timesteps)
        self.state.curriculum = self.env.curriculum.state()
        self._folder.keep(self.model, self.state, self.env.ranges)
        self._kept_s = time.monotonic()

    def export(self) -> PolicyFile:
        """Return the policy as it is now."""
        settings, ranges = self._settings, self.env.ranges
        is_seen = np.isfinite(ranges.low)  # nothing is before the first step
        policy = PolicyFile(
            settings.kind,
            settings.base,
            {},
            np.where(is_seen, ranges.low, 0).astype(np.float32),
            np.where(is_seen, ranges.high, 0).astype(np.float32),
            strength=settings.strength,
            fleet=self._fleet or (),
            provenance={
                "settings": asdict(settings),
                "scenario": "drawn" if self._task is None else self._task.settings.name,
                "steps": int(self.model.num_timesteps),
                "seconds": round(time.monotonic() - self._began_s, 1),
                "features_version": feat.VERSION,
                "versions": {name: version(name) for name in ("torch", "stable-baselines3", "sb3-contrib", "numpy")},
                "python": platform.python_version(),
            },
        )
        if settings.kind == PAPER:
            return replace(policy, weights=export_paper(self.model))
        return replace(policy, weights=self._policy().average_net.export_weights())

    def _policy(self) -> CandidatePolicy:
        assert isinstance(self.model.policy, CandidatePolicy)
        return self.model.policy

    def _new_model(self) -> Any:
        s = self._settings
        common: dict[str, Any] = {
            "learning_rate": s.learning_rate,
            "n_steps": s.rollout,
            "batch_size": min(s.batch, s.rollout * s.worlds),
            "n_epochs": 4,
            "gamma": 0.99,
            "gae_lambda": 0.95,
            "ent_coef": s.entropy,
            "target_kl": 0.03,
            "seed": s.seed,
            "device": "cpu",
        }
        if s.kind == PAPER:
            return PPO("MlpPolicy", self.env, policy_kwargs={"net_arch": [64, 64]}, **common)
        return MaskablePPO(
            CandidatePolicy,
            self.env,
            policy_kwargs={"strength": s.strength},
            rollout_buffer_class=ObjectivesBuffer,
            rollout_buffer_kwargs={"replicas": s.replicas, "horizon": s.horizon, "trace": s.trace},
            normalize_advantage=False,  # they are already
            **common,
        )

    def _clone(self) -> None:
        s, epochs = self._settings, self._settings.clone_epochs

        def report_epoch(epoch: int, loss: float, agreement: float) -> None:
            self._report(0, f"cloning, epoch {epoch + 1}: loss {loss:.3f}, {agreement:.1%} as the teacher")

        curriculum = self.env.curriculum
        curriculum.stage, curriculum.practises = 1.0, False  # of all that is ever drawn, and of many worlds
        env = FleetVecEnv(
            curriculum, worlds=min(s.worlds, _CLONED_WORLDS), base=s.base
        )  # no two of its worlds are the same
        env.ranges = self.env.ranges
        env.reset()
        parts = [
            read_demonstrations(path)
            for path in map(self._folder.demonstrations, range(s.clone_rounds))
            if path.exists()
        ]
        for turn in range(self.state.cloned, s.clone_rounds):
            wanted = s.demonstrations * (turn + 1) // s.clone_rounds - sum(len(part.actions) for part in parts)
            if wanted > 0:
                net = self._policy().scoring if turn else None
                parts.append(collect_demonstrations(env, wanted, seed=s.seed + turn, net=net))
                write_demonstrations(self._folder.demonstrations(turn), parts[-1])
            demonstrations = joined(parts)
            self._report(0, f"round {turn + 1}: {len(demonstrations.actions)} lessons from the best heuristics")
            clone(self._policy().scoring, demonstrations, epochs=epochs, seed=s.seed + turn, report=report_epoch)
            self._policy().average(0.0)
            self.state.cloned = turn + 1
            self._judge(f"the policy cloned in {turn + 1} rounds")
            self.keep()
        curriculum.begin_practice()

    def _judge(self, which: str) -> None:
        """Validate, and keep the policy when it is the best so far."""
        policy = self.export()
        score = validate(policy, self._validations)
        for name, value in asdict(score).items():
            self.model.logger.record(f"validation/{name}", value)
        is_best = score.earned > self.state.best
        self.state.since_best = 0 if is_best else self.state.since_best + 1
        if is_best:
            self.state.best = score.earned
            write_policy_file(self._folder.best, replace(policy, validation={"of": which, **asdict(score)}))
        over_base = f"{which}: {score.over_base:+.4f} a request against {self._settings.base}"
        over_best = f"{score.over_best:+.4f} against the best heuristics, at worst {score.worst:+.4f}"
        mark = ", the best so far" if is_best else ""
        self._report(int(self.model.num_timesteps), f"{over_base}, {over_best}{mark}")


class _Watch(BaseCallback):
    """Looks after a run between its rollouts."""

    def __init__(self, run: _Run) -> None:
        super().__init__()
        self._run = run
        self._rollouts = 0
        self._goes_on = True

    def _on_step(self) -> bool:
        return self._goes_on

    def _on_rollout_end(self) -> None:
        run, settings = self._run, self._run._settings
        self._rollouts += 1
        if settings.kind == SLIM:
            taken = self._run.model.num_timesteps / (settings.rollout * settings.worlds)
            run._policy().scoring.requires_grad_(taken > settings.warm_up)
            run._policy().average(settings.averaged)
        part = run.model.num_timesteps / max(1.0, _STAGE_GROWS * settings.steps)
        run.env.curriculum.stage = 1.0 if settings.demonstrations else min(1.0, part)
        finished, run.env.finished = run.env.finished, []
        if finished:
            gap = float(np.mean([episode.best - earned for episode, earned in finished]))
            self.logger.record("curriculum/gap", gap)
            self.logger.record("curriculum/stage", run.env.curriculum.stage)
        if self._rollouts % settings.validate_every == 0:
            run._judge(f"after {run.model.num_timesteps} steps")
            self._goes_on = run.state.since_best < settings.patience
        if time.monotonic() - run._kept_s > _KEEP_EVERY_S:
            run.keep()
        run._report(int(self.model.num_timesteps), "")


def use_threads(count: int) -> None:
    """Let torch use so many threads; more than there are cores only wait for each other."""
    torch.set_num_threads(count)
