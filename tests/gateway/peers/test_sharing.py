"""Gateways that share a fleet, in virtual time: as good as one, one driver for each server, nobody stuck."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from typing import Any

import pytest

from orchestrator.errors import ModelNotFoundError, ServerUnavailableError
from orchestrator.ownership import Holding
from orchestrator.request_options import RequestOptions
from orchestrator.snapshot import ServedModel, Width
from orchestrator.triton.infer_wire import Tensors
from tests.fakes.servers import FakeServer, item
from tests.gateway.peers.fleets import SharedFleet, share_in_time, sharing_fleet

pytestmark = pytest.mark.virtual_time

DEADLINE_MS = 100.0
PER_ITEM_S = 0.04
NARROWEST_RPS = 4 * 8 / (8 * PER_ITEM_S / 16 + 0.002)
"""What four servers answer at the narrowest width, in batches of 8: larger ones take too much of the deadline."""
TERM_S = 2.0


def slow_servers(count: int = 4) -> dict[str, FakeServer]:
    return {f"gpu-{n}": FakeServer(per_item_s=PER_ITEM_S) for n in range(count)}


async def measure(gateways: int, rate_rps: float, *, per_item_s: float) -> float:
    servers = {f"gpu-{n}": FakeServer(per_item_s=per_item_s) for n in range(4)}
    async with sharing_fleet(servers, gateways) as fleet:
        return await share_in_time(fleet, rate_rps=rate_rps, seconds=1.5, deadline_ms=DEADLINE_MS, settles_s=1.0)


@pytest.mark.parametrize("load", [0.5, 0.9, 1.2, 2.0])
async def test_gateways_together_are_as_good_as_one_whatever_the_load_of_the_full_width(load: float) -> None:
    per_item_s = 0.01
    rate_rps = load * 4 * 4 / (4 * per_item_s + 0.002)
    alone = await measure(1, rate_rps, per_item_s=per_item_s)
    for gateways in (2, 4, 8):
        assert await measure(gateways, rate_rps, per_item_s=per_item_s) >= alone - 0.01, gateways


@pytest.mark.parametrize("gateways", [2, 4, 8])
async def test_gateways_together_are_as_good_as_one_close_to_all_that_servers_can_do(gateways: int) -> None:
    rate_rps = 0.9 * NARROWEST_RPS
    alone = await measure(1, rate_rps, per_item_s=PER_ITEM_S)
    assert await measure(gateways, rate_rps, per_item_s=PER_ITEM_S) >= alone - 0.01


async def doubly_driven_s(fleet: SharedFleet, seconds: float) -> float:
    """Return for how long any server had two drivers, at a stretch, while so much time passes."""
    longest_s = now_s = 0.0
    for _ in range(int(seconds / 0.01)):
        await asyncio.sleep(0.01)
        now_s = now_s + 0.01 if any(len(drivers) > 1 for drivers in fleet.drivers().values()) else 0.0
        longest_s = max(longest_s, now_s)
    return longest_s


def has_one_driver_each(fleet: SharedFleet) -> bool:
    return all(len(drivers) == 1 for drivers in fleet.drivers().values())


@pytest.mark.parametrize("has_keepers", [False, True])
@pytest.mark.parametrize(("gateways", "servers"), [(1, 3), (2, 4), (3, 4), (8, 4), (5, 1)])
async def test_each_server_has_one_driver(gateways: int, servers: int, has_keepers: bool) -> None:
    async with sharing_fleet(slow_servers(servers), gateways, has_keepers=has_keepers) as fleet:
        assert has_one_driver_each(fleet)
        busiest = max(sum(g.name in d for d in fleet.drivers().values()) for g in fleet.gateways)
        assert busiest == -(-servers // gateways)
        assert {driver for each in fleet.gateways for driver in each.sharing.drivers().values()} <= {
            gateway.name for gateway in fleet.gateways
        }


async def test_who_finds_one_width_after_another_unloaded_is_answered_by_another_gateways_server() -> None:
    """As while a Triton restarts, which says of one after another that it is gone: all attempts went to it."""

    class Restarting(FakeServer):
        restarts = False

        async def infer_batch(self, model: ServedModel, batch: Tensors, **options: Any) -> Tensors:
            if self.restarts:
                raise ModelNotFoundError("it has no available versions")
            return await super().infer_batch(model, batch, **options)

    restarting = Restarting()
    async with sharing_fleet({"gpu-0": restarting, "gpu-1": FakeServer()}, 2) as fleet:
        (driver,) = [g for g in fleet.gateways if g.name in fleet.drivers()["gpu-0"]]
        restarting.restarts = True
        assert await driver.call(7, deadline_ms=5000)
        assert driver.hops == 1


async def test_more_gateways_than_servers_answer_all_over_one_hop() -> None:
    async with sharing_fleet(slow_servers(2), 5) as fleet:
        calls = [gateway.call(mark, deadline_ms=5000) for mark in range(20) for gateway in fleet.gateways]
        assert all(await asyncio.gather(*calls))
        assert sorted(gateway.hops for gateway in fleet.gateways) == [0, 0, 20, 20, 20]


async def test_what_callers_send_counts_where_they_send_it_and_not_where_it_is_answered() -> None:
    async with sharing_fleet(slow_servers(1), 2) as fleet:
        (driver,) = [gateway for gateway in fleet.gateways if gateway.name in fleet.drivers()["gpu-0"]]
        (other,) = [gateway for gateway in fleet.gateways if gateway is not driver]
        weights = [float(gateway is other) for gateway in fleet.gateways]
        await share_in_time(fleet, rate_rps=50.0, seconds=4.0, deadline_ms=500.0, weights=weights)
        assert other.hops > 100
        assert other.sharing.report().demand_rps == pytest.approx(50.0, rel=0.4)
        assert driver.sharing.report().demand_rps == 0.0


async def test_callers_that_are_mostly_at_one_gateway_get_it_servers_of_another() -> None:
    async with sharing_fleet(slow_servers(), 2) as fleet:
        busy, quiet = fleet.gateways
        before = fleet.drivers()
        load = 1.2 * NARROWEST_RPS
        await share_in_time(fleet, rate_rps=load, seconds=2.0, deadline_ms=DEADLINE_MS, weights=[9, 1])
        drivers = fleet.drivers()
    assert [list(before.values()).count([name]) for name in (busy.name, quiet.name)] == [2, 2]
    assert [list(drivers.values()).count([name]) for name in (busy.name, quiet.name)] == [3, 1]


async def test_callers_that_insist_on_wide_answers_are_helped_by_a_gateway_whose_callers_do_not() -> None:
    """As many at either, but one of width 100 takes as long as 16 of 25. Counted alike, 85 % were in time."""
    async with sharing_fleet(slow_servers(), 2) as fleet:
        wide, any_width = fleet.gateways
        wide.insists_on = Width(100)
        in_time = await share_in_time(
            fleet, rate_rps=0.1 * NARROWEST_RPS, seconds=6.0, deadline_ms=DEADLINE_MS, settles_s=2.0
        )
        report = wide.sharing.report()
    assert report.demand_rps == pytest.approx(16 * 0.05 * NARROWEST_RPS, rel=0.4)
    assert any_width.sharing.report().demand_rps < 0.1 * NARROWEST_RPS
    assert wide.hops > 0
    assert in_time >= 0.9


async def test_what_nobody_could_answer_in_time_is_not_tried_at_a_peer_that_is_as_idle() -> None:
    async with sharing_fleet(slow_servers(2), 2) as fleet:
        for gateway in fleet.gateways:
            gateway.insists_on = Width(100)
            for mark in range(5):
                assert not await gateway.call(mark, deadline_ms=1.0)
                await asyncio.sleep(0.5)
        assert [gateway.hops for gateway in fleet.gateways] == [0, 0]


async def test_while_callers_are_even_no_server_moves_close_to_all_that_slow_servers_can_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Their batches take a good part of a second, so that backlogs are apart for long by chance."""
    per_item_s, items = 0.115, 32
    rate_rps = 0.9 * 4 * items / (items * per_item_s / 16 + 0.002)
    servers = {f"gpu-{n}": FakeServer(per_item_s=per_item_s) for n in range(4)}
    caplog.set_level(logging.INFO, "orchestrator.gateway.peers.sharing")
    async with sharing_fleet(servers, 2) as fleet:
        caplog.clear()
        in_time = await share_in_time(fleet, rate_rps=rate_rps, seconds=10.0, deadline_ms=600.0, settles_s=1.0)
        assert "drives" not in caplog.text
    assert in_time == 1.0


