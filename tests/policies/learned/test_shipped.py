"""What ships can be used as it is, and says where it comes from."""

from __future__ import annotations

import pytest

from orchestrator.policies.learned.policy import SHIPPED, LearnedPolicy
from orchestrator.policies.parsing import parse_policy


@pytest.mark.parametrize("kind", ["ppo-slim", "ppo-paper", "ppo-paper:accurate"])
def test_the_policies_that_ship_are_small_validated_and_never_worse_there_than_their_base(kind: str) -> None:
    policy = parse_policy(kind)
    assert isinstance(policy, LearnedPolicy)
    assert policy.file.validation["over_base"] > 0
    assert policy.file.provenance["settings"]["seed"] == 0
    assert (SHIPPED / f"{kind.replace(':', '-')}.npz").stat().st_size < 256_000
