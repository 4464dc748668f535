"""What a router believes of how long servers take, once they take it no more."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.config import RouterSettings
from orchestrator.router import Router
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item

pytestmark = pytest.mark.virtual_time

SETTINGS = RouterSettings(deadline_ms=50, guard=NO_TIME_LIMITS)


async def ask(router: Router, seconds: float) -> list[int]:
    """Ask every 20 ms, which leaves the server idle most of the time; return the widths that answered."""
    widths = []
    for mark in range(int(seconds / 0.02)):
        widths.append((await router.infer(item(mark % 10))).width)
        await asyncio.sleep(0.02)
    return widths


@pytest.mark.parametrize("policy", ["lert:brownout", "lert:slack", "thrift"])
async def test_a_width_that_was_slow_for_a_while_answers_again_once_it_is_quick(policy: str) -> None:
    server = FakeServer(per_item_s=0.005, fixed_s=0.001)
    async with Router(SETTINGS.model_copy(update={"policy": policy}), {ServerName("a"): server}) as router:
        assert set(await ask(router, 2)) == {100}
        server.per_item_s, server.fixed_s = 0.05, 0.01  # as while its controller loads another instance
        for mark in range(40):
            await router.infer(item(mark % 10), width=Width(100))
        server.per_item_s, server.fixed_s = 0.005, 0.001
        assert 100 not in await ask(router, 0.5)
        await ask(router, 240)
        assert set(await ask(router, 2)) == {100}
