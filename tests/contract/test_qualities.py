"""Qualities of any scale, live and simulated: policies are offered the same widths, with the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from orchestrator.policies.fleet.fleet_tables import FleetTables
from orchestrator.policies.parsing import parse_policy
from orchestrator.policies.protocol import Situation
from orchestrator.policies.tables import columns as col
from orchestrator.policies.tables.memory import new_memory
from orchestrator.profile.fit import EnergyTable, LatencyTable
from orchestrator.request_options import RequestOptions
from orchestrator.router.queue.eligibility import judge_eligibility
from orchestrator.simulation.results import summarise
from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.simulation import Simulation
from orchestrator.snapshot import QueueState, ServerName, ServerState
from tests.fakes.servers import item, served_model
from tests.simulation.worlds import run

POINTS = {25: 37.4, 50: 44.9, 100: 50.2}
ERRORS = {25: -0.31, 50: -0.2, 100: -0.12}
RATIOS = {25: 0.61, 50: 0.7, 100: 0.74}


def offered_live(qualities: dict[int, float], least: float | None) -> list[tuple[int, float]]:
    models = tuple(replace(served_model(w), accuracy=quality) for w, quality in qualities.items())
    name = ServerName("a")
    tables = FleetTables([ServerState(name, models)], LatencyTable({}), EnergyTable({}))
    options = RequestOptions(min_accuracy=least)
    key, _, _ = judge_eligibility(item(0), options, [(name, model) for model in models], EnergyTable({}))
    queue = QueueState(1, 1, 1.0, 1.0, key.widths, key.min_accuracy)
    situation = Situation(queue, 0.0, 0, (0.5, 0.5), 1.25, new_memory(1, len(models)))
    return [(c.width, c.accuracy) for c in tables.candidates(situation)]


def simulation_of(folder: Path, qualities: dict[int, float], least: float | None) -> Simulation:
    widths = {width: {"item_ms": width / 10, "accuracy": quality} for width, quality in qualities.items()}
    objectives = {} if least is None else {"min_accuracy": least}
    values = {"name": "any", "servers": [{"name": "a", "widths": widths}], "objectives": objectives}
    path = folder / "scenario.yaml"
    path.write_text(yaml.safe_dump({**values, "workload": {"requests": 300}}))
    settings, fleet = load_scenario(path)
    return run(settings, fleet) if least is None else Simulation(settings, fleet, parse_policy("lert"))


def offered_simulated(simulation: Simulation) -> list[tuple[int, float]]:
    simulation.decide_outside()
    count = simulation.next_decision()
    assert count is not None
    rows = simulation.world.rows[:, :count]
    return list(zip(rows[col.ROW_WIDTH].astype(int).tolist(), rows[col.ROW_ACCURACY].tolist(), strict=True))


@pytest.mark.parametrize(
    ("qualities", "least", "widths"),
    [
        (POINTS, 0.0, [25, 50, 100]),
        (POINTS, 44.9, [50, 100]),
        (ERRORS, -0.2, [50, 100]),
        (ERRORS, -1.0, [25, 50, 100]),
        (RATIOS, 0.72, [100]),
    ],
)
def test_live_and_simulated_policies_are_offered_the_same(
    tmp_path: Path, qualities: dict[int, float], least: float, widths: list[int]
) -> None:
    live = offered_live(qualities, least)
    assert [width for width, _ in live] == widths
    assert live == offered_simulated(simulation_of(tmp_path, qualities, least))


@pytest.mark.parametrize("qualities", [POINTS, ERRORS, RATIOS])
def test_figures_are_of_the_scale_that_policies_see(tmp_path: Path, qualities: dict[int, float]) -> None:
    simulation = simulation_of(tmp_path, qualities, None)
    seen = [quality for _, quality in offered_live(qualities, None)]
    result = summarise(simulation, seed=0)
    assert result.accuracy is not None
    assert min(seen) - 1e-9 <= result.accuracy <= max(seen) + 1e-9
    assert 0 <= result.effective_accuracy <= 1
