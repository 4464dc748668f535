"""Gateways that share a fleet in virtual time: real routers and real sharing, over a network that can be parted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from types import MappingProxyType
from typing import NamedTuple

from orchestrator.config import ServerSettings
from orchestrator.errors import ConnectionLostError, PermanentError, ServerUnavailableError, SlimError
from orchestrator.gateway.dataplane.exchange import Exchange, Form
from orchestrator.gateway.peers.forwarding import Forwarder
from orchestrator.gateway.peers.leases import NoKeeperError
from orchestrator.gateway.peers.links import PeerGoneError, PeerLink, PeerLinks
from orchestrator.gateway.peers.report import NoReportError
from orchestrator.gateway.peers.sharing import Sharing
from orchestrator.gateway.protocol.family import FamilyModel, FamilyRequest, merge_widths
from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.ownership import GatewayName, Holding
from orchestrator.request_options import RequestOptions
from orchestrator.router import CallbackSink, Router, Transit
from orchestrator.snapshot import ServerName, Width
from tests.fakes.servers import FakeServer, item, served_model
from tests.router.test_router import routed

FAMILY = merge_widths([served_model(25), served_model(100)])


def key_of(name: str) -> str:
    return f"{name}.triton:8001"


VERSION = "1.0.0"
"""Of all gateways that do not say another one."""


class Arrival(NamedTuple):
    """A request as a peer got it: its mark, when, and the deadline that it brought; None: it brought none."""

    mark: int
    at_s: float
    deadline_ms: float | None


class Network:
    """Who reaches whom; parted are pairs of gateways, and of a gateway and a keeper's server.

    ``speaks`` has what becomes of a gateway's reports before anybody else reads them, where it is of another version,
    and ``arrivals`` all requests that took a hop.
    """

    def __init__(self) -> None:
        self.parted: set[frozenset[str]] = set()
        self.gateways: dict[str, SharedGateway] = {}
        self.dead: set[str] = set()
        self.refusing: set[str] = set()
        self.speaks: dict[str, Callable[[bytes], bytes]] = {}
        self.arrivals: list[Arrival] = []

    def part(self, one: str, other: str) -> None:
        self.parted.add(frozenset((one, other)))

    def heal(self) -> None:
        self.parted.clear()

    async def require(self, one: str, other: str) -> None:
        if other in self.refusing:
            raise PeerGoneError("failed to connect: Connection refused", executed=False)
        if one in self.dead or other in self.dead:
            raise ServerUnavailableError("failed to connect", executed=False)
        if frozenset((one, other)) in self.parted:
            await asyncio.sleep(0.5)
            raise ServerUnavailableError("nothing comes back", executed=False)


class SharedGateway:
    """A router, and what says which servers it drives.

    ``insists_on`` is the width that all of its callers ask for, in percent; None: they leave it to the router.
    """

    def __init__(self, name: str, router: Router, sharing: Sharing, links: PeerLinks) -> None:
        self.name = name
        self.router = router
        self.sharing = sharing
        self.links = links
        self.forwarder = Forwarder(sharing, timeout_s=30.0, on_hop=self.count_hop)
        self.hops = 0
        self.is_ending = False
        self.insists_on: Width | None = None

    async def call(self, mark: int, *, deadline_ms: float | None) -> bool:
        """Return whether a request of one item is answered in time, as a gateway's data plane has it answered."""
        loop = asyncio.get_running_loop()
        began_s, ended = loop.time(), loop.create_future()
        message = pb.ModelInferRequest(id=str(mark))
        if self.insists_on is not None:
            message.parameters["slim_width"].int64_param = self.insists_on
        request = message.SerializeToString()
        options = RequestOptions(deadline_ms=deadline_ms, width=self.insists_on)
        exchange: Exchange[object] = Exchange(
            FAMILY,
            FamilyRequest({"pixels": item(mark)}, options, None, 1),
            Form(
                read=lambda request, family: None,  # type: ignore[arg-type, return-value]
                write=lambda request_id, family, answer, wanted: answer,
                relay=lambda answer: answer,
                message=lambda: [request],
            ),
            Transit(began_s),
            submit=lambda wanted, family, sink, transit: self.router.submit(
                wanted.inputs, wanted.options, sink, transit
            ),
            forwarder=self.forwarder,
            note=lambda outcome, decision=("", "", None): None,
            callback=lambda outcome: None if ended.done() else ended.set_result(outcome),
        )
        try:
            exchange.begin()
        except SlimError:
            return False
        is_answered = not isinstance(await ended, Exception)
        return is_answered and (deadline_ms is None or loop.time() - began_s <= deadline_ms / 1e3)

    def _submit(self, wanted: FamilyRequest, family: FamilyModel, sink: CallbackSink, transit: Transit) -> None:
        self.router.submit(wanted.inputs, wanted.options, sink, transit)

    def count_hop(self) -> None:
        self.hops += 1


