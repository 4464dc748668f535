from __future__ import annotations

import pytest

from benchmarks.simulator import POLICIES, REQUESTS, Speed, draw_claims, make_page, run_once, sum_up
from orchestrator.reporting.blocks import render_markdown


@pytest.mark.parametrize("policy", POLICIES)
def test_a_run_makes_the_decisions_of_its_seed_and_more_of_them_for_more_requests(policy: str) -> None:
    def decisions(requests: int, seed: int) -> int:
        return run_once(3, policy, requests, seed)[1]

    few = decisions(200, 0)
    assert few == decisions(200, 0)
    assert 100 <= few <= 400  # a late policy may send two with one decision, or ask twice about one
    assert 1.8 * few < decisions(400, 0) < 2.2 * few


def test_the_speed_is_that_of_the_middle_round_by_its_slowest_process() -> None:
    rounds = [[(1.0, 900), (8.0, 1000)], [(2.0, 900), (4.0, 1100)], [(0.1, 900), (0.2, 1000)]]
    found = sum_up(8, "jsq", 500, rounds)
    assert (found.servers, found.policy, found.workers, found.decisions) == (8, "jsq", 2, 2000)
    assert found.decisions_per_s == pytest.approx(2000 / 4)
    assert found.decision_us == pytest.approx(1e6 * 6 / 2000)
    assert found.requests_per_s == pytest.approx(2 * 500 / 4)


@pytest.mark.parametrize(("small_us", "large_us", "met"), [(5.0, 40.0, (True, True)), (12.0, 97.0, (False, False))])
def test_bars_are_held_against_the_slowest_policy(small_us: float, large_us: float, met: tuple[bool, bool]) -> None:
    costs = {8: small_us, 64: large_us, 1000: 500.0}
    speeds = [
        Speed(n, policy, 2, 10, 2e6 / us, us, 1e6 / us)
        for n, us in costs.items()
        for policy, us in (("quick", us / 2), ("slow", us))
    ]
    assert set(costs) == set(REQUESTS)
    claims = draw_claims(speeds, large_us / small_us)
    assert [claim.is_met for claim in claims] == [*met, True]
    page = render_markdown(make_page(speeds, claims, "a machine", 1.0))
    assert f"| 200,000 | 1/s | {'met' if met[0] else '**not met**'} |".replace("| 200,000", "| ≥ 200,000") in page
    assert "| 64 | `slow` | 2 |" in page
