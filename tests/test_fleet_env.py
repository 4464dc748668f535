"""The environment of Gymnasium: its contract, its seeds, its rewards, and that an algorithm of others learns in it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

gymnasium = pytest.importorskip(
    "gymnasium", reason="the environment needs Gymnasium: pip install 'slim-scheduler[learn]'"
)

import numpy as np  # noqa: E402
from gymnasium.utils.env_checker import check_env  # noqa: E402

from orchestrator.errors import ConfigError  # noqa: E402
from orchestrator.fleet_env import ID, FleetEnv  # noqa: E402

ROOT = Path(__file__).parents[1]
SCENARIO = ROOT / "scenarios" / "two-unlike.yaml"
EXAMPLE = ROOT / "examples" / "fleet-env" / "learn.py"


def play(env: Any, choose: Any, seed: int) -> tuple[float, dict[str, Any]]:
    """Return what an episode earned, and what came of its requests."""
    observation, info = env.reset(seed=seed)
    earned = 0.0
    while "totals" not in info:
        observation, reward, ended, truncated, info = env.step(choose(observation, info["action_mask"]))
        assert ended == ("totals" in info)
        assert not truncated
        earned += reward
    return earned, info["totals"]


def at_random(seed: int) -> Any:
    draw = np.random.default_rng(seed)
    return lambda observation, mask: draw.choice(np.flatnonzero(mask))


def test_gymnasiums_own_checker_finds_nothing() -> None:
    check_env(gymnasium.make(f"orchestrator.fleet_env:{ID}").unwrapped, skip_render_check=True)


def test_it_is_made_by_its_name_once_its_module_was_named_or_imported() -> None:
    for known in (f"gymnasium.make('orchestrator.fleet_env:{ID}')", "import orchestrator.fleet_env"):
        script = f"""
import gymnasium
try:
    gymnasium.make({ID!r})
except gymnasium.error.Error:
    {known}
    print(gymnasium.make({ID!r}).unwrapped)
"""
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        assert "FleetEnv" in done.stdout


def test_every_request_of_an_episode_ends_and_equal_seeds_are_equal_episodes() -> None:
    env = FleetEnv(preference=(0.5, 0.2, 0.3))
    earned, totals = play(env, at_random(1), seed=7)
    assert totals["answered"] + totals["lost"] == totals["requests"] == 400
    assert play(env, at_random(1), seed=7)[0] == earned
    assert play(env, at_random(1), seed=8)[0] != earned


def test_rewards_are_the_parts_weighed_and_what_is_masked_counts_as_holding() -> None:
    env = FleetEnv(preference=(1.0, 0.0, 0.0))
    _, info = env.reset(seed=3)
    assert (env.action_masks() == info["action_mask"]).all()
    _, reward, _, _, info = env.step(np.int64(np.flatnonzero(info["action_mask"])[0]))
    assert reward == pytest.approx(info["rewards"]["accuracy"] + info["rewards"]["lateness"])
    masked = int(np.flatnonzero(~env.action_masks())[0])
    env.step(np.int64(masked))


def test_a_scenario_of_ones_own_is_taken_or_refused_in_words(tmp_path: Path) -> None:
    env = FleetEnv(SCENARIO)
    assert env.observation_space.contains(env.reset(seed=1)[0])
    with pytest.raises(ConfigError, match="can't read the scenario"):
        FleetEnv(tmp_path / "none.yaml")


def test_the_example_learns_more_than_chance_and_any_single_action_on_fresh_arrivals() -> None:
    pytest.importorskip("sb3_contrib", reason="learning needs sb3-contrib: pip install 'slim-scheduler[learn]'")
    command = [sys.executable, str(EXAMPLE), "8192"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # of so small a network threads only wait for each other
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    earned = {name: float(value) for name, value in re.findall(r"(.+): (-?[0-9.]+)", done.stdout)}
    assert earned["learned"] > earned["at random"] + 0.15
    assert earned["learned"] > earned["one action"] + 0.05


def test_the_page_shows_the_example_as_it_is() -> None:
    assert f"```python\n{EXAMPLE.read_text()}```" in (ROOT / "docs" / "learning.md").read_text()
