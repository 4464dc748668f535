"""The scenarios that are shipped: what may be learned and chosen on is not what is reported."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from orchestrator.simulation.scenario.settings import load_scenario
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.scenario.workloads import read_times

ROOT = Path(__file__).parents[3]
SCENARIOS = ROOT / "scenarios"


def paths(folder: str) -> list[Path]:
    found = sorted((SCENARIOS / folder).glob("*.yaml"))
    assert found, folder
    return found


SEEN = [*paths("validation"), *paths("validation/paper")]
PAPER = paths("test/paper")
FROZEN = paths("test/frozen")  # tests/benchmarks/frozen says what they are


def what_is_asked(path: Path) -> tuple[object, ...]:
    """Return fleet, workload and objectives as values; names of scenario and servers do not count."""
    settings, servers = load_scenario(path)
    fleet = sorted((repr(s.models), s.idle_w) for s in servers)
    return fleet, settings.workload, settings.objectives


@pytest.mark.parametrize("path", [*SEEN, *PAPER], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_each_can_be_drawn_and_is_small_enough_to_run_many_times(path: Path) -> None:
    settings, servers = load_scenario(path)
    assert settings.name == path.stem
    assert 20_000 <= settings.workload.requests <= 60_000
    arrived_s = draw_trace(settings, servers, 0).arrived_s
    assert (np.diff(arrived_s) >= 0).all()
    assert arrived_s[-1] * 1e3 > 5 * settings.objectives.deadline_ms


def test_nothing_that_is_reported_was_seen_in_training_or_validation() -> None:
    seen = [what_is_asked(path) for path in SEEN]
    reported = [what_is_asked(path) for path in [*PAPER, *FROZEN]]
    for at, (path, asked) in enumerate(zip([*PAPER, *FROZEN], reported, strict=True)):
        assert asked not in seen, path
        assert asked not in reported[:at], path


def test_each_load_of_the_paper_has_a_sister_of_another_load_and_deadline() -> None:
    assert [p.name for p in paths("test/paper")] == [p.name for p in paths("validation/paper")]
    for path in paths("test/paper"):
        test, fleet = load_scenario(path)
        sister, same = load_scenario(SCENARIOS / "validation" / "paper" / path.name)
        assert same == fleet
        assert sister.workload.load_ratio != test.workload.load_ratio
        assert sister.objectives.deadline_ms != test.objectives.deadline_ms


def test_recorded_arrivals_are_bursty_and_say_where_they_are_from() -> None:
    path = SCENARIOS / "traces" / "azure-llm-code-a.txt"
    gaps = np.diff(read_times(path))
    assert gaps.var() / gaps.mean() ** 2 > 40
    assert "Microsoft, licensed CC-BY" in path.read_text()
