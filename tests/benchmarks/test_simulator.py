from __future__ import annotations

import pytest

from benchmarks.simulator import POLICIES, REQUESTS, Speed, draw_claims, render_page, run_once


def test_a_run_decides_at_least_once_a_request() -> None:
    for policy in POLICIES:
        took_s, decisions = run_once(3, policy, 200, seed=0)
        assert took_s > 0
        assert decisions >= 100  # a late policy may send two with one decision


@pytest.mark.parametrize(("small_us", "large_us", "met"), [(5.0, 40.0, (True, True)), (12.0, 97.0, (False, False))])
def test_bars_are_held_against_the_slowest_policy(small_us: float, large_us: float, met: tuple[bool, bool]) -> None:
    costs = {8: small_us, 64: large_us, 1000: 500.0}
    speeds = [
        Speed(n, policy, 2, 10, 2e6 / us, us, 1e6 / us)
        for n, us in costs.items()
        for policy, us in (("quick", us / 2), ("slow", us))
    ]
    assert set(costs) == set(REQUESTS)
    claims = draw_claims(speeds)
    assert (claims[0]["met"], claims[1]["met"], claims[2]["met"]) == (*met, True)
    page = render_page(speeds, claims, "a machine", 1.0)
    assert f"| {'yes' if met[0] else 'no'} |" in page
    assert "| 64 | `slow` | 2 |" in page
