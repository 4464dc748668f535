"""Rollouts inside the compiled simulator, the actor network included: what PPO learns from.

A world is run from choice to choice by the network that explores, and everything that an update needs is written down
on the way; Python is back when all worlds of a batch have come to a time, or where controllers are to act. So choices
cost what world, features and network cost, and threads that collect from batches of their own run side by side.

A rollout ends at a time and not after a number of choices, because worlds that share a trace are compared moment by
moment (orchestrator.learning.ppo.advantages), and worlds in which less is chosen must not look further ahead.

Actions are drawn from the softmax of the allowed scores, by uniform draws that the caller brings. With the same network
and draws a world is what the reference, one step at a time, makes of it; a test compares them choice by choice.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS, HOLD_ACTION, action_count
from orchestrator.policies.learned.network import HIDDEN, HIDDEN_LINES, Floats32, score
from orchestrator.policies.tables.compiled import Column, compiled, compiled_unlocked
from orchestrator.simulation import rewards
from orchestrator.simulation.rewards import OBJECTIVES
from orchestrator.simulation.world import columns as sim
from orchestrator.simulation.world.layout import StackedWorlds, world_of
from orchestrator.simulation.world_batch import (
    AFTER_ACTION,
    BEFORE_CHOICE,
    RUNS,
    Learners,
    WorldBatch,
    run_to_choice,
    take,
    view_of,
    write_observation,
)


class Rollout(NamedTuple):
    """What was seen and done; each world has as many entries as it came to choices, and the rest is of no meaning.

    What stands behind the last choice is the observation that it led to, where the world has not ended.

    Attributes:
        observations: float32 [worlds, choices + 1, lines · FEATURES + CONTEXT]; the lines are those of the largest
            fleet, ROWS at the most.
        masks: bool [worlds, choices + 1, actions of so many lines], of what is allowed.
        actions: int64 [worlds, choices].
        log_probs: float32 [worlds, choices], of the actions.
        rewards: float32 [worlds, choices, objectives], what came of each until the next, by OBJECTIVES.
        times: float64 [worlds, choices + 1], in deadlines from the beginning of the trace.
        counts: int64 [worlds], how many choices there are.
        ended: bool [worlds], whether every request of the trace was answered or given up.
    """

    observations: NDArray[np.float32]
    masks: NDArray[np.bool_]
    actions: NDArray[np.int64]
    log_probs: NDArray[np.float32]
    rewards: NDArray[np.float32]
    times: NDArray[np.float64]
    counts: NDArray[np.int64]
    ended: NDArray[np.bool_]


def new_rollout(worlds: int, choices: int, *, lines: int = feat.ROWS) -> Rollout:
    """Return room for so many choices of each world, of fleets with so many candidates."""
    return Rollout(
        observations=np.zeros((worlds, choices + 1, feat.observation_size(lines)), np.float32),
        masks=np.zeros((worlds, choices + 1, action_count(lines)), np.bool_),
        actions=np.zeros((worlds, choices), np.int64),
        log_probs=np.zeros((worlds, choices), np.float32),
        rewards=np.zeros((worlds, choices, len(OBJECTIVES)), np.float32),
        times=np.zeros((worlds, choices + 1)),
        counts=np.zeros(worlds, np.int64),
        ended=np.zeros(worlds, np.bool_),
    )


class RolloutBatch(WorldBatch):
    """Worlds that a network explores; loaded and stepped as those of every batch."""

    def collect(
        self, params: Floats32, strength: float, until: NDArray[np.float64], draws: NDArray[np.float32], into: Rollout
    ) -> None:
        """Run every world until a time, to the end of its trace, or until there is no more room.

        Other threads run meanwhile, which may do the same to batches and rollouts of their own.

        Args:
            params: of the network, see orchestrator.policies.learned.network.pack.
            strength: of the base policy's choice in the scores.
            until: float64 [worlds], in deadlines from the beginning of the trace.
            draws: float32 [worlds, choices], uniform in 0..1.
            into: is overwritten.
        """
        assert self._worlds is not None, "load the worlds first"
        hidden, scores = np.zeros((HIDDEN_LINES, HIDDEN), np.float32), np.zeros(ACTIONS)
        network = params, strength, hidden, scores
        run = self._worlds, self._learners, self._is_running, self._stopped, network, until, draws, into
        _collect(*run, False, self._advancing)
        while self._control():
            _collect(*run, True, self._advancing)


@compiled_unlocked
def _collect(
    worlds: StackedWorlds,
    learner: Learners,
    is_running: NDArray[np.bool_],
    stopped: NDArray[np.int8],
    network: tuple[Floats32, float, Floats32, Column],
    until: NDArray[np.float64],
    draws: NDArray[np.float32],
    into: Rollout,
    goes_on: bool,
    advancing: int,
) -> None:
    """Play all worlds on until ``until``, or until there is no room; compiled code is given its arrays one by one."""
    params, strength, hidden, scores = network
    room = into.actions.shape[1]
    for i in range(is_running.shape[0]):
        if goes_on and stopped[i] == RUNS:
            continue
        world, view, since = world_of(worlds, i), view_of(learner, i), stopped[i]
        is_choice, count = is_running[i], int(into.counts[i]) if goes_on else 0
        if is_choice and world.state[sim.IS_PENDING] == 0:  # it was only just loaded, or had stopped
            is_choice = run_to_choice(world, view, learner, i, advancing)
            stopped[i] = max(since, BEFORE_CHOICE) if world.state[sim.IS_CONTROL_DUE] != 0 else RUNS
            if stopped[i] == RUNS:
                rewards.write_rewards(world, learner.scales[i], learner.sums[i], into.rewards[i, count])
                count += since == AFTER_ACTION
        while is_choice:
            considered = int(learner.considered[i])
            now = world.state[sim.NOW_S] / learner.scales[i, rewards.DEADLINE_SCALE]
            into.times[i, count] = now
            write_observation(view, considered, into.observations[i, count], into.masks[i, count])
            if now >= until[i] or count == room:
                break
            score(view.lines, considered, view.context, params, strength, hidden, scores)
            action, log_prob = draw_action(scores, into.masks[i, count], draws[i, count])
            into.actions[i, count] = action
            into.log_probs[i, count] = log_prob
            take(world, view, learner, action, i)
            is_choice = run_to_choice(world, view, learner, i, advancing)
            if world.state[sim.IS_CONTROL_DUE] != 0:
                stopped[i] = AFTER_ACTION
                break
            rewards.write_rewards(world, learner.scales[i], learner.sums[i], into.rewards[i, count])
            count += 1
        if stopped[i] != RUNS:
            into.counts[i] = count
            continue
        into.times[i, count] = world.state[sim.NOW_S] / learner.scales[i, rewards.DEADLINE_SCALE]
        into.counts[i], into.ended[i], is_running[i] = count, not is_choice, is_choice


@compiled
def draw_action(scores: Any, mask: Any, draw: float) -> tuple[int, float]:
    """Return an allowed action, drawn by the softmax of the scores, and its log probability."""
    most = -math.inf
    for action in range(mask.shape[0]):
        if mask[action] and scores[action] > most:
            most = scores[action]
    total = 0.0
    for action in range(mask.shape[0]):
        if mask[action]:
            total += math.exp(scores[action] - most)
    chosen, passed = HOLD_ACTION, 0.0
    for action in range(mask.shape[0]):
        if mask[action]:
            chosen = action  # the last one where rounding leaves the draw beyond the sum
            passed += math.exp(scores[action] - most)
            if draw * total < passed:
                break
    return chosen, scores[chosen] - most - math.log(total)
