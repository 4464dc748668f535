"""Lets a gateway, or one worker of it, share its fleet with others: composes ``peers`` with a router and the network.

Workers of one gateway are gateways that share a fleet, with Unix sockets in a directory of their supervisor's between
them, and the supervisor as keeper of the records that no controller keeps. Where the gateway has peers as well, each
worker is a peer of all workers of the others.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import aiohttp

from orchestrator.background import BackgroundTasks
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings
from orchestrator.config.names import address_above, host_of, is_name
from orchestrator.errors import ConfigError
from orchestrator.gateway.auth.callers import Guard
from orchestrator.gateway.grpc.peers import PeerEndpoint
from orchestrator.gateway.peers.clients import UNIX, ControllerKeeper, GrpcPeerClient
from orchestrator.gateway.peers.forwarding import Forwarder
from orchestrator.gateway.peers.leases import Keeper
from orchestrator.gateway.peers.links import PeerLinks
from orchestrator.gateway.peers.quotas import parts_of
from orchestrator.gateway.peers.report import GatewayReport
from orchestrator.gateway.peers.sharing import Sharing
from orchestrator.gateway.ports import Team
from orchestrator.gateway.server import Gateway
from orchestrator.installed.version import read_version
from orchestrator.ownership import GatewayName
from orchestrator.router import Router, addresses_to_use, resolve_host
from orchestrator.triton.protocol_key import read_protocol_key, render_headers

log = logging.getLogger(__name__)

Resolve = Callable[[str], Awaitable[tuple[str, ...]]]
"""Returns the addresses of a host name; none when it can't be looked up."""
RESOLVE_S = 1.0
"""Between two looks at who the peers' host names stand for: a new gateway waits so long for its servers."""
_ENDING_LOOK_S = 0.2
_TOLD_S = 1.0  # in which all peers have read that this one ends


@dataclass(frozen=True, slots=True)
class PeerPlace:
    """Where one gateway is among its peers.

    Attributes:
        listen: Where it listens for them, ``host:port`` or ``unix:PATH``.
        addresses: Where all may listen, this one included.
    """

    name: GatewayName
    listen: str
    addresses: tuple[str, ...]


def place_of(settings: GatewaySettings, team: Team | None, *, host: str) -> PeerPlace | None:
    """Return the place of a gateway, or of the worker that has a team; None for one that is alone. Pure."""
    peers, workers = settings.peers, 1 if team is None else settings.workers
    number = 0 if team is None else team.number
    if peers is None:
        if team is None:
            return None
        sockets = [f"{UNIX}{team.directory}/{each}" for each in range(workers)]
        # The port tells it from workers of another gateway of this host, who may claim at the same controllers.
        port = (settings.grpc or settings.http or "").rpartition(":")[2]
        return PeerPlace(GatewayName(f"{host}-{port}-{number}"), sockets[number], tuple(sockets))
    name = peers.name or host
    addresses = tuple(address_above(address, each) for address in peers.addresses for each in range(workers))
    own = GatewayName(name if team is None else f"{name}-{number}")
    return PeerPlace(own, address_above(peers.listen, number), addresses)


@asynccontextmanager
async def share_fleet(
    gateway: Gateway,
    router: Router,
    fleet: FleetSettings,
    *,
    team: Team | None = None,
    given: Sequence[socket.socket] | None = None,
) -> AsyncIterator[None]:
    """Share the fleet of an open router, for a gateway that opens and drains within; alone it changes nothing.

    ``given`` are the sockets to listen on for peers, where they are there already.

    Raises:
        ConfigError: The address for peers can't be had.
    """
    place = place_of(fleet.gateway, team, host=socket.gethostname())
    if place is None:
        yield
        return
    assert router.membership is not None
    membership, guard, metrics = router.membership, gateway.data_plane.guard, gateway.data_plane.metrics
    has_ended = asyncio.Event()
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(aiohttp.ClientSession())
        links = PeerLinks(GrpcPeerClient, lambda: sharing.report().encode())
        stack.push_async_callback(links.close)
        sharing = Sharing(
            place.name,
            router.share,
            servers=lambda: membership.servers,
            keeper_of=partial(_keeper_of, session, team),
            links=links,
            is_ending=lambda: gateway.is_ending or has_ended.is_set(),
            demands=lambda: guard.demands,
            version=read_version(),
            on_reports=partial(_divide_quotas, guard, place.name),
        )
        timeout_s = fleet.router.request_timeout_s
        gateway.share(sharing, Forwarder(sharing, timeout_s=timeout_s, on_hop=metrics.count_hop))
        endpoint = PeerEndpoint(
            gateway.data_plane, fleet.gateway, sharing.exchange, place.listen, given or _unix(place)
        )
        stack.callback(endpoint.stop)
        endpoint.bind()
        await endpoint.start()
        gateway.peer_sockets = endpoint.sockets
        router.share.drive(())  # nothing before it is known what others drive
        names = PeerNames(place.addresses)
        links.replace(await names.look_up(()))
        await links.until_asked()
        stack.push_async_callback(sharing.leave)
        sharing.tick()
        background = BackgroundTasks(metrics.router.on_background_failure)
        stack.push_async_callback(background.stop)
        background.start("sharing the fleet", sharing.run)
        background.start("resolving peers", partial(_watch_names, names, links))
        background.start("sending peers elsewhere", partial(_drain_when_ending, gateway, sharing, endpoint))
        yield
        has_ended.set()
        await sharing.hand_over(within_s=_TOLD_S)


