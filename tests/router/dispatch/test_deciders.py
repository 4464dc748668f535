"""Who decides by which settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.config import GuardSettings, RouterSettings
from orchestrator.errors import ConfigError
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


def test_what_a_request_prefers_is_a_rule_whatever_policy_decides_about_the_others(tmp_path: Path) -> None:
    path = tmp_path / "policy.npz"
    write_policy_file(path, slim("alert"))
    found = deciders(policy="ppo-slim", policy_file=path)
    assert [p.name for p in found.observing] == ["ppo-slim"]
    assert (found.policies[False].policy.name, found.policies[True].policy.name) == ("ppo-slim", "preferred")


@pytest.mark.parametrize("asked", ["policy", "shadow_policy"])
@pytest.mark.parametrize("binding", ["policy", "early"])
def test_devices_are_seen_by_a_learned_policy_also_in_the_shadow_of_one_that_binds_early(
    tmp_path: Path, asked: str, binding: str
) -> None:
    path = tmp_path / "policy.npz"
    write_policy_file(path, slim())
    if (asked, binding) == ("policy", "early"):
        with pytest.raises(ConfigError, match="was trained to bind late"):
            deciders(policy="ppo-slim", policy_file=path, binding=binding)
        return
    assert deciders(**{"policy": "lert", asked: "ppo-slim"}, policy_file=path, binding=binding).sees_devices
    assert not deciders(policy="lert", binding=binding).sees_devices
