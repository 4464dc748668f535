"""Whole gateways over one fleet, on real sockets: who has no server passes requests on, and nothing goes in circles."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from orchestrator.config import (
    AuthSettings,
    FleetSettings,
    GatewaySettings,
    PeerSettings,
    RouterSettings,
    ServerSettings,
    render_fleet,
)
from orchestrator.gateway import Gateway, open_gateway
from orchestrator.gateway.fleet_sharing import place_of
from orchestrator.gateway.peers.clients import GrpcPeerClient
from tests.fakes.servers import NO_TIME_LIMITS
from tests.gateway.auth.test_tenants import TOKEN, digest, write
from tests.gateway.calls import RawCalls, item_request
from tests.gateway.test_one_connection import open_triton
from tests.ports import choose_free_ports


@dataclass
class Member:
    name: str
    gateway: Gateway
    calls: RawCalls
    peer_address: str
    stack: AsyncExitStack

    @property
    def drives(self) -> frozenset[str]:
        sharing = self.gateway._sharing
        assert sharing is not None
        return frozenset(sharing.drives)

    async def counted(self, name: str, *labels: str) -> float:
        return (await self.gateway.read_metrics()).values.get(name, {}).get(labels, [0.0])[0]

    async def leave(self) -> None:
        await self.stack.aclose()


async def join(
    directory: Path, name: str, tritons: Sequence[str], peers: Sequence[str], listen: str, **gateway: Any
) -> Member:
    ports = choose_free_ports(3)
    settings = GatewaySettings(
        grpc=f"127.0.0.1:{ports[0]}",
        http=f"127.0.0.1:{ports[1]}",
        metrics=None,
        drain_s=2.0,
        peers=PeerSettings(listen=listen, addresses=tuple(peers), name=name),
        **gateway,
    )
    fleet = FleetSettings(
        servers=tuple(ServerSettings(name=f"s{n}", grpc=address) for n, address in enumerate(tritons)),
        router=RouterSettings(warm_up=False, guard=NO_TIME_LIMITS, probes=None, discovery_period_s=0.1),
        gateway=settings,
    )
    path = directory / f"{name}.yaml"
    path.write_text(render_fleet(fleet))
    stack = AsyncExitStack()
    opened = await stack.enter_async_context(open_gateway(fleet, path, requires_server=True))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(settings.grpc or ""))
    return Member(name, opened, RawCalls(channel), listen, stack)


async def until(condition: Any) -> None:
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.02)


@asynccontextmanager
async def sharing(directory: Path, *, tritons: int, gateways: int, **gateway: Any) -> AsyncIterator[list[Member]]:
    async with AsyncExitStack() as stack:
        opened = [await stack.enter_async_context(open_triton()) for _ in range(tritons)]
        addresses = [address for _, address in opened]
        listen = [f"127.0.0.1:{port}" for port in choose_free_ports(gateways)]
        members = []
        for number, own in enumerate(listen):
            member = await join(directory, f"g{number}", addresses, listen, own, **gateway)
            stack.push_async_callback(member.leave)
            members.append(member)
        await until(lambda: all(len(m.gateway._sharing.living) == gateways for m in members))  # type: ignore[union-attr]
        await asyncio.sleep(0.5)  # for what was planned before
        await until(lambda: sum(len(member.drives) for member in members) == tritons)
        yield members


async def test_a_gateway_without_a_server_of_its_own_answers_over_all_that_it_speaks(tmp_path: Path) -> None:
    async with sharing(tmp_path, tritons=1, gateways=3) as members:
        (driver,) = [member for member in members if member.drives]
        others = [member for member in members if member is not driver]
        for member in others:
            answer = await member.calls.infer(item_request(id="7", items=3, parameters={"slim_deadline_ms": 5000.0}))
            assert (answer.id, answer.outputs[0].shape[0]) == ("7", 3)
            assert answer.parameters["slim_server"].string_param == "s0"
            (streamed,) = await member.calls.stream([item_request(id="8")])
            assert (streamed.error_message, streamed.infer_response.id) == ("", "8")
            assert member.gateway.http is not None
            body = {"inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 1, 2, 2], "data": [0.0] * 4}]}
            async with (
                aiohttp.ClientSession() as session,
                session.post(f"http://{member.gateway.http.address}/v2/models/fashion/infer", json=body) as response,
            ):
                assert response.status == 200, await response.text()
                assert len((await response.json())["outputs"][0]["data"]) == 10
            assert await member.counted("slim_gateway_hops") == 3
            assert await member.counted("slim_gateway_requests", "fashion", "25", "s0", "ok") >= 0
        assert await driver.counted("slim_gateway_peer_requests", "ok") == 6
        assert await driver.counted("slim_gateway_drives", "s0") == 1
        assert not [key for key in (await driver.gateway.read_metrics()).values["slim_gateway_requests"] if key[2]]
        large = item_request(items=32, parameters={"slim_width": 25})
        assert (await others[0].calls.infer(large)).parameters["slim_width"].int64_param == 25


async def test_a_refusal_of_a_peer_reads_as_ones_own(tmp_path: Path) -> None:
    async with sharing(tmp_path, tritons=1, gateways=2) as members:
        wrong = item_request(parameters={"slim_min_accuracy": 0.999})
        late = item_request(parameters={"slim_deadline_ms": 0.001})
        (own, passed), (own_late, passed_late) = [
            [(await member.calls.refused("ModelInfer", request))[0] for member in members] for request in (wrong, late)
        ]
        assert own == passed == "INVALID_ARGUMENT"
        assert {own_late, passed_late} <= {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


async def test_what_a_peer_passes_on_goes_no_further(tmp_path: Path) -> None:
    async with sharing(tmp_path, tritons=1, gateways=2) as members:
        (idle,) = [member for member in members if not member.drives]
        async with grpc.aio.insecure_channel(idle.peer_address) as channel:
            request = item_request(parameters={"slim_deadline_ms": 200.0})
            status, words = await RawCalls(channel).refused("ModelInfer", request)
        assert status == "UNAVAILABLE"
        assert "driven by another gateway" in words
        assert await idle.counted("slim_gateway_hops") == 0


async def test_the_address_of_callers_is_no_address_of_a_peer(tmp_path: Path) -> None:
    async with sharing(tmp_path, tritons=1, gateways=1) as (member,):
        assert member.gateway.grpc is not None
        client = GrpcPeerClient(member.gateway.grpc.address)
        with pytest.raises(Exception, match="there is no method"):
            await client.exchange_reports(b"")
        await client.close()
        assert await member.calls.infer(item_request()) is not None


async def test_who_leaves_is_replaced_and_loses_no_request(tmp_path: Path) -> None:
    async with sharing(tmp_path, tritons=2, gateways=2) as members:
        assert [len(member.drives) for member in members] == [1, 1]
        going, staying = members
        stop = asyncio.Event()
        answered = 0

        async def ask() -> None:
            nonlocal answered
            while not stop.is_set():
                await staying.calls.infer(item_request(parameters={"slim_deadline_ms": 5000.0}))
                answered += 1

        asking = [asyncio.create_task(ask()) for _ in range(4)]
        await going.leave()
        await until(lambda: len(staying.drives) == 2)
        stop.set()
        await asyncio.gather(*asking)
        assert answered > 0


async def test_two_gateways_let_in_together_what_a_tenant_may_have(tmp_path: Path) -> None:
    quota_rps, callers = 50.0, (4, 2)
    tenant = {"name": "vision", "tokens": [digest(TOKEN)], "requests_per_s": quota_rps, "requests_burst": 25}
    write(tmp_path / "tokens.yaml", tenant)
    let_in, stop = [0, 0], asyncio.Event()

    async def ask(number: int, calls: RawCalls) -> None:
        metadata = (("authorization", f"Bearer {TOKEN}"),)
        while not stop.is_set():
            try:
                await calls.bytes("ModelInfer", item_request().SerializeToString(), metadata=metadata)
                let_in[number] += 1
            except grpc.aio.AioRpcError as exc:
                assert exc.code() is grpc.StatusCode.RESOURCE_EXHAUSTED, exc.details()
            await asyncio.sleep(0.02)

    auth = AuthSettings(tokens_file=tmp_path / "tokens.yaml")
    async with sharing(tmp_path, tritons=2, gateways=2, auth=auth) as members:
        asking = [
            asyncio.create_task(ask(number, member.calls))
            for number, member in enumerate(members)
            for _ in range(callers[number])
        ]
        await asyncio.sleep(2.0)  # for bursts to be had, and each to know what comes at the other
        before, began_s = list(let_in), time.monotonic()
        await asyncio.sleep(5.0)
        counts = [count - earlier for count, earlier in zip(let_in, before, strict=True)]
        may_have = quota_rps * (time.monotonic() - began_s)
        stop.set()
        await asyncio.gather(*asking)
    assert sum(counts) / may_have == pytest.approx(1.0, rel=0.1)
    assert min(counts) / sum(counts) > 0.25, "who asks for more than an even part gets that at least"


class Team:
    directory = "/run/slim"

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize(
    ("peers", "workers", "number", "name", "listen", "addresses"),
    [
        (None, 3, 1, "pod-8081-1", "unix:/run/slim/1", [f"unix:/run/slim/{n}" for n in range(3)]),
        (["a:83", "b:83"], 1, None, "pod", "0.0.0.0:8083", ["a:83", "b:83"]),
        (["a:83"], 2, 1, "pod-1", "0.0.0.0:8084", ["a:83", "a:84"]),
    ],
)
def test_where_a_gateway_or_a_worker_is_among_its_peers(
    peers: list[str] | None, workers: int, number: int | None, name: str, listen: str, addresses: list[str]
) -> None:
    found = PeerSettings(listen="0.0.0.0:8083", addresses=tuple(peers)) if peers else None
    team: Any = None if number is None else Team(number)
    place = place_of(GatewaySettings(workers=workers, peers=found), team, host="pod")
    assert place is not None
    assert (place.name, place.listen, list(place.addresses)) == (name, listen, addresses)
    assert place_of(GatewaySettings(), None, host="pod") is None
