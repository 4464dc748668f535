"""A gateway of several processes: one supervisor, and workers that answer.

The supervisor has the connections handed out (``socket_handoff``), keeps the workers running, keeps what must be one
truth for all of them (``fleet_statistics``, readiness, which of them drives a Triton that has no controller), and adds
up what they count. It answers no request itself, so
there is little in it that could fail; when it is killed nevertheless, its workers see their channels close, answer what
they have and end.

SO_REUSEPORT alone would need none of this. It was refused: the kernel spreads connections by a hash, drops those that
wait in the queue of a worker that ends, and lets a second gateway take part of the traffic without a word.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from base64 import b64decode, b64encode
from collections.abc import Sequence
from contextlib import AsyncExitStack
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, Self

from orchestrator.background import BackgroundTasks
from orchestrator.config import ServerSettings
from orchestrator.config.names import ServerChanges
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.dataplane.fleet_statistics import FleetStatistics
from orchestrator.gateway.dataplane.health import unready_reason
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.file_watch import watch
from orchestrator.gateway.listening import Sockets, bind_address
from orchestrator.gateway.metrics import gateway_metrics as measures
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.server import open_guard, open_servers
from orchestrator.gateway.workers.fleet_updates import FollowedFleet
from orchestrator.gateway.workers.socket_handoff import ConnectionDistributor
from orchestrator.gateway.workers.takeover import peer_addresses
from orchestrator.gateway.workers.worker import BEAT_S, WorkerLaunch, WorkerRun
from orchestrator.ownership import LEASE_S, Holding
from orchestrator.processes.managed import ManagedProcess
from orchestrator.processes.process_table import is_stopped
from orchestrator.router import FleetOverview, merge_overviews
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.families import describe_models

log = logging.getLogger(__name__)

_STOP_MARGIN_S = 5.0  # beyond drain_s, before a worker that does not end is killed
_SILENT_S = 0.6  # three beats, after which a worker that is stopped is killed
_HUNG_S = 10.0  # after which any is; a busy machine, or a large answer, holds up an event loop for less
_LAST_READING_S = 1.0  # for what a Triton was asked last, which would be left otherwise


class Supervisor:
    """Listens, and keeps the workers, while the context is open; leaving it drains.

    Call it with an event loop running, and the fleet's names resolved; the fleet's changes are followed. It listens on
    ``sockets`` where there are some already; ``admin`` is that of ``Gateway``.

    Raises ConfigError when a file of protocol keys or tokens can't be used; ``metrics`` is None when that endpoint is
    not offered.
    """

    def __init__(
        self,
        fleet: FollowedFleet,
        launch: WorkerLaunch,
        sockets: Sockets | None = None,
        admin: AdminEndpoint | None = None,
    ) -> None:
        self._given = given = sockets or {}
        self._settings = settings = fleet.settings.gateway
        self._discovery_period_s = fleet.settings.router.discovery_period_s
        self._fleet = fleet
        servers, timeout_s = open_servers(fleet.servers), fleet.settings.router.connect_timeout_s
        described = describe_models(fleet.settings.families)
        self._discovery = ModelDiscovery(servers, timeout_s=timeout_s, described=described)
        self._guard, tenants = open_guard(settings)
        self._files = [fleet.watch_file(self._take, self._discovery.describe), *tenants]
        self._model_index = ModelIndex(self._discovery)
        self._fleet_statistics = FleetStatistics(self._model_index, self.is_served)
        self._distributor = ConnectionDistributor()
        self._workers = [
            ManagedProcess(
                f"worker {number}", partial(self._make_run, number, launch), word_restart="again in {:g} s".format
            )
            for number in range(settings.workers)
        ]
        self._runs: dict[int, WorkerRun] = {}  # those that take requests
        self._peers: dict[str, Sequence[socket.socket]] = {}  # on which workers listen for other gateways
        self._holdings: dict[str, Holding] = {}  # which of them drives the server at an address
        self._ended = MetricSnapshot()  # what workers have counted that have ended
        self._departed = measures.DepartedServers()
        self._background = BackgroundTasks()
        self._is_ending = False
        self._is_unready = False
        self._served: list[str] | None = None  # what the workers were last told
        self._ending: AsyncExitStack
        self.metrics = admin
        self._has_own_admin = admin is None
        if admin is None and settings.metrics is not None:
            self.metrics = AdminEndpoint(settings.metrics, given.get("metrics"))
        self._discovery.listen(self._tell_served)

    async def __aenter__(self) -> Self:
        """Listen, and wait until all workers take requests; raises SlimError, and leaves none, when that can't be."""
        async with AsyncExitStack() as stack:  # it ends all in the reverse order
            stack.push_async_callback(self._discovery.close, drain_s=_LAST_READING_S)
            if self.metrics is not None and self._has_own_admin:
                stack.push_async_callback(self.metrics.stop)
            stack.callback(self._close_peers)
            stack.push_async_callback(self._background.stop)
            stack.push_async_callback(self._stop_workers)
            stack.callback(self._distributor.close)
            for kind, address in (("grpc", self._settings.grpc), ("http", self._settings.http)):
                if address is not None:
                    self._distributor.bind(kind, address, self._given.get(kind))
            for kind, address in peer_addresses(self._settings).items():
                self._peers[kind] = self._given.get(kind) or bind_address("gateway.peers.listen", address)
            if self.metrics is not None:
                self.metrics.bind()
            await self._discovery.refresh()
            await self._start_workers()
            if self.metrics is not None:
                await self.metrics.start()
                self.metrics.gateway, self.metrics.guard = self, self._guard
            self._distributor.listen()
            self._ending = stack.pop_all()
        start, period_s = self._background.start, self._settings.statistics_period_s
        start("discovery", lambda: self._discovery.watch(self._discovery_period_s))
        start("asking for statistics", lambda: self._fleet_statistics.watch(period_s))
        start("watching files", lambda: watch(self._files))
        start("watching workers", self._watch_workers)
        start("resolving names", lambda: self._fleet.watch_names(self._take, self._discovery.answers))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Say "not ready" for ``lame_duck_s``; hand out what waits, listen no more, and let every worker drain."""
        if not self._is_unready:
            self.say_unready()
            await asyncio.sleep(self._settings.lame_duck_s)
        try:
            await self._ending.aclose()
        finally:
            if self.metrics is not None:
                self.metrics.gateway = None

    def say_unready(self) -> None:
        """Let load balancers send requests elsewhere from now on; those that come are answered."""
        self._is_unready = True
        for run in self._runs.values():
            run.say_unready()

    @property
    def sockets(self) -> Sockets:
        """What it listens on, once open."""
        metrics = {} if self.metrics is None else {"metrics": self.metrics.sockets}
        return {**self._distributor.sockets, **metrics, **self._peers}

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """What is offered, and where."""
        metrics = self.metrics.address if self.metrics is not None else None
        offered = (("gRPC", self._settings.grpc), ("HTTP", self._settings.http), ("metrics", metrics))
        return [(what, address) for what, address in offered if address is not None]

    def reload(self) -> None:
        """Read the fleet file again, and let the workers do so; those that start have just read it."""
        for files in self._files:
            files.refresh(is_forced=True)
        for worker in self._workers:
            worker.signal(signal.SIGHUP)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers:
            worker.kill()

    def _take(self, changes: ServerChanges) -> None:
        self._discovery.reconfigure(open_servers(changes.opened), map(ServerName, changes.closed))

    def _close_peers(self) -> None:
        for one in chain.from_iterable(self._peers.values()):
            one.close()

    async def _start_workers(self) -> None:
        try:
            async with asyncio.TaskGroup() as starting:  # when one fails, the others are given up
                for worker in self._workers:
                    starting.create_task(worker.start())
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def _stop_workers(self) -> None:
        self._is_ending = True
        await asyncio.gather(*(worker.stop() for worker in self._workers))

    async def _watch_workers(self) -> None:
        """Kill workers that do nothing any more: they are started again, and others get what they did not begin."""
        clock = asyncio.get_running_loop().time
        while not self._is_ending:  # workers that drain show nothing
            looked_s = clock()
            await asyncio.sleep(BEAT_S)
            if clock() - looked_s > _SILENT_S / 2:  # this process stood still, and has not heard them yet
                continue
            for run in list(self._runs.values()):
                silent_s = clock() - run.heard_s
                if run.pid is not None and (silent_s > _HUNG_S or (silent_s > _SILENT_S and is_stopped(run.pid))):
                    log.error("worker %d (process %d) has done nothing for %.1f s", run.number, run.pid, silent_s)
                    run.signal(signal.SIGKILL)

    def _make_run(self, number: int, launch: WorkerLaunch) -> WorkerRun:
        return WorkerRun(
            number,
            launch,
            stop_s=self._settings.drain_s + _STOP_MARGIN_S,
            answers={
                "holder": self._answer_holder,
                **{method: partial(self._answer, method) for method in ("ModelStatistics", "RepositoryIndex")},
            },
            distributor=self._distributor,
            on_change=self._note,
            peers=list(self._peers.values())[number] if self._peers else (),
        )

    async def _answer(self, method: str, message: str) -> str:
        """Answer a call of a worker about the whole fleet; see ``WorkerTeam.query_fleet``."""
        return b64encode(await self._fleet_statistics.answer(method, b64decode(message))).decode()

    async def _answer_holder(self, body: Any) -> int | None:
        """Return the term that a worker has for a server, whose record is kept here; None when it has none."""
        server, gateway, ask, *more = body
        now_s = asyncio.get_running_loop().time()
        # No earlier supervisor's workers ask this one, so there is nothing to wait for.
        holding = self._holdings.get(server, Holding(now_s - LEASE_S))
        match ask:
            case "claim":
                granted = holding.claim(gateway, now_s=now_s)
            case "renew":
                granted = holding.renew(gateway, *more, now_s=now_s)
            case _:
                granted = holding.release(gateway, *more, now_s=now_s)
        if granted is None or granted.record is None:
            return None
        self._holdings[server] = granted
        return granted.record.term

    def _forget_holder(self, number: int) -> None:
        """Let others have at once what a worker drove that has ended."""
        held = {server for server, holding in self._holdings.items() if _is_of(holding, number)}
        self._holdings = {server: holding for server, holding in self._holdings.items() if server not in held}

    def _note(self, run: WorkerRun) -> None:
        if run.is_up:
            self._runs[run.number] = run
            if self._is_unready:
                run.say_unready()
        elif self._runs.pop(run.number, None) is not None:
            self._ended.add(run.metrics, measures.MEASURES, with_gauges=False)
            self._forget_holder(run.number)
        self._served = None  # the one that has come was told nothing yet
        self._tell_served()

    def _tell_served(self, _: ServerName | None = None) -> None:
        """Let the workers know which families all of them can answer, when those have changed."""
        served = [name for name in self._model_index.families if self.is_served(name)]
        if served == self._served:
            return
        self._served = served
        for up in self._runs.values():
            up.notify_served(served)

    def is_served(self, family: str) -> bool:
        """Return whether every worker that takes requests can answer a family."""
        return bool(self._runs) and all(family in run.served for run in self._runs.values())

    async def read_overview(self) -> FleetOverview | None:
        """Return what all workers' routers know of the fleet; None while none answers."""
        found = await asyncio.gather(*(run.read_overview() for run in tuple(self._runs.values())))
        return merge_overviews([overview for overview in found if overview is not None])

    @property
    def servers(self) -> tuple[ServerSettings, ...]:
        """The servers of the fleet now."""
        return self._fleet.servers

    def unready_reason(self) -> str | None:
        """Return why no requests are to be sent here; None when they are."""
        return unready_reason(self._model_index, self.is_served, is_ending=self._is_unready)

    async def read_metrics(self) -> MetricSnapshot:
        """Return what all workers have counted, those that have ended included."""
        total = MetricSnapshot()
        total.add(self._ended, measures.MEASURES)
        runs = tuple(self._runs.values())
        for metrics in await asyncio.gather(*(run.read_metrics() for run in runs)):
            total.add(metrics, measures.MEASURES)
        absent = total.named("server", measures.MEASURES) - {server.name for server in self.servers}
        gone = self._departed.expired(absent, asyncio.get_running_loop().time())
        for snapshot in (total, self._ended):
            snapshot.forget("server", gone, measures.MEASURES)
        total.add(measures.read_process(), measures.MEASURES)
        restarts = sum(worker.restarts for worker in self._workers)
        total.put(measures.WORKERS, len(runs))
        total.put(measures.WORKER_RESTARTS, restarts)
        own: dict[tuple[str, ...], list[float]] = {
            (task,): [float(count)] for task, count in self._background.failures.items()
        }
        total.add(MetricSnapshot({measures.TASK_FAILURES.name: own}), measures.MEASURES)
        return total


def _is_of(holding: Holding, number: int) -> bool:
    return holding.record is not None and holding.record.holder.endswith(f"-{number}")
