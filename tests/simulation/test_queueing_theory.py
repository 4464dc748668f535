"""What is known of queues must come out: the simulator against formulas, to within the noise of a long run."""

from __future__ import annotations

import math

import numpy as np
import pytest

from orchestrator.simulation.scenario.fleet import linear_model
from orchestrator.simulation.world import columns as sim
from tests.simulation.worlds import latencies_s, patient, run, scenario, servers, single

FIXED = {"learns": False}  # so that no decision depends on what was observed


@pytest.mark.parametrize("load", [0.3, 0.7, 0.85])
def test_m_m_1_stays_exponentially_long(load: float) -> None:
    settings = scenario(requests=300_000, load=load, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    found_s = latencies_s(run(settings, servers(1, single()), exponential=True))
    assert found_s.mean() == pytest.approx(0.01 / (1 - load), rel=0.04)
    # The sojourn time is exponential as well.
    assert np.quantile(found_s, 0.9) == pytest.approx(math.log(10) * 0.01 / (1 - load), rel=0.06)


@pytest.mark.parametrize("sigma", [0.0, 0.5, 1.0])
def test_m_g_1_waits_as_pollaczek_and_khinchine_say(sigma: float) -> None:
    settings = scenario(requests=300_000, load=0.7, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    found_s = latencies_s(run(settings, servers(1, single(sigma=sigma))))
    second_moment = 0.01**2 * math.exp(sigma**2)
    wait_s = 70 * second_moment / (2 * 0.3)
    assert found_s.mean() == pytest.approx(0.01 + wait_s, rel=0.04)


@pytest.mark.parametrize(("instances", "load"), [(2, 0.7), (5, 0.8)])
def test_m_m_c_waits_as_erlang_says(instances: int, load: float) -> None:
    settings = scenario(requests=300_000, load=load, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    found_s = latencies_s(run(settings, servers(1, single(instances=instances)), exponential=True))
    offered = instances * load
    terms = [offered**k / math.factorial(k) for k in range(instances)]
    queued = offered**instances / math.factorial(instances) / (1 - load)
    wait_s = queued / (sum(terms) + queued) * 0.01 / (instances * (1 - load))
    assert found_s.mean() == pytest.approx(0.01 + wait_s, rel=0.03)


@pytest.mark.parametrize(("per_item_s", "fixed_s", "rate_load"), [(0.001, 0.01, 0.5), (0.002, 0.005, 0.8)])
def test_batch_service_stays_under_inoues_bound_and_close_to_it(
    per_item_s: float, fixed_s: float, rate_load: float
) -> None:
    model = linear_model(100, per_item_s=per_item_s, fixed_s=fixed_s, max_batch_size=4096)
    settings = scenario(requests=200_000, load=rate_load, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    simulation = run(settings, servers(1, model))
    a, t, rate = per_item_s, fixed_s, simulation.trace.rate_rps
    loose = (a + t) / (2 * (1 - rate * a)) * (1 + 2 * rate * t + (1 - rate * t) / (1 + rate * a))
    heavy = 1.5 * t / (1 - rate * a) + a / 2 * (rate * a + 2) / (1 - (rate * a) ** 2)
    found_s = latencies_s(simulation).mean()
    assert 0.9 * min(loose, heavy) < found_s < 1.01 * min(loose, heavy)


def test_policies_stand_in_their_known_order_on_like_servers() -> None:
    settings = scenario(requests=100_000, load=0.9, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    fleet = servers(8, single())
    means = [
        latencies_s(run(settings, fleet, policy, exponential=True)).mean()
        for policy in ("lert", "jsq", "p2c-jsq", "round-robin", "random:widest")
    ]
    assert means == sorted(means)
    # Random splits a Poisson stream into Poisson streams: eight queues of their own.
    assert means[-1] == pytest.approx(0.01 / 0.1, rel=0.15)


@pytest.mark.parametrize("policy", ["lert", "jsq", "random"])
def test_what_is_there_is_the_rate_times_the_stay_as_little_says(policy: str) -> None:
    """The time average of how many are there is their rate times how long they stay."""
    settings = scenario(requests=20_000, load=0.8, objectives=patient())
    simulation = run(settings, servers(3, single(), linear_model(50, per_item_s=0.004)), policy)
    arrived_s, answered_s = (np.asarray(simulation.world.requests[field]) for field in (sim.ARRIVED_S, sim.ANSWERED_S))
    grid_s = np.random.default_rng(1).uniform(0, simulation.now_s, 200_000)
    inside = np.searchsorted(np.sort(arrived_s), grid_s, side="right") - np.searchsorted(np.sort(answered_s), grid_s)
    rate_rps = len(arrived_s) / simulation.now_s
    assert inside.mean() == pytest.approx(rate_rps * (answered_s - arrived_s).mean(), rel=0.02)


def test_no_server_rests_while_something_waits() -> None:
    settings = scenario(requests=5_000, load=0.9, objectives=patient(in_flight_groups=1), telemetry=FIXED)
    simulation = run(settings, servers(1, single(sigma=0.7)))
    requests = simulation.world.requests
    arrived_s, sent_s, answered_s = (np.asarray(requests[k]) for k in (sim.ARRIVED_S, sim.SENT_S, sim.ANSWERED_S))
    free_s = np.concatenate([[0.0], answered_s[:-1]])
    assert sent_s == pytest.approx(np.maximum(arrived_s, free_s))
    assert simulation.world.truth[sim.BUSY_S][0] == pytest.approx((answered_s - sent_s).sum())