class FakePeer:
    """What one gateway calls of another."""

    def __init__(self, network: Network, caller: str, called: str) -> None:
        self._network = network
        self._caller = caller
        self._called = called

    async def exchange_reports(self, own: bytes) -> bytes:
        await asyncio.sleep(0.001)
        await self._network.require(self._caller, self._called)
        try:
            told = self._network.gateways[self._called].sharing.exchange(self._as_spoken(self._caller, own))
        except NoReportError as exc:
            raise PermanentError(f"gateway at {self._called}: {exc}") from exc  # as over a network
        return self._as_spoken(self._called, told)

    def _as_spoken(self, gateway: str, report: bytes) -> bytes:
        speak = self._network.speaks.get(gateway)
        is_own = self._caller == self._called  # each is of its own version
        return report if speak is None or is_own else speak(report)

    def reconnect(self) -> None:
        return None

    async def infer(self, parts: Sequence[Buffer], metadata: Metadata) -> bytes:
        await self._network.require(self._caller, self._called)
        request = pb.ModelInferRequest.FromString(b"".join(parts))
        # The protobuf map would make an entry for one that is asked for.
        given = "slim_deadline_ms" in request.parameters
        deadline_ms = request.parameters["slim_deadline_ms"].double_param if given else None
        self._network.arrivals.append(Arrival(int(request.id), asyncio.get_running_loop().time(), deadline_ms))
        width = Width(request.parameters["slim_width"].int64_param) if "slim_width" in request.parameters else None
        router = self._network.gateways[self._called].router
        await router.infer(item(int(request.id)), deadline_ms=deadline_ms, width=width)
        if self._called in self._network.dead:
            raise ConnectionLostError("it has died")
        return bytes(pb.ModelInferResponse(id=request.id).SerializeToString())

    async def close(self) -> None:
        return None


class FakeKeeper:
    """The record beside one server, as one gateway reaches it; ``holdings`` are those of all servers.

    ``ahead_s`` is how far the keeper's clock is ahead of the gateway's.
    """

    def __init__(
        self, network: Network, holdings: dict[str, Holding | None], server: str, gateway: str, ahead_s: float
    ) -> None:
        self._network = network
        self._holdings = holdings
        self._server = server
        self._gateway = gateway
        self._ahead_s = ahead_s

    @property
    def _now_s(self) -> float:
        return asyncio.get_running_loop().time() + self._ahead_s

    async def _holding(self) -> Holding:
        await asyncio.sleep(0.001)
        await self._network.require(self._gateway, self._server)
        holding = self._holdings[self._server]
        if holding is None:
            raise NoKeeperError("connection refused")
        return holding

    async def claim(self, gateway: GatewayName) -> int | None:
        granted = (await self._holding()).claim(gateway, now_s=self._now_s)
        if granted is None:
            return None
        self._holdings[self._server] = granted
        assert granted.record is not None
        return granted.record.term

    async def renew(self, gateway: GatewayName, term: int) -> bool:
        holding = await self._holding()
        granted = holding.renew(gateway, term, now_s=self._now_s)
        self._holdings[self._server] = granted or holding
        return granted is not None

    async def release(self, gateway: GatewayName, term: int, successor: GatewayName | None) -> None:
        holding = await self._holding()
        released = holding.release(gateway, term, successor, now_s=self._now_s)
        self._holdings[self._server] = released or holding