def _unix(place: PeerPlace) -> list[socket.socket] | None:
    """Return a socket of a place that is a path; None for another place."""
    path = place.listen.removeprefix(UNIX)
    if path == place.listen:
        return None
    if os.path.exists(path):  # of an earlier run of this worker
        os.unlink(path)
    one = socket.socket(socket.AF_UNIX)
    one.setblocking(False)
    try:
        one.bind(path)
    except OSError as exc:
        one.close()
        raise ConfigError(
            f"can't make a socket for other workers at {path} ({exc}); set TMPDIR to another folder"
        ) from exc
    return [one]


def _keeper_of(session: aiohttp.ClientSession, team: Team | None, server: ServerSettings) -> Keeper | None:
    if server.controller_address is not None:
        headers = render_headers(read_protocol_key(server.protocol_key_file))
        return ControllerKeeper(session, server.controller_address, tuple(headers.items()))
    return None if team is None else team.keeper(server.grpc)


def _divide_quotas(guard: Guard, own: GatewayName, reports: Mapping[GatewayName, GatewayReport]) -> None:
    """Let a gateway give away its part of all quotas, by what tenants ask for at each."""
    guard.weigh()
    demands = {name: report.demands for name, report in reports.items()}
    guard.take_parts(parts_of(own, demands, guard.quotas))


async def _drain_when_ending(gateway: Gateway, sharing: Sharing, endpoint: PeerEndpoint) -> None:
    """Send peers elsewhere once they know that this gateway ends: another one may listen at its address by now.

    Not where all end together: what this gateway drives until it has ended, nobody else does.
    """
    while not (gateway.is_ending and sharing.has_successor):
        await asyncio.sleep(_ENDING_LOOK_S)
    await asyncio.sleep(_TOLD_S)
    await endpoint.drain()


class PeerNames:
    """What the peers' addresses stand for; a name that can't be looked up any more keeps what it stood for."""

    def __init__(self, addresses: Sequence[str], resolve: Resolve = resolve_host) -> None:
        self._addresses = addresses
        self._resolve = resolve
        self._found: dict[str, tuple[str, ...]] = {}

    async def look_up(self, answering: Sequence[str]) -> list[str]:
        """Return the addresses of all peers, of which those that answer now are kept until others do."""
        hosts = sorted({host_of(a) for a in self._addresses if not a.startswith(UNIX) and is_name(host_of(a))})
        found: Mapping[str, tuple[str, ...]] = dict(
            zip(hosts, await asyncio.gather(*map(self._resolve, hosts)), strict=True)
        )
        kept = {host_of(address) for address in answering}
        for host in hosts:
            self._found[host] = addresses_to_use(found[host], self._found.get(host, ()), kept.__contains__)
        return [each for address in self._addresses for each in self._expand(address)]

    def _expand(self, address: str) -> list[str]:
        if address.startswith(UNIX) or not is_name(host_of(address)):
            return [address]
        port = address.rpartition(":")[2]
        return [f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}" for ip in self._found[host_of(address)]]


async def _watch_names(names: PeerNames, links: PeerLinks) -> None:
    while True:
        await asyncio.sleep(RESOLVE_S)
        links.replace(await names.look_up([link.address for link in links() if link.is_answering]))