async def test_gateways_that_can_not_reach_each_other_never_drive_a_server_both_where_its_record_is_kept() -> None:
    async with sharing_fleet(slow_servers(), 2, has_keepers=True) as fleet:
        before = fleet.drivers()
        fleet.network.part("gateway-0", "gateway-1")
        assert await doubly_driven_s(fleet, 10.0) == 0.0
        assert fleet.drivers() == before, "each renews what it has"
        fleet.network.heal()
        assert await doubly_driven_s(fleet, 5.0) == 0.0
        assert has_one_driver_each(fleet)


async def test_who_can_not_reach_a_record_lets_another_drive_within_a_term() -> None:
    async with sharing_fleet(slow_servers(), 2, has_keepers=True) as fleet:
        (server,) = [name for name, drivers in fleet.drivers().items() if drivers == ["gateway-0"]][:1]
        fleet.network.part("gateway-0", server)
        fleet.network.part("gateway-0", "gateway-1")
        assert await doubly_driven_s(fleet, 2 * TERM_S + 1.0) == 0.0
        assert fleet.drivers()[server] == ["gateway-1"]
        fleet.network.heal()
        assert await doubly_driven_s(fleet, 10.0) <= TERM_S
        assert has_one_driver_each(fleet)


@pytest.mark.parametrize("ahead_s", [-300.0, 300.0])
async def test_clocks_that_are_minutes_apart_give_no_server_two_drivers(
    ahead_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of keepers are apart from the gateways' and from each other; that of the day jumps whenever it is read."""
    jumps_s, time_of_day = itertools.cycle((0.0, ahead_s, -ahead_s)), time.time
    monkeypatch.setattr(time, "time", lambda: time_of_day() + next(jumps_s))
    ahead = {f"gpu-{n}": n * ahead_s for n in range(4)}
    async with sharing_fleet(slow_servers(), 2, has_keepers=True, keepers_ahead_s=ahead) as fleet:
        fleet.network.part("gateway-0", "gateway-1")
        for server in fleet.holdings:  # each controller is started anew, and its time of day was set back
            now_s = asyncio.get_running_loop().time() + ahead[server]
            fleet.holdings[server] = Holding(now_s, first_term=700)
            assert await doubly_driven_s(fleet, 3.0) == 0.0
        fleet.network.heal()
        assert await doubly_driven_s(fleet, 5.0) == 0.0
        assert has_one_driver_each(fleet)
        fleet.kill("gateway-0")
        assert await doubly_driven_s(fleet, 3.0) == 0.0
        assert fleet.drivers() == {server: ["gateway-1"] for server in fleet.servers}


async def test_where_no_record_is_kept_a_partition_that_heals_leaves_one_driver() -> None:
    async with sharing_fleet(slow_servers(), 3) as fleet:
        fleet.network.part("gateway-0", "gateway-1")
        await asyncio.sleep(5.0)
        fleet.network.heal()
        await asyncio.sleep(2.0)
        assert has_one_driver_each(fleet)


async def test_a_controller_that_does_not_run_keeps_no_server_from_being_driven() -> None:
    async with sharing_fleet(slow_servers(), 2, has_keepers=True) as fleet:
        for server in fleet.holdings:
            fleet.holdings[server] = None
        assert await doubly_driven_s(fleet, 10.0) == 0.0
        assert has_one_driver_each(fleet)
        fleet.kill("gateway-0")
        await asyncio.sleep(2.0)
        assert has_one_driver_each(fleet)


@pytest.mark.parametrize(("has_keepers", "within_s"), [(False, 1.5), (True, 3.0)])
async def test_what_a_gateway_drove_that_was_killed_others_drive_soon(has_keepers: bool, within_s: float) -> None:
    async with sharing_fleet(slow_servers(), 3, has_keepers=has_keepers) as fleet:
        fleet.kill("gateway-1")
        await asyncio.sleep(within_s)
        assert has_one_driver_each(fleet)


async def test_who_lives_takes_at_once_what_a_gateway_drove_whose_host_says_that_it_is_gone() -> None:
    async with sharing_fleet(slow_servers(), 3) as fleet:
        fleet.kill("gateway-1", with_its_host=False)
        await asyncio.sleep(0.35)
        assert has_one_driver_each(fleet)


@pytest.mark.parametrize("has_keepers", [False, True])
async def test_a_gateway_that_ends_gives_its_servers_away_before_and_one_that_comes_gets_some(
    has_keepers: bool,
) -> None:
    async with sharing_fleet(slow_servers(), 2, has_keepers=has_keepers) as fleet:
        leaving = asyncio.create_task(fleet.leave("gateway-0"))
        await asyncio.sleep(0.9)
        assert fleet.drivers() == {server: ["gateway-1"] for server in fleet.servers}
        await leaving
        await fleet.join("gateway-9")
        assert await doubly_driven_s(fleet, 3.0) == 0.0
        assert sorted(driver for [driver] in fleet.drivers().values()) == ["gateway-1"] * 2 + ["gateway-9"] * 2


async def test_all_that_end_at_once_answer_until_the_end() -> None:
    async with sharing_fleet(slow_servers(), 2) as fleet:
        for gateway in fleet.gateways:
            gateway.is_ending = True
        await asyncio.sleep(2.0)
        assert has_one_driver_each(fleet)


async def test_no_request_is_lost_while_servers_go_from_one_gateway_to_another() -> None:
    servers = {f"gpu-{n}": FakeServer(per_item_s=0.001) for n in range(2)}
    async with sharing_fleet(servers, 1) as fleet:
        (first,) = fleet.gateways
        calls: list[asyncio.Task[bool]] = []

        async def ask(seconds: float) -> None:
            for _ in range(int(seconds / 0.01)):
                await asyncio.sleep(0.01)
                calls.append(asyncio.create_task(first.call(len(calls), deadline_ms=3000)))

        asking = asyncio.create_task(ask(10.0))
        await fleet.join("gateway-1")
        await asyncio.sleep(2.0)
        await fleet.leave("gateway-1")
        await asking
        assert all(await asyncio.gather(*calls))
        assert first.hops > 0 or first.name in fleet.drivers()["gpu-0"]


async def test_a_request_without_a_server_waits_for_one_and_no_longer_than_its_deadline() -> None:
    async with sharing_fleet(slow_servers(1), 2) as fleet:
        (driver,) = fleet.drivers()["gpu-0"]
        (other,) = [gateway for gateway in fleet.gateways if gateway.name != driver]
        fleet.kill(driver)
        late = asyncio.create_task(other.call(1, deadline_ms=300))
        in_time = asyncio.create_task(other.call(2, deadline_ms=3000))
        began_s = asyncio.get_running_loop().time()
        assert not await late
        assert asyncio.get_running_loop().time() - began_s <= 0.301
        assert await in_time


async def test_a_request_brings_what_is_left_of_its_deadline_after_it_has_waited_and_one_without_brings_none() -> None:
    async with sharing_fleet(slow_servers(1), 3) as fleet:
        (driver,) = fleet.drivers()["gpu-0"]
        fleet.kill(driver)
        began_s, given_ms = asyncio.get_running_loop().time(), 5000.0
        calls = [
            gateway.call(mark, deadline_ms=deadline_ms)
            for gateway in fleet.gateways
            for mark, deadline_ms in ((1, given_ms), (2, None))
        ]
        assert all(await asyncio.gather(*calls))
        timed, untimed = sorted(fleet.network.arrivals)
        assert (timed.mark, untimed.mark, untimed.deadline_ms) == (1, 2, None)
        waited_ms = (timed.at_s - began_s) * 1e3
        assert waited_ms > 500
        assert timed.deadline_ms == pytest.approx(given_ms - waited_ms, abs=1.0)


async def test_a_gateway_that_hears_nothing_of_who_drives_its_servers_refuses_at_once_and_tells_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = asyncio.get_running_loop().time
    async with sharing_fleet(slow_servers(2), 1, has_keepers=True) as fleet:
        fleet.network.part("gateway-0", "gateway-1")
        stranger = await fleet.join("gateway-1")
        await asyncio.sleep(10.0)
        assert fleet.drivers() == {"gpu-0": ["gateway-0"], "gpu-1": ["gateway-0"]}
        assert stranger.sharing.is_stranded(RequestOptions())
        began_s = clock()
        assert not await stranger.call(1, deadline_ms=None)
        assert clock() - began_s < 0.1
        told = "another gateway drives gpu-0, gpu-1, and gateway-1 hears nothing of it"
        assert caplog.text.count(told) == 1
        fleet.kill("gateway-0")
        await asyncio.sleep(3.0)
        assert await stranger.call(2, deadline_ms=None)
        assert not stranger.sharing.is_stranded(RequestOptions())


async def test_two_gateways_of_one_name_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async with sharing_fleet(slow_servers(), 2) as fleet:
        one, other = fleet.gateways
        other.sharing.name = one.sharing.name
        await asyncio.sleep(3.0)
        assert "another gateway is called" not in caplog.text, "it may be one that is replaced"
        await asyncio.sleep(5.0)
    told = caplog.text.count("another gateway is called gateway-0 too; give each its own gateway.peers.name")
    assert told == 2, "once each"


async def test_what_comes_for_a_server_that_has_gone_to_another_is_refused_at_once() -> None:
    async with sharing_fleet(slow_servers(1), 2) as fleet:
        (driver,) = fleet.drivers()["gpu-0"]
        (other,) = [gateway for gateway in fleet.gateways if gateway.name != driver]
        began_s = asyncio.get_running_loop().time()
        with pytest.raises(ServerUnavailableError, match="driven by another gateway") as refused:
            await other.router.infer(item(1))
        assert not refused.value.executed
        assert asyncio.get_running_loop().time() == began_s


@pytest.mark.parametrize("has_keepers", [False, True])
async def test_a_server_goes_over_as_soon_as_its_last_driver_has_its_answers(has_keepers: bool) -> None:
    """Nobody drives it meanwhile, and what comes for it waits: no longer than deadlines last."""
    async with sharing_fleet(slow_servers(), 2, has_keepers=has_keepers) as fleet:
        fleet.gateways[0].is_ending = True
        undriven_s = 0.0
        while fleet.drivers() != {server: ["gateway-1"] for server in fleet.servers}:
            await asyncio.sleep(0.001)
            undriven_s += 0.001 * any(not drivers for drivers in fleet.drivers().values())
        assert undriven_s <= 0.03
