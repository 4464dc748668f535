"""Gateways of different versions over one fleet, in virtual time: what one doesn't know of another does no harm."""

from __future__ import annotations

import asyncio
import logging

import orjson
import pytest

from tests.gateway.peers.fleets import sharing_fleet
from tests.gateway.peers.test_sharing import doubly_driven_s, has_one_driver_each, slow_servers

pytestmark = pytest.mark.virtual_time


def of_a_later_version(report: bytes) -> bytes:
    return orjson.dumps({**orjson.loads(report), "version": "9.1.0", "moods": {"gpu-0": "calm"}, "tides": [1, None]})


@pytest.mark.parametrize("has_keepers", [False, True])
async def test_a_peer_of_a_later_version_is_a_peer_as_any_and_told_once(
    has_keepers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "orchestrator.gateway.peers.sharing")
    async with sharing_fleet(slow_servers(1), 1, has_keepers=has_keepers) as fleet:
        fleet.network.speaks["gateway-1"] = of_a_later_version
        await fleet.join("gateway-1")
        await asyncio.sleep(3.0)
        assert has_one_driver_each(fleet)
        assert all(len(gateway.sharing.living) == 2 for gateway in fleet.gateways)
        assert all(await asyncio.gather(*(gateway.call(7, deadline_ms=5000) for gateway in fleet.gateways)))
        assert sorted(gateway.hops for gateway in fleet.gateways) == [0, 1]
        (driver,) = fleet.drivers()["gpu-0"]
        fleet.kill(driver)
        await asyncio.sleep(3.0)
        assert has_one_driver_each(fleet)
    assert [record.message.partition(";")[0] for record in caplog.records if " runs " in record.message] == [
        "gateway-1 runs 9.1.0, this one 1.0.0"
    ]


async def test_a_peer_of_an_earlier_version_does_not_say_it(caplog: pytest.LogCaptureFixture) -> None:
    def of_an_earlier_version(report: bytes) -> bytes:
        return orjson.dumps({key: value for key, value in orjson.loads(report).items() if key != "version"})

    caplog.set_level(logging.INFO, "orchestrator.gateway.peers.sharing")
    async with sharing_fleet(slow_servers(1), 1) as fleet:
        fleet.network.speaks["gateway-1"] = of_an_earlier_version
        await fleet.join("gateway-1")
        await asyncio.sleep(1.0)
        assert has_one_driver_each(fleet)
    assert caplog.text.count("gateway-1 runs an earlier version, which does not say its number, this one 1.0.0") == 1


@pytest.mark.parametrize("has_keepers", [False, True])
@pytest.mark.parametrize(("said", "key"), [(b'{"name": "gateway-1"}', "instance"), (b"\xff\x00", "all of it")])
async def test_who_answers_what_is_not_understood_is_left_out_while_callers_are_served(
    said: bytes, key: str, has_keepers: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with sharing_fleet(slow_servers(2), 2, has_keepers=has_keepers) as fleet:
        served, other = fleet.gateways
        asked: list[asyncio.Task[bool]] = []
        for second in range(6):
            if second == 1:  # it is replaced by one of another version at the same address
                fleet.network.speaks[other.name] = lambda report: said
            for _ in range(10):
                asked.append(asyncio.create_task(served.call(len(asked), deadline_ms=1000)))
                await asyncio.sleep(0.1)
        assert all(await asyncio.gather(*asked))
        assert served.sharing.living == [served.name]
        assert await doubly_driven_s(fleet, 2.0) == 0.0 or not has_keepers
        del fleet.network.speaks[other.name]
        await asyncio.sleep(3.0)
        assert has_one_driver_each(fleet)
    told = [record.message for record in caplog.records if record.message.startswith(f"peer {other.name} ")]
    assert len(told) == 1
    assert told[0].startswith(f"peer {other.name} answers with no report of a gateway ({key}: ")
    assert "it may be of a version that is not understood here" in told[0]
    assert f"peer {served.name} refuses what this gateway says of itself" in caplog.text
