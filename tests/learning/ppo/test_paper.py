"""How ppo-paper is trained: by advantages in time, in episodes that are not all calm; an interruption costs little."""

from __future__ import annotations

import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from orchestrator.learning.checkpoints import RunFolder
from orchestrator.learning.ppo import paper
from orchestrator.learning.ppo.advantages import estimate_advantages
from orchestrator.learning.ppo.paper import HORIZON, MEMORY, TimedBuffer
from orchestrator.learning.ppo.vector_env import draw_episode
from orchestrator.learning.tasks import given_traffic
from orchestrator.simulation.rollouts import new_rollout
from orchestrator.simulation.scenario.trace import draw_trace
from tests.simulation.test_world_batch import task

SCENARIO = Path(__file__).parents[3] / "scenarios" / "two-unlike.yaml"
STEPS, WORLDS = 7, 3


def test_advantages_of_its_steps_are_those_of_a_rollout_in_time() -> None:
    rng = np.random.default_rng(0)
    rollout = new_rollout(WORLDS, STEPS, lines=1)
    rollout.rewards[..., 0] = rng.standard_normal((WORLDS, STEPS))
    rollout.times[:] = np.cumsum(rng.exponential(0.5, rollout.times.shape), axis=1)
    rollout.counts[:], rollout.ended[:] = STEPS, [False, True, False]
    values = np.zeros((WORLDS, STEPS + 1, 4), np.float32)
    values[..., 0] = rng.standard_normal((WORLDS, STEPS + 1))
    expected = estimate_advantages(rollout, values, horizon=HORIZON, memories=(MEMORY,) * 4)[..., 0]
    buffer = filled(np.diff(rollout.times), rollout.rewards[..., 0], values[..., 0], rollout.ended)
    np.testing.assert_allclose(buffer.advantages, expected.T, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(buffer.returns, expected.T + values[:, :-1, 0].T, rtol=1e-5, atol=1e-6)


def test_nothing_of_an_episode_counts_for_the_one_before() -> None:
    passed, rewards, values = np.full((1, 4), 0.1), np.zeros((1, 4)), np.zeros((1, 5))
    rewards[0, 2] = 1.0
    ended = np.zeros(1, np.bool_)
    assert (filled(passed, rewards, values, ended).advantages[:3, 0] > 0).all()
    apart = filled(passed, rewards, values, ended, starts=2).advantages[:, 0]
    assert apart[:2].tolist() == [0, 0]
    assert apart[2] == 1


def test_of_each_four_episodes_one_has_lulls_and_one_has_surges() -> None:
    made = task(2, requests=5000)
    deadline_s = made.settings.objectives.deadline_ms / 1e3
    for seed in range(8):
        calm, drawn = draw_trace(made.settings, made.servers, seed), draw_episode(made, seed)
        np.testing.assert_allclose(drawn.deadline_s - drawn.arrived_s, calm.deadline_s - calm.arrived_s)
        added_s = np.diff(drawn.arrived_s) - np.diff(calm.arrived_s)
        assert bool(added_s.max() >= 0.5 * deadline_s) is (seed % 4 == 1)
        assert bool(added_s.min() < -1e-6) is (seed % 4 == 3)


def test_an_interrupted_training_of_ppo_paper_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    traffic, lines = given_traffic(SCENARIO, None, None), list[str]()
    monkeypatch.setattr(paper, "_VALIDATE_EVERY", 1)
    monkeypatch.setattr(paper, "_KEEP_EVERY_S", 0.0)
    monkeypatch.setattr(paper, "_IMITATED", (8, 8))
    (left := tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(left))

    def interrupt(part: float, line: str) -> None:
        lines.append(line)
        if sum("choices" in each for each in lines) == 4:
            raise KeyboardInterrupt

    about = paper.identity(traffic, (1.0, 2.0, 1.0), 0)
    run = RunFolder(tmp_path / "run", about, resume=False)
    with pytest.raises(KeyboardInterrupt):
        paper.train_paper(traffic, (1.0, 2.0, 1.0), run, rules=["lert"], seconds=600, seed=0, report=interrupt)
    resumed = RunFolder(tmp_path / "run", about, resume=True)
    kept = resumed.read_state("ppo-paper")
    assert kept is not None
    lines.clear()
    found = paper.train_paper(
        traffic,
        (1.0, 2.0, 1.0),
        resumed,
        rules=["random"],
        seconds=0,
        seed=0,
        report=lambda part, line: lines.append(line),
    )
    assert kept["rollouts"] == 2
    assert lines[0] == f"ppo-paper: goes on after {kept['choices']:,} choices"
    assert found.base == "lert"  # what was found is not looked for again
    assert found.preference == (0.25, 0.5, 0.25)
    assert found.validation["reward"] >= kept["reward"]
    assert lines[-1].startswith(f"ppo-paper: {kept['choices'] + 128:,} choices")  # a step of each world more
    assert not list(left.glob("SB3-*"))


def filled(
    passed: np.ndarray[tuple[int, ...], np.dtype[np.float64]],
    rewards: np.ndarray[tuple[int, ...], np.dtype[np.floating]],
    values: np.ndarray[tuple[int, ...], np.dtype[np.floating]],
    ended: np.ndarray[tuple[int], np.dtype[np.bool_]],
    starts: int = 0,
) -> TimedBuffer:
    """Return a buffer of steps that took so long, [worlds, steps]; episodes begin with step ``starts``."""
    worlds, steps = passed.shape
    elapsed, space = np.zeros(worlds), gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    buffer = TimedBuffer(steps, space, gymnasium.spaces.MultiDiscrete([2, 2]), "cpu", n_envs=worlds, elapsed=elapsed)
    for step in range(steps):
        elapsed[:] = passed[:, step]
        value, unlikely = torch.as_tensor(values[:, step], dtype=torch.float32), torch.zeros(worlds)
        begins, nothing = np.full(worlds, step in (0, starts)), np.zeros((worlds, 2))
        buffer.add(nothing, nothing, rewards[:, step], begins, value, unlikely, action_masks=np.ones((worlds, 4)))
    last = torch.as_tensor(values[:, steps], dtype=torch.float32)
    buffer.compute_returns_and_advantage(last, ended)
    return buffer
