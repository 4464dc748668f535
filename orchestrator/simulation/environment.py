"""A world as a Gymnasium environment, for whoever brings an algorithm of their own.

## Description

A fleet serves the requests of a trace. Wherever there is a choice the environment stops: which server and width the
head of the queue, and what goes with it, is sent to, or that it waits. Time between two steps is whatever passes until
the next choice.

## Action space

``Discrete(33)``: action k < 32 sends the k-th candidate that is considered, action 32 holds; see
``orchestrator.policies.learned.actions``. ``action_masks()``, the name that sb3-contrib looks for, and
``info["action_mask"]`` say which are allowed; one that is not is taken for holding, and where there is no time for that
for what the base policy does.

## Observation space

``Box(-1, 1, (789,), float32)``, without units; feature and context tables with their meaning are in
``orchestrator.policies.learned.features``.

=============  ================================================  ======  ==========
index          meaning                                           unit    range
=============  ================================================  ======  ==========
24·k + i       feature i of the k-th candidate that is            none   −1..1 for i
               considered, k < 32; 0 when there is none                  of 0, 1, 2;
                                                                         else 0..1
768 + j        context j                                          none   −1..1 for j
                                                                         of 1, 2, 18;
                                                                         else 0..1
=============  ================================================  ======  ==========

## Rewards

``info["objectives"]``, float64 [4]: accuracy, latency, energy and lateness as ``orchestrator.simulation.rewards``
defines them; the scalar reward is their sum, the first three weighted by the task's preference.

## Starting state, episode end

``reset(seed=k)`` draws the trace of seed k, so the same seed is the same world to the bit; without a seed the next one
is drawn from the environment's own generator. The episode terminates when every request is answered or given up;
``info`` of the last step has ``totals``. It is never truncated.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned.actions import ACTIONS
from orchestrator.policies.learned.features import OBSERVATION
from orchestrator.simulation.rewards import Task, weights_of
from orchestrator.simulation.world.world_batch import Step, WorldBatch

_MOST_SEED = 2**31


class FleetEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """One world of a batch of one.

    Args:
        task: scenario, fleet and preference.
        base: the policy that says what is masked and that a learned one rests on.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 – Gymnasium's own

    def __init__(self, task: Task, *, base: str = "lert:slack") -> None:
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (OBSERVATION,), np.float32)
        self._task = task
        self._weights = np.array(weights_of(task.preference))
        self._batch = WorldBatch(1, base=base)
        self._masks: NDArray[np.bool_] = np.ones(ACTIONS, np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode; see the module."""
        super().reset(seed=seed)
        trace_seed = int(self.np_random.integers(_MOST_SEED)) if seed is None else seed
        self._batch.load(0, self._task, trace_seed)
        step = self._batch.settle()
        return step.observations[0].copy(), {**self._describe(step), "trace_seed": trace_seed}

    def step(self, action: np.int64 | int) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take an action and run to the next choice."""
        step = self._batch.step(np.array([action], np.int64))
        info = self._describe(step)
        if step.ended[0]:
            info["totals"] = self._batch.totals(0)
        reward = float(step.rewards[0] @ self._weights)
        return step.observations[0].copy(), reward, bool(step.ended[0]), False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, bool [33]."""
        return self._masks

    def _describe(self, step: Step) -> dict[str, Any]:
        self._masks = step.masks[0].copy()
        return {
            "action_mask": self._masks.astype(np.int8),
            "objectives": step.rewards[0].copy(),
            "advice": int(step.advice[0]),
        }