class SharedFleet:
    """Gateways over servers."""

    def __init__(
        self, servers: Mapping[str, FakeServer], *, has_keepers: bool, keepers_ahead_s: Mapping[str, float]
    ) -> None:
        self.servers = servers
        self._keepers_ahead_s = keepers_ahead_s
        self.network = Network()
        self.holdings: dict[str, Holding | None] = {}
        self._has_keepers = has_keepers
        self._stack = AsyncExitStack()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def gateways(self) -> list[SharedGateway]:
        return [gateway for name, gateway in self.network.gateways.items() if name not in self.network.dead]

    async def join(self, name: str) -> SharedGateway:
        router = await self._stack.enter_async_context(routed(self.servers))
        settings = [ServerSettings(name=server, grpc=key_of(server)) for server in self.servers]

        def keeper_of(server: ServerSettings) -> FakeKeeper | None:
            if not self._has_keepers:
                return None
            ahead_s = self._keepers_ahead_s.get(server.name, 0.0)
            self.holdings.setdefault(server.name, Holding(ahead_s - 10.0, first_term=1000))
            return FakeKeeper(self.network, self.holdings, server.name, name, ahead_s)

        links = PeerLinks(partial(FakePeer, self.network, name), lambda: sharing.report().encode())
        sharing = Sharing(
            GatewayName(name),
            router.share,
            servers=lambda: settings,
            keeper_of=keeper_of,
            links=links,
            is_ending=lambda: gateway.is_ending,
            version=VERSION,
        )
        gateway = self.network.gateways[name] = SharedGateway(name, router, sharing, links)
        for each in self.gateways:
            each.links.replace([other.name for other in self.gateways])  # itself among them
        await links.until_asked()
        self._tasks[name] = asyncio.create_task(sharing.run())
        return gateway

    async def leave(self, name: str) -> None:
        """Let a gateway end as on SIGTERM."""
        gateway = self.network.gateways[name]
        gateway.is_ending = True
        await asyncio.sleep(1.0)
        self._tasks[name].cancel()
        await gateway.sharing.leave()
        self.network.dead.add(name)

    def kill(self, name: str, *, with_its_host: bool = True) -> None:
        if not with_its_host:
            self.network.refusing.add(name)
        self.network.dead.add(name)
        self._tasks[name].cancel()
        self.network.gateways[name].router.share.drive(())

    def drivers(self) -> dict[str, list[str]]:
        """Return who sends to each server, by their routers."""
        return {
            server: [g.name for g in self.gateways if ServerName(server) in g.router._fleet.driven()]
            for server in self.servers
        }

    def links_of(self, name: str) -> Sequence[PeerLink]:
        return self.network.gateways[name].links()

    async def close(self) -> None:
        for name, task in self._tasks.items():
            task.cancel()
            await self.network.gateways[name].sharing.leave()
            await self.network.gateways[name].links.close()
        await self._stack.aclose()


@asynccontextmanager
async def sharing_fleet(
    servers: Mapping[str, FakeServer],
    gateways: int,
    *,
    has_keepers: bool = False,
    keepers_ahead_s: Mapping[str, float] = MappingProxyType({}),
) -> AsyncIterator[SharedFleet]:
    """Open gateways over servers; the clock of each server's keeper may be ahead of the gateways'."""
    fleet = SharedFleet(servers, has_keepers=has_keepers, keepers_ahead_s=keepers_ahead_s)
    try:
        for number in range(gateways):
            await fleet.join(f"gateway-{number}")
        await asyncio.sleep(1.0)
        yield fleet
    finally:
        await fleet.close()


async def share_in_time(
    fleet: SharedFleet,
    *,
    rate_rps: float,
    seconds: float,
    deadline_ms: float,
    weights: Sequence[float] | None = None,
    settles_s: float = 0.0,
) -> float:
    """Return the share of requests that are answered in time, of Poisson arrivals at the gateways by weight.

    Those of the first ``settles_s`` don't count, in which policies learn how much comes.
    """
    draw, loop = random.Random(7), asyncio.get_running_loop()
    outcomes: list[bool] = []

    async def call(gateway: SharedGateway, mark: int, *, counts: bool) -> None:
        is_in_time = await gateway.call(mark, deadline_ms=deadline_ms)
        if counts:
            outcomes.append(is_in_time)

    async with asyncio.TaskGroup() as group:
        at_s, mark = loop.time(), 0
        counts_s = at_s + settles_s
        ends_s = counts_s + seconds
        while (at_s := at_s + draw.expovariate(rate_rps)) < ends_s:
            await asyncio.sleep(at_s - loop.time())
            gateway = draw.choices(fleet.gateways, weights)[0]
            group.create_task(call(gateway, mark := mark + 1, counts=at_s >= counts_s))
    return sum(outcomes) / len(outcomes)
