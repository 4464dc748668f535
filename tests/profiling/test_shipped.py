"""The measured profile that ships is whole, says what it is, and belongs to the repository that ships with it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from orchestrator.profile.document import EnergySource, Origin, read_profile

ROOT = Path(__file__).parents[2]


def test_the_profile_of_the_demo_fleet_is_about_the_demo_family() -> None:
    profile = read_profile(ROOT / "profiles" / "demo-fleet.json")
    assert [server.origin for server in profile.servers] == [Origin.MEASURED, Origin.EMULATED]
    assert len(profile.conditions.assumptions) == 2
    for server in profile.servers:
        for model in server.models:
            weights = (ROOT / "model_repository" / model.name / "1" / "model.onnx").read_bytes()
            assert model.sha256 == hashlib.sha256(weights).hexdigest()
            assert model.changes is not None
            assert all(batch.n >= 100 for batch in model.batches)
            assert all(batch.energy_source is EnergySource.ESTIMATED for batch in model.batches)
