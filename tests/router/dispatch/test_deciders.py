"""Who decides by which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import GuardSettings, RouterSettings
from orchestrator.policies.learned.policy_file import write_policy_file
from orchestrator.router.dispatch.deciders import Deciders, make_deciders
from orchestrator.router.observer import RouterObserver
from tests.policies.learned.test_policy import slim


def deciders(**settings: Any) -> Deciders:
    return make_deciders(RouterSettings(**settings), RouterObserver())


@pytest.mark.parametrize(
    ("policy", "fallback", "observing"),
    [
        ("alert", "lert:reserve", ["alert"]),
        ("alert", "alert", ["alert"]),
        ("lert", "clipper-aimd", ["clipper-aimd"]),
        ("clockwork", "alert", ["alert", "clockwork"]),
        ("lert", "lert:slack", []),
    ],
)
def test_a_batch_is_observed_once_by_each_policy(policy: str, fallback: str, observing: list[str]) -> None:
    """Also by a fallback, which stands in for two: what it remembers is one."""
    found = deciders(policy=policy, guard=GuardSettings(fallback=fallback)).observing
    assert sorted(p.name for p in found) == observing


def test_a_learned_policy_observes_once_and_is_one_for_requests_with_a_preference_and_without(tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    write_policy_file(path, slim("alert"))
    found = deciders(policy="ppo-slim", policy_file=path)
    assert [p.name for p in found.observing] == ["ppo-slim"]
    assert found.policies[False].policy is found.policies[True].policy
