"""How the processes of a gateway follow their fleet file: servers come and go while they answer.

A file that can't be used is refused as a whole, and what was there is kept. A process that routes leaves names to its
router; a supervisor, which has none, looks them up itself (``FollowedFleet``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from orchestrator.config import FleetSettings, find_changes, load_fleet
from orchestrator.config.effective import changed_settings
from orchestrator.config.names import ServerChanges
from orchestrator.errors import ConfigError
from orchestrator.files import Stamp, stamp_of
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.file_watch import WatchedFiles
from orchestrator.gateway.fleet_sharing import share_fleet
from orchestrator.gateway.listening import Sockets
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.ports import Server, Team
from orchestrator.gateway.server import Gateway
from orchestrator.http2.grpc.channel import ConnectionPool
from orchestrator.router import ResolvedNames, Router, connect_triton
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.families import Described, describe_models

log = logging.getLogger(__name__)


def follow_fleet(
    path: Path,
    router: Router,
    gateway: Gateway,
    *,
    known: FleetSettings | None = None,
    stamps: tuple[Stamp, ...] | None = None,
) -> WatchedFiles:
    """Return the watch over the fleet file of a router and a gateway; ``stamps`` as in ``WatchedFiles``.

    What changes of what is ``known`` is logged, key by key; None: nothing is, because somebody else does.
    """

    def take() -> None:
        nonlocal known
        fleet = read = load_fleet(path)
        # The router first: it looks at everything that could be refused before it changes anything.
        router.reconfigure(fleet)
        gateway.reconfigure(fleet)
        if known is not None:
            log_changes(known, read)
            known = read

    return WatchedFiles("the fleet's servers and the router's settings", [path], take, stamps=stamps)


def log_changes(old: FleetSettings, new: FleetSettings) -> None:
    """Log a line with what has changed in a fleet file, key by key."""
    if changes := changed_settings(old, new):
        log.info("changed in the fleet file: %s", "; ".join(changes), extra={"fields": {"changes": changes}})


@asynccontextmanager
async def open_gateway(
    fleet: FleetSettings,
    path: Path,
    team: Team | None = None,
    *,
    sockets: Sockets | None = None,
    admin: AdminEndpoint | None = None,
    requires_server: bool = False,
    stamps: tuple[Stamp, ...] | None = None,
) -> AsyncIterator[Gateway]:
    """Answer with a gateway over a fleet, whose file is followed, on given sockets or its own, until the context ends.

    The file may have changed since the fleet was read from it; ``stamps`` as in ``WatchedFiles`` say so.

    One discovery asks each Triton what it serves, for the router and the gateway, and all goes over one connection.
    Where none serves anything yet it is not ready until one does, unless ``requires_server`` lets that be an error.

    Raises:
        SlimError: It can't be opened.
    """
    known = fleet if team is None else None
    metrics, pool = GatewayMetrics(), ConnectionPool()
    described, timeout_s = describe_models(fleet.families), fleet.router.connect_timeout_s
    async with ModelDiscovery[Server]({}, timeout_s=timeout_s, described=described) as discovery:
        connect = partial(connect_triton, pool=pool, discovery=discovery)
        router = Router.from_fleet(fleet, observer=metrics.router, connect=connect, requires_server=requires_server)
        retries = fleet.router.retries
        gateway = Gateway(
            fleet.gateway,
            router,
            discovery,
            retries=retries,
            team=team,
            metrics=metrics,
            pool=pool,
            sockets=sockets,
            admin=admin,
        )
        gateway.follow(follow_fleet(path, router, gateway, known=known, stamps=stamps))
        given = (sockets or {}).get("peers")
        async with router, share_fleet(gateway, router, fleet, team=team, given=given), gateway:
            yield gateway


class FollowedFleet:
    """A fleet as its file says, with one server for each address that a host name stands for.

    Attributes:
        settings: The newest fleet that could be used, but with the gateway section of the first: workers that are
            started again are to be as many, and to listen, as before.
        path: The file.
        stamps: Of the file, from before what it says was read last.
        servers: One for each address; empty before `resolve`.
    """

    def __init__(self, settings: FleetSettings, path: Path, *, stamps: tuple[Stamp, ...] | None = None) -> None:
        self.settings = self._read = settings
        self.path = path
        self.stamps = stamps
        self.servers = settings.servers[:0]
        self._names = ResolvedNames()

    async def resolve(self) -> None:
        """Look the names up for the first time."""
        await self._names.look_up(self.settings.servers, lambda name: False)
        self.servers = self._names.expand(self.settings.servers)

    def watch_file(self, take: Callable[[ServerChanges], None], describe: Callable[[Described], None]) -> WatchedFiles:
        """Return the watch over the file.

        ``take`` is given what has changed of the servers, and may raise ConfigError; ``describe`` what the file says of
        models.
        """

        def read() -> None:
            stamps = (stamp_of(self.path),)
            settings = load_fleet(self.path)
            self._take(settings, take)
            describe(describe_models(settings.families))
            log_changes(self._read, settings)
            self._read = settings
            self.settings = settings.model_copy(update={"gateway": self.settings.gateway})
            self.stamps = stamps

        return WatchedFiles("the fleet's servers", [self.path], read, stamps=self.stamps)

    async def watch_names(self, take: Callable[[ServerChanges], None], answers: Callable[[str], bool]) -> None:
        """Look the names up for ever, and have changes taken; ``answers`` returns whether a server answers now."""
        while True:
            await asyncio.sleep(self._names.pause_s(self.settings.servers, self.settings.router.resolve_period_s))
            await self._names.look_up(self.settings.servers, answers)
            try:
                self._take(self.settings, take)
            except ConfigError as exc:
                log.warning("the fleet's servers: kept as before: %s", exc)

    def _take(self, settings: FleetSettings, take: Callable[[ServerChanges], None]) -> None:
        servers = self._names.expand(settings.servers)
        take(find_changes(self.servers, servers))
        self.servers = servers
