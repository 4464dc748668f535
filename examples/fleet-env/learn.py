"""Learn to route in Fleet-v0, and say what a request of fresh arrivals earns. Run: python learn.py [STEPS]."""

import sys

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


def make():
    """Return a fleet of two unlike servers; ``scenario="FILE"`` is another one."""
    return gymnasium.make("orchestrator.fleet_env:slim-scheduler/Fleet-v0")


def earn(choose, seeds=range(10_000, 10_010)):
    """Return what a request earns over some episodes, by a function of observation and mask that chooses."""
    env, earned = make(), []
    for seed in seeds:
        (seen, info), total = env.reset(seed=seed), 0.0
        while "totals" not in info:
            seen, reward, *_, info = env.step(choose(seen, info["action_mask"]))
            total += reward
        earned.append(total / info["totals"]["requests"])
    return np.mean(earned).round(3)


draw = np.random.default_rng(0)
print("at random:", earn(lambda seen, mask: draw.choice(np.flatnonzero(mask))))
sends = range(4, 12, 2)  # each candidate's whole batch; 1 holds
ones = [lambda seen, mask, one=one: one if mask[one] else 1 if mask[1] else np.flatnonzero(mask)[0] for one in sends]
print("one action:", max(map(earn, ones)), flush=True)
worlds = VecNormalize(DummyVecEnv([make] * 8), norm_obs=False, gamma=0.98)
model = MaskablePPO("MlpPolicy", worlds, n_steps=256, batch_size=256, learning_rate=1e-3, gamma=0.98, seed=0)
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 16_384)
print("learned:", earn(lambda seen, mask: model.predict(seen, action_masks=mask, deterministic=True)[0]))
