from __future__ import annotations

from typing import Any

import pytest

from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.utility import make_utility
from tests.simulation.worlds import run, scenario, servers


@pytest.mark.parametrize("unknown", [{"idle_w": None}, {"idle_w": 5.0, "per_item_j": None}])
def test_unknown_joules_count_for_nothing(unknown: dict[str, Any]) -> None:
    model = linear_model(100, per_item_s=0.01, accuracy=0.9, per_item_j=unknown.get("per_item_j", 1.0))
    utility_scale = make_utility(scenario(), servers(1, model, idle_w=unknown["idle_w"]))
    assert utility_scale.most_j is None
    assert utility_scale.utility({"effective_accuracy": 0.8, "joules_per_answer": None}) == 0.8


@pytest.mark.parametrize("energy_weight", [0.0, 0.01, 2 / 15, 1.0])
def test_most_joules_cost_as_much_accuracy_as_the_scenario_says(energy_weight: float) -> None:
    model = linear_model(100, per_item_s=0.01, per_item_j=1.0)
    scale = make_utility(scenario(objectives={"energy_weight": energy_weight}), servers(1, model, idle_w=5.0))
    assert scale.most_j is not None
    dear = scale.utility({"effective_accuracy": 0.8, "joules_per_answer": scale.most_j})
    assert dear == pytest.approx(0.8 - energy_weight)


def test_effective_accuracy_counts_answers_in_time_alone() -> None:
    fleet = servers(2, linear_model(100, per_item_s=0.01, accuracy=0.9))
    result = summarise(run(scenario(load=0.8, objectives={"deadline_ms": 60}), fleet, "random"), seed=0)
    assert 0.1 < result.attainment_ratio < 0.9
    assert result.effective_accuracy == pytest.approx(0.9 * result.attainment_ratio)
