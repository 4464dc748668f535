"""Several routers, as of several gateways, over one fleet: each server driven by one of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.ownership import GatewayLoad, GatewayName, Imbalance, assign, plan_move
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from tests.fakes.servers import FakeServer, item
from tests.router.test_router import routed

pytestmark = pytest.mark.virtual_time

DEADLINE_MS = 100.0
PER_ITEM_S = 0.04
NARROWEST_RPS = 4 * 8 / (8 * PER_ITEM_S / 16 + 0.002)
"""What four servers answer at the narrowest width, in batches of 8: larger ones take too much of the deadline."""
SECONDS = 1.5
LOOK_S = 0.1
"""Between two looks of a gateway at what the others have to do."""


def load_of(router: Router, drivers: Mapping[ServerName, GatewayName], gateway: GatewayName) -> GatewayLoad:
    capacities_rps = router.capacities_rps()
    driven = {server: capacities_rps[server] for server, driver in drivers.items() if driver == gateway}
    return GatewayLoad(router.unfinished_items, driven)


class SharedFleet:
    """Gateways, each a router over all servers, and who drives which of them."""

    def __init__(self, routers: Mapping[GatewayName, Router], servers: Sequence[ServerName]) -> None:
        self.routers = routers
        self.drivers = dict(assign(dict.fromkeys(servers, 1.0), routers))
        self.moves = 0

    def tell(self) -> None:
        for gateway, router in self.routers.items():
            router.drive([server for server, driver in self.drivers.items() if driver == gateway])

    async def balance(self) -> None:
        state = Imbalance()
        while True:
            await asyncio.sleep(LOOK_S)
            loads = {gateway: load_of(router, self.drivers, gateway) for gateway, router in self.routers.items()}
            move, state = plan_move(loads, state, now_s=asyncio.get_running_loop().time())
            if move is not None:
                self.moves += 1
                self.drivers[move.server] = move.taker
                self.tell()


@asynccontextmanager
async def sharing(
    servers: Mapping[str, FakeServer], gateways: int, *, is_driven: bool = True
) -> AsyncIterator[SharedFleet]:
    async with AsyncExitStack() as stack:
        routers = {
            GatewayName(f"gateway-{n}"): await stack.enter_async_context(routed(servers)) for n in range(gateways)
        }
        fleet = SharedFleet(routers, [ServerName(name) for name in servers])
        if is_driven:
            fleet.tell()
            task = asyncio.create_task(fleet.balance())
            stack.callback(task.cancel)
        yield fleet


async def share_in_time(fleet: SharedFleet, *, rate_rps: float, seconds: float, weights: Sequence[float]) -> float:
    """Return the share of requests that are answered in time, of Poisson arrivals at gateways by weight."""
    draw, loop = random.Random(7), asyncio.get_running_loop()
    routers = list(fleet.routers.values())
    outcomes: list[bool] = []

    async def call(router: Router, mark: int) -> None:
        try:
            answer = await router.infer(item(mark), deadline_ms=DEADLINE_MS)
        except SlimError:
            outcomes.append(False)
        else:
            outcomes.append(answer.deadline_met)

    async with asyncio.TaskGroup() as group:
        at_s, mark = loop.time(), 0
        ends_s = at_s + seconds
        while (at_s := at_s + draw.expovariate(rate_rps)) < ends_s:
            await asyncio.sleep(at_s - loop.time())
            group.create_task(call(draw.choices(routers, weights)[0], mark := mark + 1))
    return sum(outcomes) / len(outcomes)


def slow_servers() -> dict[str, FakeServer]:
    return {f"gpu-{n}": FakeServer(per_item_s=PER_ITEM_S) for n in range(4)}


async def measure(gateways: int, load: float, *, is_driven: bool = True) -> float:
    async with sharing(slow_servers(), gateways, is_driven=is_driven) as fleet:
        rate_rps = load * NARROWEST_RPS
        return await share_in_time(fleet, rate_rps=rate_rps, seconds=SECONDS, weights=[1.0] * gateways)


@pytest.mark.parametrize(("gateways", "load"), [(4, 0.9), (2, 1.2)])
async def test_with_one_driver_for_each_server_gateways_together_are_as_good_as_one(gateways: int, load: float) -> None:
    alone, shared = await measure(1, load), await measure(gateways, load)
    assert shared >= alone - 0.01
    assert await measure(gateways, load, is_driven=False) < alone - 0.02, "or this would show nothing"


async def test_callers_that_are_mostly_at_one_gateway_get_a_server_of_the_other() -> None:
    async with sharing(slow_servers(), 2) as fleet:
        busy, quiet = fleet.routers
        await share_in_time(fleet, rate_rps=1.2 * NARROWEST_RPS, seconds=SECONDS, weights=[9, 1])
        drivers = list(fleet.drivers.values())
    assert fleet.moves == 1, "more would take the last"
    assert (drivers.count(busy), drivers.count(quiet)) == (3, 1)


async def test_a_router_sends_to_the_servers_that_it_drives_and_to_no_other() -> None:
    servers = {name: FakeServer() for name in "abc"}
    async with routed(servers) as router:
        router.drive([ServerName("b"), ServerName("not-there-yet")])
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(200)))
        assert {answer.server for answer in answers} == {"b"}
        router.drive(None)
        answers = await asyncio.gather(*(router.infer(item(n)) for n in range(200)))
        assert {answer.server for answer in answers} == set("abc")


async def test_a_server_that_goes_to_another_gateway_finishes_what_it_has_and_no_request_is_lost() -> None:
    servers = {name: FakeServer(max_batch_size=4) for name in "ab"}
    async with routed(servers, binding="early", deadline_ms=10_000) as router:
        calls = [asyncio.create_task(router.infer(item(n))) for n in range(100)]
        await asyncio.sleep(0.02)
        under_way = servers["a"].in_flight
        assert under_way
        sent = len(servers["a"].batches) + under_way
        router.drive([ServerName("b")])
        answers = await asyncio.gather(*calls)
        assert len(answers) == 100
        assert len(servers["a"].batches) == sent


async def test_a_router_that_drives_nothing_refuses_what_has_a_deadline_with_the_reason() -> None:
    async with routed({"a": FakeServer()}) as router:
        router.drive([])
        with pytest.raises(ServerUnavailableError, match="a is driven by another gateway"):
            await router.infer(item(1), deadline_ms=50)
        waiting = asyncio.create_task(router.infer(item(2)))
        await asyncio.sleep(0.2)
        assert not waiting.done()
        router.drive([ServerName("a")])
        assert (await waiting).server == "a"


async def test_what_a_router_has_to_do_is_what_waits_and_what_runs_on_the_servers_that_it_drives() -> None:
    async with routed({name: FakeServer() for name in "ab"}) as router:
        router.drive([ServerName("a")])
        calls = [asyncio.create_task(router.infer(item(n), deadline_ms=5000)) for n in range(50)]
        await asyncio.sleep(0.01)
        assert router.unfinished_items == 50
        assert router.capacities_rps().keys() == {"a", "b"}
        assert (router.has_sent(ServerName("a")), router.has_sent(ServerName("b"))) == (True, False)
        await asyncio.gather(*calls)
        assert router.unfinished_items == 0
