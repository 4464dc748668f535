"""Who is held against whom: policies by their specs, under the names that tables give them.

One learned policy stands at several points of its frontier, by the weights in its spec
(``ppo-slim,accuracy=0,latency=0,energy=1``). A heuristic that was tuned keeps its name and has another spec in each
scenario.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from orchestrator.policies import RowPolicy, parse_policy
from orchestrator.policies.learned import LEARNED_NAMES, SLIM, LearnedPolicy, PolicyFile

LEARNED: Final = SLIM
UNTUNED: Final = " untuned"
"""Ends the label of a policy with its own defaults beside the tuned one, on validation scenarios."""


@dataclass(frozen=True, slots=True)
class PolicyEntry:
    """One policy in one scenario.

    Attributes:
        label: What tables call it, the same in all scenarios.
        spec: The spec that is run.
        identity: The spec, and of a learned policy what its file holds; equal only for what decides alike.
        is_tuned: Whether the spec was tuned on the scenario's validation file.
    """

    label: str
    spec: str
    identity: str
    is_tuned: bool = False


def make_entry(label: str, spec: str, *, is_tuned: bool = False) -> PolicyEntry:
    """Return a policy in a scenario.

    Raises:
        ConfigError: when there is no such policy, or a learned policy's file can't be used.
    """
    policy = open_policy(spec)
    identity = f"{spec} {_digest(policy.file)}" if isinstance(policy, LearnedPolicy) else spec
    return PolicyEntry(label, spec, identity, is_tuned)


@lru_cache(maxsize=64)
def open_policy(spec: str) -> RowPolicy:
    """Return the policy of a spec; all that it remembers is kept by the world that it decides in.

    Raises:
        ConfigError: when there is no such policy, or a learned policy's file can't be used.
    """
    return parse_policy(spec)


def head_of(label: str) -> str:
    """Return which policy it is, without width rule, file or knobs."""
    return label.partition(",")[0].partition(":")[0].removesuffix(UNTUNED)


def is_learned(label: str) -> bool:
    """Return whether a label is of a learned policy."""
    return head_of(label) in LEARNED_NAMES


def _digest(file: PolicyFile) -> str:
    """Return what tells one learned policy from another: all of its file that decides."""
    found = hashlib.sha256(repr((file.kind, file.base, file.preference, file.strength, file.fleet)).encode())
    for name in sorted(file.weights):
        found.update(name.encode() + file.weights[name].tobytes())
    found.update(file.low.tobytes() + file.high.tobytes())
    return found.hexdigest()[:12]
