"""The record of a server's driver as gateways ask for it: at a controller's real endpoint, and at the supervisor."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from orchestrator.errors import ServerUnavailableError
from orchestrator.gateway.peers.clients import ControllerKeeper
from orchestrator.gateway.peers.leases import Lease, NoKeeperError
from orchestrator.gateway.workers.channel import Channel
from orchestrator.gateway.workers.worker import WorkerTeam
from orchestrator.ownership import LEASE_S, GatewayName
from tests.controller.status.test_holder import FIRST_TERM, Keeper
from tests.ports import choose_free_port

A, B = GatewayName("a"), GatewayName("b")


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


async def test_a_controller_is_asked_as_a_gateway_claims_renews_and_gives_away(session: aiohttp.ClientSession) -> None:
    with Keeper().listening() as kept:
        keeper = ControllerKeeper(session, f"127.0.0.1:{kept.port}")
        assert await keeper.claim(A) is None, "it has just begun"
        kept.now_s = LEASE_S
        assert await keeper.claim(A) == FIRST_TERM
        assert await keeper.claim(B) is None
        assert await keeper.renew(A, FIRST_TERM)
        assert not await keeper.renew(B, FIRST_TERM)
        await keeper.release(A, FIRST_TERM, B)
        assert not await keeper.renew(A, FIRST_TERM)
        assert await keeper.claim(B) == FIRST_TERM + 2


async def test_a_controller_of_a_restricted_triton_is_shown_its_key(session: aiohttp.ClientSession) -> None:
    headers = {"triton-grpc-protocol-key": "secret"}
    with Keeper(headers=headers).listening() as kept:
        kept.now_s = LEASE_S
        address = f"127.0.0.1:{kept.port}"
        assert await ControllerKeeper(session, address, tuple(headers.items())).claim(A) == FIRST_TERM
        with pytest.raises(NoKeeperError, match=r"answers 403: .*protocol key"):
            await ControllerKeeper(session, address).claim(A)


async def test_where_nobody_listens_nobody_keeps_a_record_and_who_is_silent_may(session: aiohttp.ClientSession) -> None:
    with pytest.raises(NoKeeperError, match="no controller listens"):
        await ControllerKeeper(session, f"127.0.0.1:{choose_free_port()}").claim(A)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ServerUnavailableError, match=r"no answer within 0\.5 s"),
    ):
        await ControllerKeeper(session, f"127.0.0.1:{silent.getsockname()[1]}").claim(A)


@pytest.mark.parametrize("text", ["[]", "nonsense", ""])
async def test_what_is_no_controller_keeps_no_record(session: aiohttp.ClientSession, text: str) -> None:
    async def answer(request: web.BaseRequest) -> web.Response:
        return web.Response(text=text)

    runner = web.ServerRunner(web.Server(answer))
    await runner.setup()
    port = choose_free_port()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    with pytest.raises(NoKeeperError, match="is no controller"):
        await ControllerKeeper(session, f"127.0.0.1:{port}").claim(A)
    await runner.cleanup()


async def test_a_worker_asks_its_supervisor_and_drives_by_the_plan_when_that_is_gone() -> None:
    ours, theirs = socket.socketpair()
    handoff, other = socket.socketpair()
    asked: list[list[object]] = []

    async def answer(body: list[object]) -> int | None:
        asked.append(body)
        return 7 if body[2] == "claim" else None

    supervisor = await Channel.over(theirs, {"holder": answer})
    running = asyncio.create_task(supervisor.run())
    ours.setblocking(False)
    team = WorkerTeam(ours, handoff, on_alone=lambda: None, number=1)
    await team.join()
    keeper = team.keeper("10.0.0.1:8001")
    assert await keeper.claim(A) == 7
    assert not await keeper.renew(A, 7)
    await keeper.release(A, 7, B)
    assert asked == [
        ["10.0.0.1:8001", "a", "claim"],
        ["10.0.0.1:8001", "a", "renew", 7],
        ["10.0.0.1:8001", "a", "release", 7, "b"],
    ]
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await supervisor.close()
    await asyncio.sleep(0.05)
    with pytest.raises(NoKeeperError):
        await keeper.claim(A)
    await team.leave()
    other.close()
    handoff.close()


class Slow:
    """A keeper whose answers take a while."""

    def __init__(self, takes_s: float) -> None:
        self.takes_s = takes_s

    async def claim(self, gateway: GatewayName) -> int | None:
        await asyncio.sleep(self.takes_s)
        return 1

    async def renew(self, gateway: GatewayName, term: int) -> bool:
        await asyncio.sleep(self.takes_s)
        raise ServerUnavailableError("nothing comes back", executed=False)

    async def release(self, gateway: GatewayName, term: int, successor: GatewayName | None) -> None:
        return None


@pytest.mark.virtual_time
async def test_a_lease_ends_two_seconds_after_it_was_asked_for_and_not_after_the_answer() -> None:
    loop = asyncio.get_running_loop()
    told: list[tuple[float, bool]] = []
    lease = Lease(A, Slow(0.4), lambda: True, lambda: told.append((loop.time(), lease.is_held(now_s=loop.time()))))
    lease.want(A)
    running = asyncio.create_task(lease.run())
    began_s = loop.time()
    await asyncio.sleep(0.5)
    assert lease.is_held(now_s=loop.time())
    await asyncio.sleep(1.49)
    assert lease.is_held(now_s=began_s + LEASE_S - 0.01)
    assert not lease.is_held(now_s=began_s + LEASE_S)
    await asyncio.sleep(0.05)
    assert told == [(pytest.approx(began_s + 0.4), True), (pytest.approx(began_s + LEASE_S), False)], "at once"
    running.cancel()
