from __future__ import annotations

import numpy as np
import pytest

from orchestrator.evaluation.figures import FIGURES, LATENCY_EDGES_S, take_figures, take_timeline
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.utility import Utility, make_utility
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import patient, run, scenario, servers


def test_figures_of_a_run_are_what_its_requests_say() -> None:
    model = linear_model(50, per_item_s=0.01, max_batch_size=1, accuracy=0.8, per_item_j=2.0)
    simulation = run(scenario(requests=200, load=0.9, objectives={"deadline_ms": 30}), servers(2, model, idle_w=10.0))
    taken = take_figures(simulation, seed=3, fallback_ratio=0.25)
    assert taken.seed == 3
    assert set(taken.figures) == set(FIGURES)
    requests = simulation.world.requests
    latency_s = (np.asarray(requests[sim.ANSWERED_S]) - np.asarray(requests[sim.ARRIVED_S]))[10:]
    in_time = float((latency_s <= 0.03).mean())
    assert 0 < in_time < 1
    figures = taken.figures
    assert figures["attainment_ratio"] == pytest.approx(in_time)
    assert figures["effective_accuracy"] == pytest.approx(0.8 * in_time)
    assert figures["accuracy"] == pytest.approx(0.8)
    assert figures["mean_s"] == pytest.approx(latency_s.mean())
    assert figures["fallback_ratio"] == 0.25
    # Every request takes 2 J and both machines idle at 10 W for the whole time.
    assert figures["joules_per_answer"] == pytest.approx(2 + 20 * simulation.now_s / 200)
    assert sum(taken.latency_counts) == 190
    assert len(taken.latency_counts) == len(LATENCY_EDGES_S) - 1
    assert taken.width_shares == {50: 1.0}
    assert sum(taken.server_shares) == pytest.approx(1)


def test_attributed_energy_is_mean_power_times_latency_and_counts_waiting_twice() -> None:
    model = linear_model(50, per_item_s=0.01, max_batch_size=1, per_item_j=1.0)
    simulation = run(scenario(requests=400, load=2.0, objectives=patient()), servers(1, model, idle_w=100.0))
    figures = take_figures(simulation, seed=0).figures
    power_w = (100 * simulation.now_s + 400) / simulation.now_s
    assert figures["mean_s"] is not None
    assert figures["attributed_j"] == pytest.approx(power_w * figures["mean_s"])
    assert figures["attributed_j"] > 10 * figures["joules_per_answer"]  # type: ignore[operator]


def test_unknown_joules_stay_unknown() -> None:
    simulation = run(scenario(requests=50), servers(1, linear_model(50, per_item_s=0.01)))
    figures = take_figures(simulation, seed=0).figures
    assert figures["joules_per_answer"] is None
    assert figures["attributed_j"] is None


def test_each_of_several_families_has_its_part_in_time() -> None:
    models = [linear_model(50, per_item_s=0.01, family=family) for family in ("cats", "dogs")]
    slow = {"cats": {}, "dogs": {"deadline_ms": 5.0}}
    taken = take_figures(run(scenario(requests=300, load=0.2, families=slow), servers(1, *models)), seed=0)
    assert taken.family_ratios == {"cats": pytest.approx(1.0, abs=0.02), "dogs": 0.0}
    assert take_figures(run(scenario(requests=50), servers(1, models[0])), seed=0).family_ratios == {}


def test_a_timeline_shows_arrivals_and_widths_bin_by_bin() -> None:
    simulation = run(scenario(requests=1000, objectives=patient()), servers(1, linear_model(75, per_item_s=0.01)))
    timeline = take_timeline(simulation)
    width_s = timeline.until_s / len(timeline.arrivals_rps)
    assert sum(timeline.arrivals_rps) * width_s == pytest.approx(1000)
    assert set(timeline.width) <= {75.0, None}
    assert all((w is None) == (latency is None) for w, latency in zip(timeline.width, timeline.latency_s, strict=True))


def test_utility_trades_joules_for_accuracy_at_the_rate_of_the_bars() -> None:
    utility_scale = Utility(2.0, 2 / 15)
    dear = utility_scale.utility({"effective_accuracy": 0.8, "joules_per_answer": 2.0})
    thrifty = utility_scale.utility({"effective_accuracy": 0.78, "joules_per_answer": 2.0 * 0.85})
    assert dear == pytest.approx(0.8 - 2 / 15)
    assert thrifty == pytest.approx(dear)
    assert Utility(None, 2 / 15).utility({"effective_accuracy": 0.5, "joules_per_answer": None}) == 0.5


def test_no_policy_that_keeps_up_spends_more_than_the_most_joules() -> None:
    slow, quick = linear_model(100, per_item_s=0.02, per_item_j=3.0), linear_model(25, per_item_s=0.005, per_item_j=0.5)
    settings, fleet = scenario(requests=600, load=0.2), servers(2, quick, slow, idle_w=15.0)
    utility_scale = make_utility(settings, fleet)
    # Two machines at 15 W idle and 3 J per 20 ms busy, for a fifth of two times 200 items a second.
    assert utility_scale.most_j == pytest.approx(2 * (15 + 150) / 80)
    for policy in ("random", "lert:widest", "lert:narrowest"):
        joules = take_figures(run(settings, fleet, policy), seed=0).figures["joules_per_answer"]
        assert joules is not None
        assert 0 < joules <= utility_scale.most_j
