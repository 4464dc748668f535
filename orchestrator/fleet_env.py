"""One simulated fleet as an environment of Gymnasium, ``slim-scheduler/Fleet-v0``, for whoever brings an algorithm.

Importing this module registers it, and so does naming the module: ``gymnasium.make("orchestrator.fleet_env:slim-
scheduler/Fleet-v0")``. The world is the one that policies are trained and evaluated in (``simulation.world_batch``);
training ours goes over many worlds at once (``learning.ppo.vector_env``), which this leaves out.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import action_count
from orchestrator.simulation.rewards import OBJECTIVES, Task, weights_of
from orchestrator.simulation.scenario.settings import load_scenario, parse_scenario
from orchestrator.simulation.world_batch import WorldBatch, lines_of

ID = "slim-scheduler/Fleet-v0"
_MOST_SEED = 2**31
_SCENARIO = """
name: two unlike servers
servers:
- name: quick
  widths:
    25: {accuracy: 0.90, item_ms: 0.3, group_ms: 1}
    100: {accuracy: 0.94, item_ms: 2, group_ms: 1}
- name: slow
  widths:
    25: {accuracy: 0.90, item_ms: 1, group_ms: 2}
    100: {accuracy: 0.94, item_ms: 7, group_ms: 2}
workload: {kind: mmpp, load_ratio: 0.3, requests: 400}
objectives: {deadline_ms: 40}
"""


class FleetEnv(gymnasium.Env[NDArray[np.float32], np.int64]):
    """A fleet whose every routing decision with a choice is a step; an episode is a trace of requests.

    ## Action space
    ``Discrete(4 + 2 · candidates)``: action 0 gives the request up, actions 1, 2 and 3 hold for a half, a quarter and
    an eighth of the time left; of the k-th candidate that the observation describes (a server, a width and a batch; the
    first is number 0), action 4 + 2 · k sends the batch and 5 + 2 · k half of it. What is not allowed holds, as 1 does.
    ``action_masks()``, also as ``info["action_mask"]``, bool, says which are; sb3-contrib's MaskablePPO asks for it.

    ## Observation space
    ``Box(-1, 1, float32)``: the features of each candidate of the fleet, then those of the whole
    (``orchestrator.policies.learned.features``). Lines without a candidate are zeros.

    ## Reward
    What the step earned of accuracy, latency and energy, weighed by the preference, less 4 for each late or lost
    request; relative to a request (``orchestrator.simulation.rewards``). ``info["rewards"]`` has them apart.

    ## Episode
    It begins with the first decision of a trace that is drawn from the seed, and is terminated when all requests are
    answered or given up; then ``info["totals"]`` says what came of them. It is never truncated.

    Args:
        scenario: A scenario's file; None: two unlike servers with two widths.
        preference: The weights of accuracy, latency and energy.

    Raises:
        ConfigError: The scenario can't be used.
    """

    def __init__(
        self, scenario: str | Path | None = None, preference: tuple[float, float, float] = (1.0, 0.0, 0.0)
    ) -> None:
        if scenario is None:
            settings, servers = parse_scenario(_SCENARIO, source=ID, folder=Path())
        else:
            settings, servers = load_scenario(Path(scenario))
        self._task = Task(settings, tuple(servers), preference)
        self._weights = np.array(weights_of(preference))
        lines = lines_of(self._task)
        self._batch = WorldBatch(1, lines=lines)
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (feat.observation_size(lines),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(action_count(lines))
        self._mask: NDArray[np.bool_] = np.ones(action_count(lines), np.bool_)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Begin an episode, with a trace of its own; the same seed gives the same."""
        super().reset(seed=seed, options=options)
        while True:
            self._batch.load(0, self._task, int(self.np_random.integers(_MOST_SEED)))
            step = self._batch.settle()
            if not step.ended[0]:  # else it was a trace without a choice
                self._mask = step.masks[0].copy()
                return step.observations[0].copy(), {"action_mask": self._mask}

    def step(self, action: np.int64) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """Take an action, and run to the next decision with a choice."""
        step = self._batch.step(np.array([action], np.int64))
        self._mask = step.masks[0].copy()
        earned, ended = step.rewards[0].copy(), bool(step.ended[0])
        info: dict[str, Any] = {
            "action_mask": self._mask,
            "rewards": dict(zip(OBJECTIVES, earned.tolist(), strict=True)),
        }
        if ended:
            info["totals"] = self._batch.totals(0)
        return step.observations[0].copy(), float(earned @ self._weights), ended, False, info

    def action_masks(self) -> NDArray[np.bool_]:
        """Return which actions are allowed now, bool."""
        return self._mask


if ID not in gymnasium.registry:
    gymnasium.register(ID, entry_point=f"{__name__}:{FleetEnv.__name__}")
