"""Both sides by hand, and a simulated side held against itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.benchmark.fidelity.compare import Figures, Pair, draw_claims, real_figures, simulated_figures
from orchestrator.benchmark.fidelity.stage import FidelitySettings
from orchestrator.benchmark.fidelity.twin import make_twin
from orchestrator.benchmark.open_loop import Outcome
from orchestrator.profile import read_profile
from orchestrator.snapshot import ServerName, Width

PROFILE = Path(__file__).parents[3] / "profiles" / "demo-fleet.json"


def answer(latency_s: float, width: int = 100) -> Outcome:
    return Outcome(0, 0, ServerName("fast"), Width(width), latency_s, deadline_s=0.1)


def figures(mean_s: float, p99_s: float = 0.1, attainment_ratio: float = 1.0) -> Figures:
    return Figures(mean_s, p99_s, attainment_ratio, accuracy=0.9, answered_ratio=1.0)


def test_figures_are_means_over_rounds_of_what_was_answered() -> None:
    lost = Outcome(0, None, None, None, 0.2, 0.1, error="lost")
    rounds = [[answer(0.02), answer(0.04, width=25)], [answer(0.12), lost]]
    found = real_figures(rounds, {Width(25): 0.8, Width(100): 1.0})
    assert found.mean_s == pytest.approx((0.03 + 0.12) / 2)
    assert found.attainment_ratio == pytest.approx((1 + 0) / 2)
    assert found.answered_ratio == pytest.approx((1 + 0.5) / 2)
    assert found.accuracy == pytest.approx((0.9 + 1.0) / 2)


def test_claims_name_the_worst_policy_and_rank_the_others() -> None:
    pairs = [
        Pair("a", figures(0.010, 0.1, 0.90), figures(0.0104, 0.1, 0.91), 0.0),
        Pair("b", figures(0.020, 0.2, 0.80), figures(0.0190, 0.21, 0.85), 0.0),
        Pair("c", figures(0.030, 0.3, 0.70), figures(0.0270, 0.33, 0.95), 0.0),
    ]
    by_name = {str(claim["name"]): claim for claim in draw_claims(pairs)}
    worst = by_name["mean latency, largest error (c)"]
    assert (worst["value"], worst["met"]) == (0.1, False)
    assert by_name["mean latency, median error"]["value"] == 0.05
    assert by_name["ranking of policies by mean latency, Kendall's tau"]["value"] == 1.0
    attainment = by_name["ranking of policies by deadline attainment, Kendall's tau"]
    assert attainment["value"] == pytest.approx(-1 / 3, abs=1e-3)  # of three pairs one agrees
    assert not attainment["met"]


def test_a_twin_has_the_arrivals_of_its_rounds_and_other_noise_in_every_draw() -> None:
    settings = FidelitySettings(Path("unused"), ("lert",), rounds=2, requests=200)
    twin = make_twin(read_profile(PROFILE), settings)
    assert [len(times_s) for times_s in twin.arrivals_s] == [200, 200]
    assert twin.arrivals_s == make_twin(read_profile(PROFILE), settings).arrivals_s
    results = twin.run("lert", noise_draws=3)
    assert [r.seed for r in results] == [0, 0, 0, 1, 1, 1]
    assert len({r.mean_s for r in results}) == 6
    found = simulated_figures(results)
    assert found.answered_ratio == 1.0
    assert min(r.mean_s or 0 for r in results) < found.mean_s < max(r.mean_s or 0 for r in results)
