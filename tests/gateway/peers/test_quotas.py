"""Tenants' quotas over several gateways."""

from __future__ import annotations

import contextlib
import random
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.config import TenantSettings
from orchestrator.gateway.auth.callers import Caller, Guard, QuotaError, Ticket
from orchestrator.gateway.peers.quotas import Amounts, divide, parts_of
from orchestrator.ownership import GatewayName

amounts = st.floats(0, 1e6)
TELLING_S = 0.3
"""How old what a gateway knows of the others may be: a look and a tick."""
STEP_S = 0.002
VISION = Caller(tenant="vision")


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


class Gateways:
    """The guards of gateways that tell each other what tenant vision asks for, a while late, on a clock of the test."""

    def __init__(self, count: int, **quotas: Any) -> None:
        self.clock = Clock()
        settings = [TenantSettings(name="vision", tokens=(), **quotas)]
        self.guards = {GatewayName(f"g{n}"): Guard(settings, clock=self.clock) for n in range(count)}
        self._under_way: deque[tuple[float, GatewayName, Mapping[str, Amounts]]] = deque()
        self._known: dict[GatewayName, Mapping[str, Amounts]] = {name: {} for name in self.guards}

    def calls(self, rates_rps: Sequence[Sequence[float]], *, seconds: float) -> Iterator[Guard | None]:
        """Yield the guard of each call that comes, and None after each step of time.

        Each phase, of so many seconds, has a rate for each gateway.
        """
        draw = random.Random(3)
        for step in range(int(seconds * len(rates_rps) / STEP_S)):
            self.clock.now_s = step * STEP_S
            phase = rates_rps[int(self.clock.now_s / seconds)]
            for (name, guard), rate_rps in zip(self.guards.items(), phase, strict=True):
                if step % 50 == 0:
                    self._tell(name, guard)
                if draw.random() < rate_rps * STEP_S:
                    yield guard
            yield None

    def _tell(self, name: GatewayName, guard: Guard) -> None:
        demands = dict(guard.demands)  # as Sharing.tick has it, whose report is older than what is weighed after it
        guard.weigh()
        self._under_way.append((self.clock.now_s, name, demands))
        while self._under_way[0][0] <= self.clock.now_s - TELLING_S:
            _, of, told = self._under_way.popleft()
            self._known[of] = told
        guard.take_parts(parts_of(name, {**self._known, name: demands}, guard.quotas))


def let_in(
    rates_rps: Sequence[Sequence[float]],
    *,
    quota_per_s: float,
    seconds: float,
    burst_s: float = 0.1,
    sizes: Sequence[int] | None = None,
) -> int:
    """Return what gateways let in together: requests, or items where ``sizes`` has those that a request may have."""
    burst, what = max(1, int(quota_per_s * burst_s)), "requests" if sizes is None else "items"
    gateways = Gateways(len(rates_rps[0]), **{f"{what}_per_s": quota_per_s, f"{what}_burst": burst})
    draw, count = random.Random(5), 0
    for guard in gateways.calls(rates_rps, seconds=seconds):
        if guard is None:
            continue
        items = 1 if sizes is None else draw.choice(sizes)
        with contextlib.suppress(QuotaError):
            if sizes is None:
                guard.charge_request(VISION)
            else:
                guard.charge_items(VISION, items)
            count += items
    return count


def mean_under_way(
    rates_rps: Sequence[Sequence[float]], *, concurrent: int, takes_s: float, seconds: float
) -> list[float]:
    """Return how many requests that take so long are under way at all gateways, on average over each phase."""
    gateways = Gateways(len(rates_rps[0]), concurrent_requests=concurrent)
    under_way: deque[tuple[float, Ticket]] = deque()
    sums_s = [0.0] * len(rates_rps)
    for guard in gateways.calls(rates_rps, seconds=seconds):
        now_s = gateways.clock.now_s
        while under_way and under_way[0][0] <= now_s:
            under_way.popleft()[1].close()
        if guard is None:
            sums_s[int(now_s / seconds)] += len(under_way) * STEP_S
            continue
        with contextlib.suppress(QuotaError):
            under_way.append((now_s + takes_s, guard.admit(VISION, None)))
    return [sum_s / seconds for sum_s in sums_s]


PATTERNS: list[list[tuple[float, ...]]] = [
    [(300, 300, 300, 300)],
    [(500, 10, 0, 0)],
    [(500, 0, 0, 0), (0, 500, 0, 0), (0, 0, 500, 0), (0, 0, 0, 500)],
    [(150, 100, 0, 0), (0, 0, 150, 100)],
]
"""Requests a second at each gateway, by phase; each phase has more than the quotas below."""


@pytest.mark.parametrize("phases", PATTERNS)
def test_gateways_together_let_in_what_a_tenant_may_have(phases: list[tuple[float, ...]]) -> None:
    quota_rps, seconds = 100.0, 10.0
    count = let_in(phases, quota_per_s=quota_rps, seconds=seconds)
    assert count == pytest.approx(quota_rps * seconds * len(phases), rel=0.1)


@pytest.mark.parametrize("sizes", [(8,), (1, 2, 4, 8, 25)], ids=["alike", "mixed"])
@pytest.mark.parametrize("phases", PATTERNS)
def test_gateways_together_let_in_the_items_that_a_tenant_may_have(
    phases: list[tuple[float, ...]], sizes: tuple[int, ...]
) -> None:
    quota_per_s, seconds = 800.0, 10.0
    count = let_in(phases, quota_per_s=quota_per_s, seconds=seconds, sizes=sizes)
    assert count == pytest.approx(quota_per_s * seconds * len(phases), rel=0.1)


@pytest.mark.parametrize("concurrent", [3, 20, 60])
@pytest.mark.parametrize("phases", PATTERNS)
def test_gateways_together_have_as_many_requests_under_way_as_a_tenant_may(
    phases: list[tuple[float, ...]], concurrent: int
) -> None:
    """Within a tenth, or one for each gateway: each lets in one whatever its part is."""
    for mean in mean_under_way(phases, concurrent=concurrent, takes_s=0.5, seconds=10.0):
        assert mean == pytest.approx(concurrent, abs=max(0.1 * concurrent, 4.0))


def test_who_asks_for_less_than_the_quota_in_all_is_refused_little() -> None:
    count = let_in([(60, 10, 10, 0), (0, 10, 10, 60)], quota_per_s=100.0, seconds=10.0, burst_s=1.0)
    assert count >= 0.95 * 80 * 20
