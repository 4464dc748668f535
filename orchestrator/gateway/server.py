"""A gateway from its parts: router, discovery, data plane, transports; started together and drained in order."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

from orchestrator.background import BackgroundTasks, end_tasks
from orchestrator.config import (
    FleetSettings,
    GatewaySettings,
    RetrySettings,
    ServerSettings,
    find_changes,
    load_tenants,
)
from orchestrator.files import stamp_of
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.auth.callers import Guard
from orchestrator.gateway.auth.tls import HTTP1, HTTP2, TlsFiles
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.devices import DeviceReader
from orchestrator.gateway.file_watch import WatchedFiles, watch
from orchestrator.gateway.grpc.server import GrpcServer
from orchestrator.gateway.http.server import HttpServer
from orchestrator.gateway.limits.call_budget import CallBudget
from orchestrator.gateway.listening import Sockets
from orchestrator.gateway.metrics import gateway_metrics as measures
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.peers.forwarding import Forwarder
from orchestrator.gateway.peers.sharing import Sharing
from orchestrator.gateway.ports import Server, Team
from orchestrator.gateway.tracing import Tracing
from orchestrator.http2.grpc.channel import ConnectionPool
from orchestrator.request_options import RequestOptions
from orchestrator.router import FleetOverview, Router
from orchestrator.snapshot import ServerName
from orchestrator.triton.client import TritonClient
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.families import describe_models
from orchestrator.triton.protocol_key import read_protocol_key

log = logging.getLogger(__name__)

_DRAIN_LOOK_S = 0.1
_QUIET_S = 2.0  # without an inference, after which streams that wait for nothing end; the transports take leave in less


class Gateway:
    """Listens while the context is open; leaving it drains. It is made in an event loop, before the router opens.

    Args:
        settings: The gateway's section of fleet.yaml.
        router: The router for the families; the caller opens and closes it. Of one over a fleet, servers are followed.
        discovery: What says what the servers serve that calls are passed through to; closed by the gateway. Somebody
            else, such as the router, asks it again and again.
        retries: How often calls may be passed through again; None for the default.
        team: The other processes, when this is one of several.
        metrics: Where to count, which the router's observer counts in too; None for its own.
        pool: The connections that the router uses; None for the gateway's own.
        sockets: Those to listen on that are there already; others are taken.
        admin: The endpoint of health and metrics, where somebody else has one open, and closes it; None for its own.

    Raises:
        ConfigError: A file of keys, tokens or TLS can't be used, or what tracing needs is not installed.

    Attributes:
        grpc: The gRPC endpoint; None when not offered.
        http: The HTTP endpoint; None when not offered.
        metrics: The endpoint of health and metrics; None when not offered here.
        background: What goes on for as long as it is open.
        data_plane: What answers.
        peer_sockets: Those that it listens on for other gateways; none where it has no peers.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        router: Router,
        discovery: ModelDiscovery[Server],
        *,
        retries: RetrySettings | None = None,
        team: Team | None = None,
        metrics: measures.GatewayMetrics | None = None,
        pool: ConnectionPool | None = None,
        sockets: Sockets | None = None,
        admin: AdminEndpoint | None = None,
    ) -> None:
        given = sockets or {}
        self._settings = settings
        self._router = router
        self._is_alone = team is None
        self._metrics = metrics or measures.GatewayMetrics()
        self._pool = pool
        self._discovery = discovery
        self._model_index = ModelIndex(discovery)
        self._files: list[WatchedFiles] = []
        self._servers: tuple[ServerSettings, ...] = ()
        self._sharing: Sharing | None = None
        self.peer_sockets: Sequence[socket.socket] = ()
        self.background = BackgroundTasks(self._metrics.router.on_background_failure)
        guard, files = open_guard(settings)
        self._files += files
        self._tracing = None if settings.tracing is None else Tracing(settings.tracing)
        self.data_plane = DataPlane(
            router,
            self._model_index,
            self._metrics,
            team=team,
            guard=guard,
            retries=retries,
            calls=CallBudget(settings),
            access_log=settings.access_log,
            tracing=self._tracing,
        )
        self.metrics = admin
        self._has_own_admin = admin is None
        if admin is None and settings.metrics is not None and self._is_alone:
            self.metrics = AdminEndpoint(settings.metrics, given.get("metrics"))
        tls = self._open_tls()
        self.grpc = self._open_grpc(tls, given)
        self.http = self._open_http(tls, given)
        if router.membership is not None:
            self._take(router.membership.servers)
            router.membership.listen(self._take)

    def _open_tls(self) -> TlsFiles | None:
        if self._settings.tls is None:
            return None
        tls = TlsFiles(self._settings.tls)
        self._files.append(WatchedFiles("certificates", tls.paths, tls.refresh, stamps=tls.stamps))
        return tls

    def _open_grpc(self, tls: TlsFiles | None, given: Sockets) -> GrpcServer | None:
        if self._settings.grpc is None:
            return None
        ssl = None if tls is None else tls.context(HTTP2)
        grpc = GrpcServer(self.data_plane, self._settings, ssl=ssl, listens=self._is_alone, given=given.get("grpc"))
        self._router.watch_unread(lambda: grpc.unread_bytes)
        return grpc

    def _open_http(self, tls: TlsFiles | None, given: Sockets) -> HttpServer | None:
        if self._settings.http is None:
            return None
        ssl = None if tls is None else tls.context(HTTP1)
        return HttpServer(self.data_plane, self._settings, ssl=ssl, listens=self._is_alone, given=given.get("http"))

    def share(self, sharing: Sharing, forwarder: Forwarder) -> None:
        """Pass on from now on what is for servers that other gateways drive."""
        self._sharing = sharing
        self.data_plane.inference.forwarder = forwarder
        self.data_plane.health.is_stranded = lambda family: sharing.is_stranded(RequestOptions(family=family))

    @property
    def is_ending(self) -> bool:
        """Whether it tells clients to go elsewhere, and is to get nothing more."""
        return self.data_plane.health.is_ending

    def reload(self) -> None:
        """Read tokens and certificates again now, as happens anyway within a second of their change."""
        for files in self._files:
            files.refresh(is_forced=True)

    def reconfigure(self, fleet: FleetSettings) -> None:
        """Take the gateway's section of another fleet; the servers are those of the router, whatever they are.

        How many calls may be repeated changes at once. None of its own settings does before the gateway is started
        again, which the log says.
        """
        self.data_plane.passthrough.retries = fleet.router.retries
        self._discovery.timeout_s = fleet.router.connect_timeout_s
        self._discovery.describe(describe_models(fleet.families))
        if fleet.gateway != self._settings:
            log.warning("the gateway section has changed; start the gateway again for it to take effect")

    def _take(self, servers: tuple[ServerSettings, ...]) -> None:
        """Pass calls through to other servers from now on; what counts requests goes on counting."""
        changes = find_changes(self._servers, servers)
        opened = open_servers(changes.opened, self._pool)
        self._servers = servers
        self._discovery.reconfigure(opened, map(ServerName, changes.closed))

    def follow(self, files: WatchedFiles) -> None:
        """Read some more files again whenever they change."""
        self._files.append(files)

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """What is offered, and at which address."""
        endpoints = (("gRPC", self.grpc), ("HTTP", self.http), ("metrics", self.metrics))
        return [(what, endpoint.address) for what, endpoint in endpoints if endpoint is not None]

    @property
    def sockets(self) -> Sockets:
        """What it listens on, once open."""
        endpoints = (("grpc", self.grpc), ("http", self.http), ("metrics", self.metrics))
        own = {kind: endpoint.sockets for kind, endpoint in endpoints if endpoint is not None}
        return {**own, "peers": self.peer_sockets} if self.peer_sockets else own

    @property
    def served(self) -> frozenset[str]:
        """The families of which some server answers a width, as this process sees it."""
        return frozenset(filter(self.data_plane.health.serves, self._model_index.families))

    def snapshot_metrics(self) -> MetricSnapshot:
        """Return what this process has counted, and what waits and works in it."""
        held = self._router.inspect()
        present = {*held.servers, *(server.name for server in self._servers)}
        self._metrics.forget_departed(present, asyncio.get_running_loop().time())
        snapshot = self._metrics.snapshot()
        snapshot.add(measures.read_process(), measures.MEASURES)
        in_flight = snapshot.values.get(measures.GROUPS.name, {})
        for labels in [one for one, (sent,) in in_flight.items() if one[0] not in held.servers and not sent]:
            del in_flight[labels]  # a server that has left, and has answered all
        backlog = held.backlog
        amounts = (backlog.requests, backlog.items, backlog.size_bytes)
        for measure, amount in zip(measures.QUEUED, amounts, strict=True):
            snapshot.put(measure, amount)
        for server in self._discovery.servers:
            for model in server.foreign:
                snapshot.numbers(measures.FOREIGN_MODELS, (server.name, model))[0] = 1.0
        for name, seen in held.servers.items():
            snapshot.numbers(measures.LEFT_OUT, (name,))[0] = float(not seen.is_healthy)
        for each in self._servers:
            if each.device_class is not None:
                snapshot.numbers(measures.SERVER_INFO, (each.name, each.device_class))[0] = 1.0
        snapshot.numbers(measures.POLICY_INFO, held.policies)[0] = 1.0
        standing = held.standing
        snapshot.numbers(measures.POLICY_SINCE, (standing.policy, standing.why))[0] = standing.since_unix_s
        if standing.candidate:
            snapshot.numbers(measures.ROLLOUT, (standing.candidate, standing.stage))[0] = standing.share
        snapshot.put(measures.TASKS, len(asyncio.all_tasks()))
        snapshot.put(measures.LOOP_LAG, self.data_plane.inference.lag.seconds)
        if self._sharing is not None:
            snapshot.put(measures.PEERS, len(self._sharing.living) - 1)
            for name in self._sharing.drives:
                snapshot.numbers(measures.DRIVEN, (name,))[0] = 1.0
        return snapshot

    async def read_metrics(self) -> MetricSnapshot:
        """Return what was counted, for a gateway of this process alone."""
        snapshot = self.snapshot_metrics()
        snapshot.put(measures.WORKERS, 1)
        snapshot.put(measures.WORKER_RESTARTS, 0)
        return snapshot

    async def read_overview(self) -> FleetOverview:
        """Return what this process' router knows of the fleet."""
        overview, sharing = await self._router.describe(), self._sharing
        if sharing is None:
            return overview
        drivers = sharing.drivers()
        servers = [replace(each, driver=drivers.get(ServerName(each.name), "")) for each in overview.servers]
        return replace(overview, servers=tuple(servers), gateways=tuple(sharing.living))

    @property
    def servers(self) -> tuple[ServerSettings, ...]:
        """The servers of the fleet now; none for a router that was given its connections."""
        return self._servers

    def unready_reason(self) -> str | None:
        """Return why no requests are to be sent to this process; None when they are."""
        return self.data_plane.health.unready_reason()

    @property
    def _transports(self) -> list[GrpcServer | HttpServer]:
        return [transport for transport in (self.grpc, self.http) if transport is not None]

    async def __aenter__(self) -> Self:
        try:
            new = [server.name for server in self._discovery.servers if server.is_new]
            await asyncio.gather(*map(self._discovery.refresh, new))
            endpoints = (*self._transports, *([self.metrics] if self.metrics else []))
            for endpoint in endpoints:
                endpoint.bind()
            # Not before all can be had: what comes in at one would be lost when another one fails.
            for endpoint in endpoints:
                await endpoint.start()
        except BaseException:
            await self._close(until_s=0.0)
            raise
        if self.metrics is not None:
            self.metrics.gateway, self.metrics.guard = self, self.data_plane.guard
        self.background.start("watching files", partial(watch, self._files))
        self.background.start("reading devices", DeviceReader(self._router).watch)
        statistics = self.data_plane.fleet_statistics
        if statistics is not None:
            period_s = self._settings.statistics_period_s
            self.background.start("asking for statistics", lambda: statistics.watch(period_s))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say "not ready", send clients elsewhere, answer what comes until they have gone, then close.

        The router is to be closed by the same time. No call is refused meanwhile: a client may only repeat it where it
        has a policy to do so, and most have none.
        """
        loop = asyncio.get_running_loop()
        until_s = loop.time()
        try:
            if self._is_alone and not self.data_plane.health.is_ending:  # else somebody has waited, or is to take over
                self.say_unready()
                await asyncio.sleep(self._settings.lame_duck_s)
            until_s = loop.time() + self._settings.drain_s
            self._router.close_by(until_s)
            await self._drain(until_s)
        finally:
            await self._close(until_s=until_s)

    def say_unready(self) -> None:
        """Let load balancers send requests elsewhere from now on; those that come are answered."""
        self.data_plane.health.is_ending = True

    async def _close(self, *, until_s: float) -> None:
        for transport in self._transports:
            transport.stop()
        self.data_plane.inference.lag.stop()
        await self.background.stop()
        if self.metrics is not None:
            self.metrics.gateway = None
            if self._has_own_admin:
                await self.metrics.stop()
        if self._tracing is not None:
            await self._tracing.close()
        await self._discovery.close(drain_s=max(0.0, until_s - asyncio.get_running_loop().time()))

    async def _drain(self, until_s: float) -> None:
        """Let the transports take leave of their clients; those that only keep streams open are not waited for."""
        loop = asyncio.get_running_loop()
        leaving = asyncio.gather(*(transport.drain() for transport in self._transports))
        busy_s = loop.time()
        try:
            while not leaving.done() and loop.time() < min(until_s, busy_s + _QUIET_S):
                await asyncio.wait({leaving}, timeout=min(_DRAIN_LOOK_S, max(0.0, until_s - loop.time())))
                if self._metrics.in_flight:
                    busy_s = loop.time()
        finally:
            await end_tasks(leaving)
        if self._metrics.in_flight:
            log.warning("%d requests are not answered after drain_s and end here", self._metrics.in_flight)


def open_guard(settings: GatewaySettings) -> tuple[Guard, list[WatchedFiles]]:
    """Return who may call, and the files that say so; raises ConfigError when they can't be used."""
    auth = settings.auth
    if auth is None:
        return Guard(), []
    path = auth.tokens_file
    stamps = (stamp_of(path),)  # before it is read: what is written meanwhile is read again
    guard = Guard(load_tenants(path), is_health_open=auth.open_health, is_status_open=auth.open_status)
    return guard, [WatchedFiles("tenants", [path], lambda: guard.replace(load_tenants(path)), stamps=stamps)]


def open_servers(servers: Iterable[ServerSettings], pool: ConnectionPool | None = None) -> dict[ServerName, Server]:
    """Return a client of each Triton, to pass calls through; call it with an event loop running.

    Args:
        servers: The servers to connect to.
        pool: Whose connections are shared; None when each client has its own.

    Raises:
        ConfigError: A protocol key file can't be used.
    """
    return {
        ServerName(s.name): TritonClient(
            s.grpc, name=s.name, protocol_key=read_protocol_key(s.protocol_key_file), pool=pool
        )
        for s in servers
    }
