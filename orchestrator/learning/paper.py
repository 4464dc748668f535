"""ppo-paper as it is trained: stable-baselines3's own PPO and network, for the fleet of one scenario.

What is ours and not the paper's, because that is not public to us: the state (orchestrator.policies.learned.features),
the reward (the preference-weighted sum of orchestrator.simulation.rewards), the network and PPO's settings.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from orchestrator.errors import ConfigError
from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.network import Floats32
from orchestrator.simulation.rewards import Task


def paper_fleet(task: Task) -> tuple[int, int, int]:
    """Return how many servers, widths and batch choices ppo-paper takes from.

    Raises:
        ConfigError: when it can't see them all at once.
    """
    widths = {m.width for s in task.servers for m in s.models}
    most = max(m.max_batch_size for s in task.servers for m in s.models)
    if len(task.servers) * len(widths) > feat.ROWS:
        raise ConfigError(
            f"{task.settings.name} has {len(task.servers)} servers of {len(widths)} widths; ppo-paper sees at most "
            f"{feat.ROWS} pairs, so take a smaller fleet or train ppo-slim"
        )
    return len(task.servers), len(widths), int(math.log2(most)) + 1


def export_paper(model: Any) -> dict[str, Floats32]:
    """Return the weights of a PPO model as a policy file holds them."""
    first, _, second, _ = model.policy.mlp_extractor.policy_net
    layers = {"first": first, "second": second, "out": model.policy.action_net}
    weights: dict[str, Floats32] = {}
    for name, layer in layers.items():
        weights[f"{name}.weight"] = np.ascontiguousarray(layer.weight.detach().numpy().T)
        weights[f"{name}.bias"] = layer.bias.detach().numpy().copy()
    return weights
