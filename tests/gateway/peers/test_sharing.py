"""Gateways that share a fleet, in virtual time: as good as one, one driver for each server, nobody stuck."""

from __future__ import annotations

import pytest

from tests.fakes.servers import FakeServer
from tests.gateway.peers.fleets import share_in_time, sharing_fleet

pytestmark = pytest.mark.virtual_time

DEADLINE_MS = 100.0
PER_ITEM_S = 0.04
NARROWEST_RPS = 4 * 8 / (8 * PER_ITEM_S / 16 + 0.002)
"""What four servers answer at the narrowest width, in batches of 8: larger ones take too much of the deadline."""
TERM_S = 2.0


def slow_servers(count: int = 4) -> dict[str, FakeServer]:
    return {f"gpu-{n}": FakeServer(per_item_s=PER_ITEM_S) for n in range(count)}


async def measure(gateways: int, load: float) -> float:
    async with sharing_fleet(slow_servers(), gateways) as fleet:
        return await share_in_time(fleet, rate_rps=load * NARROWEST_RPS, seconds=2.0, deadline_ms=DEADLINE_MS)


@pytest.mark.parametrize("load", [0.5, 0.9, 1.2, 2.0])
async def test_gateways_together_are_as_good_as_one(load: float) -> None:
    alone = await measure(1, load)
    for gateways in (2, 4, 8):
        assert await measure(gateways, load) >= alone - 0.01, gateways
