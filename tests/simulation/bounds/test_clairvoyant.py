from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations, pairwise

import numpy as np
import pytest

from orchestrator.errors import ConfigError
from orchestrator.policies.parsing import parse_policy
from orchestrator.simulation.bounds.clairvoyant import plan_window
from orchestrator.simulation.bounds.overview import measure_window
from orchestrator.simulation.scenario.fleet import SimulatedServer, linear_model
from orchestrator.simulation.scenario.trace import draw_trace
from orchestrator.simulation.world import columns as sim
from orchestrator.snapshot import ServerName
from tests.simulation.worlds import on_hosts, run, scenario, servers


def brute_force(fleet: Sequence[SimulatedServer], arrived: Sequence[int], due: int, exchange: float) -> float:
    """Return the most by trying everything at every step of a second: the times of such cases are whole."""
    last = max(arrived) + due

    @cache
    def best(now: int, free: tuple[int, ...], left: frozenset[int]) -> float:
        if now >= last or not left:
            return 0.0
        found = best(now + 1, free, left)
        ready = [i for i in left if arrived[i] <= now]
        for at, server in enumerate(fleet):
            if free[at] > now:
                continue
            for model in server.models:
                for size in range(1, min(len(ready), model.max_batch_size) + 1):
                    end = now + round(model.service_s[size - 1])
                    joules = 0.0 if model.energy_j is None else model.energy_j[size - 1]
                    for batch in combinations(ready, size):
                        if any(arrived[i] + due < end for i in batch):
                            continue
                        after = (*free[:at], end, *free[at + 1 :])
                        earned = size * model.accuracy - exchange * joules
                        found = max(found, earned + best(now, after, left - set(batch)))
        return found

    return best(0, (0,) * len(fleet), frozenset(range(len(arrived))))


def fleet_of(rng: np.random.Generator, count: int) -> list[SimulatedServer]:
    return [
        SimulatedServer(
            ServerName(f"s{at}"),
            tuple(
                linear_model(
                    width,
                    per_item_s=int(rng.integers(1, 3)) * (1 + (width == 100)),
                    fixed_s=int(rng.integers(0, 3)),
                    max_batch_size=3,
                    accuracy=0.7 if width == 25 else 0.9,
                    per_item_j=float(rng.integers(0, 3)),
                    fixed_j=1.0,
                )
                for width in (25, 100)
            ),
        )
        for at in range(count)
    ]


@pytest.mark.parametrize("seed", range(24))
def test_the_plan_is_the_best_of_all_there_are(seed: int) -> None:
    rng = np.random.default_rng(seed)
    fleet, exchange = fleet_of(rng, 1 + seed % 2), [0.0, 0.05, 0.2][seed % 3]
    arrived = sorted(int(t) for t in rng.integers(0, 6, 4 + seed % 2))
    due = int(rng.integers(3, 7))
    found = plan_window(fleet, arrived, due, exchange=exchange, step_s=1.0, gap=0.0)
    assert found.earned == pytest.approx(brute_force(fleet, arrived, due, exchange))
    assert found.most == pytest.approx(found.earned, rel=1e-3)


def test_the_plan_can_be_carried_out() -> None:
    rng = np.random.default_rng(5)
    fleet = fleet_of(rng, 3)
    arrived = np.sort(rng.integers(0, 20, 25)).astype(float)
    found = plan_window(fleet, list(arrived), 9.0, exchange=0.05, step_s=1.0)
    left = list(arrived)
    for batch in sorted(found.plan, key=lambda b: b.end):
        # Of those that have come the one that is due first, but not before the end.
        fit = [a for a in left if a <= batch.start and a + 9 >= batch.end][: batch.items]
        assert len(fit) == batch.items
        for arrival in fit:
            left.remove(arrival)
    for server in range(3):
        own = [b for b in found.plan if b.server == server]
        assert all(first.end <= following.start for first, following in pairwise(own))


