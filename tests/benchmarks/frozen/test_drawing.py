"""The frozen scenarios: that they are what was committed first, of the kinds that were promised."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.frozen import DIGEST
from benchmarks.frozen.drawing import FOLDER, KINDS, SMALL, digest_all, draw, requests_a_deadline
from orchestrator.simulation.scenario.settings import load_scenario, parse_scenario
from orchestrator.simulation.scenario.trace import draw_trace

ROOT = Path(__file__).parents[3]
PATHS = sorted((ROOT / FOLDER).glob("*.yaml"))


def test_the_frozen_scenarios_are_those_that_were_committed_before_anything_was_fitted_to_them() -> None:
    assert digest_all(ROOT / FOLDER) == DIGEST


def test_there_are_two_of_each_kind_and_half_have_few_requests_a_deadline() -> None:
    assert sorted(p.stem for p in PATHS) == sorted(f"{kind}-{number}" for kind in KINDS for number in (1, 2))
    loaded = {path.stem: load_scenario(path) for path in PATHS}
    per_deadline = {stem: requests_a_deadline(settings, servers) for stem, (settings, servers) in loaded.items()}
    assert 2 * sum(5 <= count <= 50 for count in per_deadline.values()) >= len(PATHS) >= 30
    for stem, (settings, servers) in loaded.items():
        assert settings.workload.requests >= 200 * per_deadline[stem]
        assert (settings.workload.requests >= 1000 * per_deadline[stem]) == stem.startswith("days")
        assert len(servers) <= SMALL or not stem.startswith("small")


@pytest.mark.parametrize("kind", KINDS)
def test_other_seeds_give_other_worlds_of_a_kind_and_the_same_seed_the_same(kind: str) -> None:
    texts = [draw(kind, "drawn", seed, is_few=True, root=ROOT) for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]
    settings, servers = parse_scenario(texts[2], source=kind, folder=ROOT)
    assert len(draw_trace(settings, servers, 0).arrived_s) == settings.workload.requests
