"""The knobs that are shipped: tuned on validation scenarios alone, each policy with the same budget."""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.evaluation.tuning.space import tuned_policies
from orchestrator.policies.parsing import parse_policy

SCENARIOS = Path(__file__).parents[3] / "scenarios"
TUNED = json.loads((SCENARIOS / "tuned.json").read_text())
TRIED = json.loads((SCENARIOS / "tuned.trials.json").read_text())


def test_they_were_tuned_on_validation_scenarios_alone() -> None:
    assert TUNED
    assert set(TUNED) == set(TRIED["trials"]) <= {p.stem for p in (SCENARIOS / "validation").glob("*.yaml")}
    assert "--scenario scenarios/validation" in TRIED["provenance"]["command"]


def test_every_policy_had_the_same_budget_and_its_best_was_kept() -> None:
    for stem, policies in TUNED.items():
        assert list(policies) == list(tuned_policies())
        for policy, best in policies.items():
            parse_policy(best["spec"])
            rows = [dict(zip(TRIED["columns"], row, strict=True)) for row in TRIED["trials"][stem][policy]]
            assert len(rows) == TRIED["provenance"]["budget"]
            assert rows[0]["spec"] == policy
            assert best == max(rows, key=lambda row: row["utility"])
