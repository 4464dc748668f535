"""A suite that is small enough for tests, and scores written out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from orchestrator.evaluation.cases import Case, PolicyEntry, load_case
from orchestrator.evaluation.figures import FIGURES
from orchestrator.evaluation.scores import UTILITY, ScenarioScores, Score
from orchestrator.simulation.scenario.digest import digest_scenario
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.scenario.settings import ScenarioSettings
from orchestrator.simulation.utility import Utility
from tests.simulation.worlds import servers

SCENARIO = """\
name: {name}
servers:
  - name: fast
    idle_w: 20
    widths:
      25: {{accuracy: 0.7, item_ms: 0.4, group_ms: 1.0, item_mj: 12, group_mj: 30, sigma: 0.1}}
      100: {{accuracy: 0.8, item_ms: 3.0, group_ms: 1.0, item_mj: 90, group_mj: 30, sigma: 0.1}}
  - name: slow
    idle_w: 8
    widths:
      25: {{accuracy: 0.7, item_ms: 1.2, group_ms: 3.0, item_mj: 9, group_mj: 22, sigma: 0.2}}
      100: {{accuracy: 0.8, item_ms: 9.0, group_ms: 3.0, item_mj: 66, group_mj: 22, sigma: 0.2}}
workload: {{kind: gamma, cv2: 4, load_ratio: {load}, requests: {requests}}}
objectives: {{deadline_ms: 100}}
"""


def digest_of(scenario: Path, requests: int = 300) -> str:
    """Return what a cell says of its scenario."""
    return digest_scenario(*load_case(scenario, requests))


def write_suite(
    root: Path, suite: str = "own", *, stems: Sequence[str] = ("calm", "wild"), requests: int = 300
) -> Path:
    """Write test and validation scenarios and return their folder."""
    for folder in (root / "test" / suite, root / "validation"):
        folder.mkdir(parents=True, exist_ok=True)
        for at, stem in enumerate(stems):
            load = 0.4 + 0.3 * at + (0.05 if folder.name == "validation" else 0)
            (folder / f"{stem}.yaml").write_text(SCENARIO.format(name=stem, load=load, requests=requests))
    return root


def score(label: str, *, traces: int = 8, is_tuned: bool = False, **figures: float | Sequence[float]) -> Score:
    """Return a score with the same figure on every trace, or one a trace; those left out are unknown."""
    values = {name: np.full(traces, np.nan) for name in (UTILITY, *FIGURES)}
    values |= {name: np.broadcast_to(np.asarray(value, float), traces) for name, value in figures.items()}
    counts = np.zeros(70, int)
    return Score(
        PolicyEntry(label, label, label, is_tuned), values, 1, None, counts, {25: 1.0}, (1.0,), None, None, 0.0
    )


def scenario_scores(
    stem: str, scores: Sequence[Score], *, is_validation: bool = False, load_ratio: float = 0.6, **more: Any
) -> ScenarioScores:
    """Return a scenario with scores."""
    own: Mapping[str, Score] = {s.entry.label: s for s in scores}
    fleet = tuple(servers(2, linear_model(25, per_item_s=0.001), linear_model(100, per_item_s=0.004)))
    case = Case(stem, is_validation, Path("nowhere"), None, tuple(range(8)), tuple(s.entry for s in scores), "x")
    workload = {"kind": "gamma", "cv2": 4.0, "load_ratio": load_ratio, "load_of_width": 100, "requests": 1000}
    settings = ScenarioSettings.model_validate(
        {"name": stem, "servers": [{"name": "s", "widths": {100: {"item_ms": 1}}}], "workload": workload}
    )
    values: dict[str, Any] = {
        "settings": settings, "fleet": fleet, "rate_rps": 100.0, "cv2": 4.0, "utility_scale": Utility(1.0, 2 / 15),
        "most_accuracy": 1.0, "most_utility": 0.8,
    }  # fmt: skip
    return ScenarioScores(case=case, scores=own, **(values | more))
