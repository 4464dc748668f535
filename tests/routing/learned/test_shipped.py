"""What ships can be used as it is, and says where it comes from."""

from __future__ import annotations

from orchestrator.routing import parse_policy
from orchestrator.routing.learned import LearnedPolicy
from orchestrator.routing.learned.policy import SHIPPED


def test_the_policy_that_ships_is_small_validated_and_never_worse_there_than_its_base() -> None:
    policy = parse_policy("ppo-slim")
    assert isinstance(policy, LearnedPolicy)
    assert policy.file.validation["over_base"] > 0
    assert policy.file.provenance["settings"]["seed"] == 0
    assert (SHIPPED / "ppo-slim.npz").stat().st_size < 100_000
