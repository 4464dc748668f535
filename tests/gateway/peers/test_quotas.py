"""Tenants' quotas over several gateways."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import TenantSettings
from orchestrator.gateway.auth.callers import Caller, Guard, QuotaError
from orchestrator.gateway.peers.quotas import divide, parts_of
from orchestrator.ownership import GatewayName

amounts = st.floats(0, 1e6)
TELLING_S = 0.3
"""How old what a gateway knows of the others may be: a look and a tick."""


@given(st.floats(1e-3, 1e6), st.lists(amounts, min_size=1, max_size=16))
def test_parts_are_the_whole_and_who_asks_for_less_than_an_even_part_gets_it(
    limit: float, demands: list[float]
) -> None:
    parts = divide(limit, demands)
    assert sum(parts) == pytest.approx(limit)
    assert all(
        part >= min(demand, limit / len(demands)) * (1 - 1e-9) for part, demand in zip(parts, demands, strict=True)
    )


def test_an_unbounded_quota_is_everybodys() -> None:
    demands = {GatewayName(name): {"vision": (10.0, 0.0, 1.0)} for name in "ab"}
    found = parts_of(GatewayName("a"), demands, {"vision": (100.0, None, 2.0)})
    assert found == {"vision": (0.5, 1.0, 0.5)}


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def let_in(rates_rps: Sequence[Sequence[float]], *, quota_rps: float, seconds: float, burst_s: float = 0.1) -> int:
    """Return what gateways let in together; each phase of so many seconds has a rate for each gateway."""
    clock, draw, caller = Clock(), random.Random(3), Caller(tenant="vision")
    settings = [
        TenantSettings(
            name="vision", tokens=(), requests_per_s=quota_rps, requests_burst=max(1, int(quota_rps * burst_s))
        )
    ]
    guards = {GatewayName(f"g{n}"): Guard(settings, clock=clock) for n in range(len(rates_rps[0]))}
    told: list[tuple[float, GatewayName, dict[str, tuple[float, float, float]]]] = []
    count, step_s = 0, 0.002
    for step in range(int(seconds * len(rates_rps) / step_s)):
        clock.now_s = step * step_s
        phase = rates_rps[int(clock.now_s / seconds)]
        for (name, guard), rate_rps in zip(guards.items(), phase, strict=True):
            if step % 50 == 0:
                guard.weigh()
                told.append((clock.now_s, name, dict(guard.demands)))
                known = {each: found for at_s, each, found in told if at_s <= clock.now_s - TELLING_S}
                guard.take_parts(
                    parts_of(name, {**{key: {} for key in guards}, **known, name: guard.demands}, guard.quotas)
                )
            if draw.random() < rate_rps * step_s:
                try:
                    guard.charge_request(caller)
                except QuotaError:
                    continue
                count += 1
    return count


@pytest.mark.parametrize(
    "phases",
    [
        [(300, 300, 300, 300)],
        [(500, 10, 0, 0)],
        [(500, 0, 0, 0), (0, 500, 0, 0), (0, 0, 500, 0), (0, 0, 0, 500)],
        [(150, 100, 0, 0), (0, 0, 150, 100)],
    ],
)
def test_gateways_together_let_in_what_a_tenant_may_have(phases: list[tuple[float, ...]]) -> None:
    quota_rps, seconds = 100.0, 10.0
    count = let_in(phases, quota_rps=quota_rps, seconds=seconds)
    assert count == pytest.approx(quota_rps * seconds * len(phases), rel=0.1)


def test_who_asks_for_less_than_the_quota_in_all_is_refused_little() -> None:
    count = let_in([(60, 10, 10, 0), (0, 10, 10, 60)], quota_rps=100.0, seconds=10.0, burst_s=1.0)
    assert count >= 0.95 * 80 * 20
