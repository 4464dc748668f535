"""What a router tells of its fleet to whoever looks."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.config import GuardSettings
from tests.fakes.servers import ACCURACY, FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time


async def test_widths_are_told_for_each_server_and_each_family() -> None:
    async with routed({"a": FakeServer(instances=2), "b": FakeServer(widths=(25, 50))}) as router:
        overview = await router.describe()
        assert [(s.name, s.condition, s.models, s.instances) for s in overview.servers] == [
            ("a", "up", 4, ((25, 2), (50, 2), (75, 2), (100, 2))),
            ("b", "up", 2, ((25, 1), (50, 1))),
        ]
        [family] = overview.families
        assert [(w.width, w.quality, w.servers, w.instances) for w in family.widths] == [
            (25, ACCURACY[25], 2, 3),
            (50, ACCURACY[50], 2, 3),
            (75, ACCURACY[75], 1, 2),
            (100, ACCURACY[100], 1, 2),
        ]
        assert {width.item_j for width in family.widths} == {None}


async def test_the_time_of_an_item_is_told_once_it_is_known() -> None:
    async with routed({"a": FakeServer(widths=(100,), per_item_s=0.01, fixed_s=0.0)}) as router:
        await asyncio.gather(*(router.infer(item(n)) for n in range(20)))
        [width] = (await router.describe()).families[0].widths
    assert width.item_s == pytest.approx(0.01, rel=0.2)


async def test_a_server_that_is_away_is_down_with_the_reason_and_serves_nothing() -> None:
    servers = {"a": FakeServer(), "b": FakeServer()}
    async with routed(servers) as router:
        servers["b"].is_up = False
        await asyncio.sleep(60)
        a, b = (await router.describe()).servers
    assert (a.condition, a.reason) == ("up", "")
    assert (b.condition, b.models, b.instances) == ("down", 0, ())
    assert b.reason


async def test_who_decides_is_told_by_name() -> None:
    async with routed({"a": FakeServer()}, policy="lert", shadow_policy="thrift") as router:
        overview = await router.describe()
    assert (overview.policy.partition(":")[0], overview.shadow, overview.is_paused) == ("lert", "thrift", False)
    assert overview.fallback == GuardSettings().fallback
    assert overview.decision_log is None