@pytest.mark.parametrize("seed", [0, 1])
def test_no_policy_earns_more(seed: int) -> None:
    narrow = linear_model(
        25, per_item_s=0.001, fixed_s=0.002, accuracy=0.7, per_item_j=0.5, fixed_j=1, max_batch_size=6
    )
    wide = linear_model(100, per_item_s=0.004, fixed_s=0.002, accuracy=0.9, per_item_j=2, fixed_j=1, max_batch_size=6)
    fleet = [*servers(1, narrow, wide), SimulatedServer(ServerName("narrow"), (narrow,))]
    settings = scenario(requests=16, load=0.5, workload={"kind": "gamma", "cv2": 4}, objectives={"deadline_ms": 20})
    trace = draw_trace(settings, fleet, seed)
    bound = plan_window(fleet, trace.arrived_s.tolist(), 0.02, exchange=0.01, step_s=0.001)
    earned = {}
    for policy in ("lert:slack", "lert:25", "max-accuracy", "slackfit", "nexus", "random"):
        simulation = run(settings, fleet, policy, seed=seed)
        requests = simulation.world.requests
        in_time = np.asarray(requests[sim.ANSWERED_S]) <= np.asarray(requests[sim.DEADLINE_S])
        in_time &= np.asarray(requests[sim.STATUS]) == sim.ANSWERED
        joules = sum(simulation.world.truth[sim.BUSY_J][at] for at in range(2))
        earned[policy] = np.asarray(requests[sim.ACCURACY])[in_time].sum() - 0.01 * joules
    assert max(earned.values()) <= bound.most + 1e-9
    assert max(earned.values()) > 0.8 * bound.most


def test_what_is_too_much_or_too_fine_is_refused() -> None:
    fleet = servers(2, linear_model(100, per_item_s=0.01))
    for arguments, problem in (
        ((servers(4, *fleet[0].models), [0.0], 0.1, 0.01), "plans for 1 to 3 servers, not 4"),
        ((fleet, [0.0] * 61, 0.1, 0.01), "plans for 1 to 60 requests, not 61"),
        ((fleet, [0.0], 0.1, 0.02), "a step of 0.02 s must be above 0 and at most the shortest batch, 0.01 s"),
        ((fleet, [0.0] * 60, 10.0, 0.001), "possible batches, above the limit of 60000"),
        (
            ([replace(fleet[0], models=(linear_model(100, per_item_s=0.01, instances=2),))], [0.0], 0.1, 0.01),
            "has 2 instances of width 100",
        ),
    ):
        with pytest.raises(ConfigError, match=problem):
            plan_window(arguments[0], arguments[1], arguments[2], exchange=0.0, step_s=arguments[3])


def test_nothing_can_be_earned_where_nothing_is_in_time() -> None:
    found = plan_window(servers(1, linear_model(100, per_item_s=1.0)), [0.0, 1.0], 0.5, exchange=0.0, step_s=0.5)
    assert (found.most, found.earned, found.plan) == (0.0, 0.0, ())


def test_hosts_are_left_out_of_a_window_for_policies_too() -> None:
    """Their residual factors let batches take less than the profile says, of which a clairvoyant knows nothing."""
    narrow = linear_model(50, per_item_s=0.006, fixed_s=0.004, accuracy=0.5)
    wide = linear_model(100, per_item_s=0.012, fixed_s=0.004, accuracy=1.0)
    fleet = servers(1, narrow, wide)
    residuals = {"factors": [0.75, 0.75, 0.75, 1.75]}
    hosts = [{"name": "h", "cores": 1, "servers": {str(fleet[0].name): 0}, "residuals": residuals}]
    given = on_hosts(scenario(objectives={"deadline_ms": 15}), fleet, hosts)
    for seed in range(8):
        window = measure_window(given, fleet, [parse_policy("lert:100")], requests=1, seed=seed)
        assert window.earned[0] <= window.bound.most + 1e-9
