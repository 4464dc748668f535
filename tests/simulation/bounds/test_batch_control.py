from __future__ import annotations

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.simulation.bounds.batch_control import BatchServer
from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import latencies_s, patient, run, scenario, servers

SERVICE_S = [0.002 + 0.001 * n for n in range(1, 17)]
ENERGY_J = [0.5 + 0.05 * n for n in range(1, 17)]


def test_items_one_by_one_wait_as_pollaczek_and_khinchine_say() -> None:
    server = BatchServer([0.01], [0.3], 70.0, most=400)
    found = server.evaluate(server.greedy(), worth=0.0)
    assert found.response_s == pytest.approx(0.01 + 70 * 0.01**2 / (2 * 0.3), rel=1e-6)
    assert found.power_w == pytest.approx(70 * 0.3, rel=1e-6)


@pytest.mark.parametrize("limit", [1, 4, 12])
def test_a_control_limit_costs_what_the_simulator_says(limit: int) -> None:
    model = linear_model(100, per_item_s=0.001, fixed_s=0.002, max_batch_size=16, per_item_j=0.05, fixed_j=0.5)
    settings = scenario(
        requests=150_000,
        load=0.4,
        objectives=patient(in_flight_groups=1),
        telemetry={"learns": False},
    )
    simulation = run(settings, servers(1, model, idle_w=0), f"control-limit:100,limit={limit}")
    server = BatchServer(SERVICE_S, ENERGY_J, simulation.trace.rate_rps)
    found = server.evaluate(server.with_limit(limit), worth=0.001)
    # The last ones wait for a batch that never fills.
    assert latencies_s(simulation)[:-100].mean() == pytest.approx(found.response_s, rel=0.02)
    assert simulation.world.truth[sim.BUSY_J][0] / simulation.trace.arrived_s[-1] == pytest.approx(
        found.power_w, rel=0.02
    )
    assert found.cost == pytest.approx(found.response_s + 0.001 * found.power_w)


@pytest.mark.parametrize("worth", [0.0, 1e-5, 1e-4, 1e-3])
@pytest.mark.parametrize("rate_rps", [50.0, 300.0, 700.0])
def test_no_limit_costs_less_than_the_optimum_and_the_best_is_as_good(worth: float, rate_rps: float) -> None:
    server = BatchServer(SERVICE_S, ENERGY_J, rate_rps)
    best = server.optimum(worth=worth)
    costs = [server.evaluate(server.with_limit(limit), worth=worth).cost for limit in range(1, 17)]
    assert best.cost <= min(costs) * (1 + 1e-9)
    assert all(batch > 0 for batch in best.batch[best.limit :])
    assert min(costs) <= best.cost * 1.001
    assert int(np.argmin(costs)) + 1 == pytest.approx(best.limit, abs=1)


def test_the_dearer_a_watt_the_longer_it_waits() -> None:
    server = BatchServer(SERVICE_S, ENERGY_J, 300.0)
    rules = [server.optimum(worth=worth) for worth in (0.0, 3e-5, 3e-4, 3e-3)]
    assert [r.limit for r in rules] == sorted(r.limit for r in rules)
    assert rules[0].limit == 1
    assert rules[-1].limit > 10
    assert [r.power_w for r in rules] == sorted((r.power_w for r in rules), reverse=True)
    assert [r.response_s for r in rules] == sorted(r.response_s for r in rules)


def test_a_random_rule_is_never_better() -> None:
    rng, server = np.random.default_rng(3), BatchServer(SERVICE_S[:4], ENERGY_J[:4], 300.0, most=16)
    best = server.optimum(worth=1e-4)
    for _ in range(50):
        rule = [int(rng.integers(0 if q < 12 else 1, min(q, 4) + 1)) for q in range(17)]
        assert server.evaluate(rule, worth=1e-4).cost >= best.cost * (1 - 1e-9)


def test_a_rate_that_can_not_be_served_is_refused() -> None:
    for rate_rps in (0.0, 900.0):
        with pytest.raises(ConfigError, match=f"a rate of {rate_rps:g} items/s is not above 0 and below the 888.889"):
            BatchServer(SERVICE_S, ENERGY_J, rate_rps)
