"""A routing policy learned by MaskablePPO of sb3-contrib; needs the extra `learn`. Run: python learn.py [STEPS]."""

import sys

import gymnasium
import numpy as np
from sb3_contrib import MaskablePPO

env = gymnasium.make("orchestrator.fleet_env:slim-scheduler/Fleet-v0", preference=(1.0, 0.0, 0.0))


def play(choose, episodes=4):
    """Return the parts of the requests that were in time, and their mean accuracy, over some episodes."""
    found = []
    for seed in range(episodes):
        observation, info = env.reset(seed=seed)
        while "totals" not in info:
            observation, *_, info = env.step(choose(observation, info["action_mask"]))
        found.append((info["totals"]["in_time"] / info["totals"]["requests"], info["totals"]["accuracy"]))
    return "{:.3f} in time, accuracy {:.4f}".format(*np.mean(found, axis=0))


draw = np.random.default_rng(0)
print("at random:", play(lambda observation, mask: draw.choice(np.flatnonzero(mask))), flush=True)
model = MaskablePPO("MlpPolicy", env, n_steps=512, learning_rate=1e-3, seed=0, device="cpu")
model.learn(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
print(
    "learned:  ", play(lambda observation, mask: model.predict(observation, action_masks=mask, deterministic=True)[0])
)
