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
HELD_OUT = {p.name for p in (ROOT / "profiles" / "synthetic" / "held-out").glob("*.json")}


def paths(folder: str) -> list[Path]:
    found = sorted((SCENARIOS / folder).glob("*.yaml"))
    assert found, folder
    return found


SEEN = [*paths("validation"), *paths("validation/paper")]
SUITES = [*paths("test/paper"), *paths("test/standard"), *paths("test/generalisation")]
FROZEN = paths("test/frozen")  # tests/benchmarks/frozen says what they are


def profiles(path: Path) -> set[Path]:
    settings, _ = load_scenario(path)
    return {(path.parent / s.profile).resolve() for s in settings.servers if s.profile is not None}


def what_is_asked(path: Path) -> tuple[object, ...]:
    """Return fleet, workload and objectives as values; names of scenario and servers do not count."""
    settings, servers = load_scenario(path)
    fleet = sorted((repr(s.models), s.idle_w) for s in servers)
    return fleet, settings.workload, settings.objectives


@pytest.mark.parametrize("path", [*SEEN, *SUITES], ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_each_can_be_drawn_and_is_small_enough_to_run_many_times(path: Path) -> None:
    settings, servers = load_scenario(path)
    assert settings.name == path.stem
    assert 20_000 <= settings.workload.requests <= 60_000
    arrived_s = draw_trace(settings, servers, 0).arrived_s
    assert (np.diff(arrived_s) >= 0).all()
    assert arrived_s[-1] * 1e3 > 5 * settings.objectives.deadline_ms


def test_nothing_that_is_reported_was_seen_in_training_or_validation() -> None:
    seen = [what_is_asked(path) for path in SEEN]
    reported = [what_is_asked(path) for path in [*SUITES, *FROZEN]]
    for at, (path, asked) in enumerate(zip([*SUITES, *FROZEN], reported, strict=True)):
        assert asked not in seen, path
        assert asked not in reported[:at], path


def test_each_standard_scenario_has_a_sister_of_its_kind_but_of_another_draw() -> None:
    assert [p.name for p in paths("test/standard")] == [p.name for p in paths("validation")]
    for path in paths("test/standard"):
        test, _ = load_scenario(path)
        sister, _ = load_scenario(SCENARIOS / "validation" / path.name)
        assert sister.workload.kind == test.workload.kind
        assert sister.workload.load_ratio != test.workload.load_ratio
        assert sister.objectives.deadline_ms != test.objectives.deadline_ms
        assert profiles(SCENARIOS / "validation" / path.name) <= profiles(path)
        if sister.workload.file is not None:
            assert sister.workload.file != test.workload.file


def test_each_load_of_the_paper_has_a_sister_of_another_load_and_deadline() -> None:
    assert [p.name for p in paths("test/paper")] == [p.name for p in paths("validation/paper")]
    for path in paths("test/paper"):
        test, fleet = load_scenario(path)
        sister, same = load_scenario(SCENARIOS / "validation" / "paper" / path.name)
        assert same == fleet
        assert sister.workload.load_ratio != test.workload.load_ratio
        assert sister.objectives.deadline_ms != test.objectives.deadline_ms


def test_held_out_machines_are_in_the_generalisation_suite_only() -> None:
    used = {path: {p.name for p in profiles(path)} & HELD_OUT for path in [*SEEN, *SUITES, *FROZEN]}
    assert set().union(*used.values()) == HELD_OUT
    assert {path.parent.name for path, names in used.items() if names} == {"generalisation"}


def test_generalisation_goes_beyond_what_was_seen() -> None:
    def most(of: list[Path]) -> tuple[int, float]:
        loaded = [load_scenario(path) for path in of]
        bursts = [s.workload.cv2 for s, _ in loaded if s.workload.kind == "gamma"]
        return max(len(servers) for _, servers in loaded), max(bursts)

    seen_servers, seen_cv2 = most(SEEN)
    servers, cv2 = most(paths("test/generalisation"))
    assert servers >= 64 > 4 * seen_servers
    assert cv2 >= 32 > 3 * seen_cv2


@pytest.mark.parametrize("part", ["a", "b"])
def test_recorded_arrivals_are_bursty_and_say_where_they_are_from(part: str) -> None:
    path = SCENARIOS / "traces" / f"azure-llm-code-{part}.txt"
    gaps = np.diff(read_times(path))
    assert gaps.var() / gaps.mean() ** 2 > 40
    assert "Microsoft, licensed CC-BY" in path.read_text()
