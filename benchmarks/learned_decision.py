"""How long a learned policy takes: its network alone, and held against the bars, the whole decision.

What weights cost does not depend on what they are, so freshly drawn ones are timed; half of what is behind a relu is 0,
as in a trained network.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from orchestrator.policies.learned import features as feat
from orchestrator.policies.learned.actions import ACTIONS
from orchestrator.policies.learned.network import new_hidden, pack, score, untrained
from orchestrator.policies.learned.policy import LearnedPolicy
from orchestrator.policies.learned.policy_file import PolicyFile
from orchestrator.policies.tables.compiled import new_column, new_table

NETWORK_BARS_US = {4: 25.0, 64: 100.0}
"""p99 at most, by servers of four widths."""
DECISION_BARS_US = {4: 50.0, 64: 150.0}
"""Likewise of the whole decision, features and masks included."""


@dataclass(frozen=True, slots=True)
class NetworkTiming:
    """What the network alone takes.

    Attributes:
        servers: Servers in the fleet, of four widths.
        candidates: Candidates that are scored.
        p50_us, p99_us: Quantiles of the calls.
    """

    servers: int
    candidates: int
    p50_us: float
    p99_us: float


def drawn_policy() -> LearnedPolicy:
    """Return a ppo-slim that trusts everything, with drawn weights."""
    low = np.full(feat.FEATURES + feat.CONTEXT, -1, np.float32)
    return LearnedPolicy(PolicyFile("ppo-slim", "lert:slack", untrained(), low, -low))


def measure_network(servers: int, repeats: int = 3000) -> NetworkTiming:
    """Return how long it takes to score the candidates of so many servers."""
    rng = np.random.default_rng(0)
    considered = min(feat.ROWS, 4 * servers)
    lines, context, scores = new_table(feat.ROWS, feat.FEATURES), new_column(feat.CONTEXT), new_column(ACTIONS)
    for line in range(considered):
        for feature in range(feat.FEATURES):
            lines[line][feature] = float(rng.uniform(-1, 1))
    params, hidden = pack(untrained()), new_hidden()
    took_s = []
    for turn in range(-10, repeats):
        began_s = time.perf_counter()
        score(lines, considered, context, params, 5.0, hidden, scores)
        if turn >= 0:
            took_s.append(time.perf_counter() - began_s)
    took_s.sort()
    return NetworkTiming(servers, considered, 1e6 * took_s[repeats // 2], 1e6 * took_s[repeats * 99 // 100])
