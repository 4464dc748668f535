from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.simulation.scenario.capacity import capacity_rps, least_joules, most_accuracy, most_utility
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.simulation.worlds import patient, run, scenario, servers

NARROW = linear_model(25, per_item_s=0.005, max_batch_size=1, accuracy=0.7, per_item_j=1.0)
WIDE = linear_model(100, per_item_s=0.02, max_batch_size=1, accuracy=0.8, per_item_j=3.0)


def test_the_most_utility_is_where_a_points_accuracy_costs_as_much_in_joules() -> None:
    fleet = servers(1, NARROW, WIDE, idle_w=10.0)
    # At 40/s all could be wide: 0.1 of accuracy for 2 J. A joule is worth it below 0.05, and idle power costs 0.25 J.
    assert most_utility(fleet, 40.0, price=0.04) == pytest.approx(0.8 - 0.04 * 3.25)
    assert most_utility(fleet, 40.0, price=0.06) == pytest.approx(0.7 - 0.06 * 1.25)
    # At 80/s 0.4/0.6 of the time is left for 100/3 wide ones a second: five in twelve.
    wide = (1 - 80 * 0.005) / 0.015 / 80
    expected = 0.7 + 0.1 * wide - 0.04 * (1 + 2 * wide + 10 / 80)
    assert most_utility(fleet, 80.0, price=0.04) == pytest.approx(expected)
    assert most_utility(fleet, 300.0, price=0.04) is None


def test_unknown_joules_are_no_bound_unless_they_cost_nothing() -> None:
    fleet = servers(1, NARROW, linear_model(100, per_item_s=0.02, max_batch_size=1, accuracy=0.8), idle_w=10.0)
    assert most_utility(fleet, 80.0, price=0.04) is None
    assert most_utility(fleet, 80.0, price=0.0) == pytest.approx(most_accuracy(fleet, 80.0))
    assert most_utility(fleet, 40.0, price=0.0, min_accuracy=0.75) == pytest.approx(0.8)


@pytest.mark.parametrize("contention", [0.0, 0.5, 1.0])
def test_instances_on_one_device_serve_as_much_as_they_do_in_a_run_and_take_the_joules_of_one(
    contention: float,
) -> None:
    fleet = [replace(s, contention=contention) for s in servers(1, replace(WIDE, instances=3))]
    assert capacity_rps(fleet) == pytest.approx(3 * 50 / (1 + 2 * contention))
    assert most_accuracy(fleet, 0.99 * capacity_rps(fleet)) == pytest.approx(0.8)
    assert most_accuracy(fleet, 1.01 * capacity_rps(fleet)) is None
    crowded = run(scenario(load=3.0, objectives=patient()), fleet).world
    answered_s = np.asarray(crowded.requests[sim.ANSWERED_S])
    assert len(answered_s) / answered_s.max() == pytest.approx(capacity_rps(fleet), rel=0.02)
    assert crowded.truth[sim.BUSY_J].sum() == pytest.approx(3.0 * len(answered_s))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 3), st.floats(0.1, 0.9), st.floats(0.0, 0.5), st.integers(0, 1000))
def test_the_most_utility_is_the_best_of_the_joule_bounds(count: int, load: float, price: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet = [
        SimulatedServer(
            ServerName(f"s{at}"),
            tuple(
                linear_model(
                    w, per_item_s=w * s, accuracy=0.6 + w / 400, per_item_j=w * j, max_batch_size=4, fixed_j=0.01
                )
                for w in (25, 50, 100)
                for s, j in [rng.uniform(1e-5, 1e-4, 2)]
            ),
            idle_w=float(rng.uniform(0, 20)),
        )
        for at in range(count)
    ]
    rate_rps = load * capacity_rps(fleet)
    most = most_accuracy(fleet, rate_rps)
    found = most_utility(fleet, rate_rps, price=price)
    assert most is not None
    assert found is not None
    levels = np.linspace(0.6, most - 1e-9, 200)
    utilities = [a - price * joules for a in levels if (joules := least_joules(fleet, rate_rps, float(a))) is not None]
    assert max(utilities) <= found + 1e-9
    assert max(utilities) == pytest.approx(found, abs=2e-3)
