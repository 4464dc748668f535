"""The servers of a router: who belongs to it, which of them it drives, and what they serve.

How long they take is ``service_times``; what is done when something is wrong with one is ``incidents``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable, Mapping

from orchestrator.background import BackgroundTasks
from orchestrator.config import RouterSettings
from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.router.observer import RouterObserver
from orchestrator.router.queue.request import BatchKey
from orchestrator.router.servers.connection import ServerClient, ServerConnection
from orchestrator.router.servers.incidents import Incidents
from orchestrator.router.servers.outages import describe_servers
from orchestrator.router.servers.probing import Prober
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.router.servers.service_times import ServiceTimes
from orchestrator.router.servers.watch import ServerWatch
from orchestrator.snapshot import Family, ModelName, ServedModel, ServerName, Width

log = logging.getLogger(__name__)

_LEAVING_LOOK_S = 0.1  # between two looks whether a server that leaves has finished


class Fleet:
    """All servers of one router; changed only on the event loop.

    Attributes:
        servers: The servers by name, ascending; one mapping for as long as the router runs.
        times: How long they take.
        incidents: What is done when something is wrong with one.
    """

    def __init__(
        self,
        settings: RouterSettings,
        clients: Mapping[ServerName, ServerClient],
        observer: RouterObserver,
        starts: ProfileStarts,
    ) -> None:
        self.settings = settings
        self.servers: dict[ServerName, ServerConnection] = {}
        self._observer = observer
        self._changed: Callable[[], None] = lambda: None
        self._driven: frozenset[ServerName] | None = None  # all
        self._background = BackgroundTasks(observer.on_background_failure)
        self._watches: dict[ServerName, asyncio.Task[None]] = {}
        self._leaving: dict[asyncio.Task[None], ServerConnection] = {}
        self._is_open = False
        self._prober = Prober(self.servers.values, observer, lambda: self._changed())
        self.times = ServiceTimes(self.servers, starts, lambda: self.incidents.eject_outliers())
        self.incidents = Incidents(
            settings, self.times, self._prober, self._background, observer, lambda: self._changed()
        )
        for name, client in sorted(clients.items()):
            self.servers[name] = self._connect(name, client)

    async def open(self, changed: Callable[[], None], *, requires_server: bool = True) -> None:
        """Ask all servers what they serve, then look after them until ``close``.

        ``changed`` is called whenever something may be sent that could not be sent before.

        Raises:
            ServerUnavailableError: when no server serves anything although one is required.
        """
        self._changed = changed
        await asyncio.gather(*(self._watch_of(server).refresh() for server in self.servers.values()))
        if not any(server.served for server in self.servers.values()):
            problem = f"no server serves a slimmable family ({describe_servers(self.servers)[0]}); "
            remedy = "check the addresses in fleet.yaml and the servers' repositories"
            if requires_server:
                raise ServerUnavailableError(problem + remedy, executed=False)
            log.warning("%sone that does is used as soon as it answers, else %s", problem, remedy)
        self._is_open = True
        self._background.start("probing", lambda: self._prober.run(lambda: self.settings.probes))
        for server in self.servers.values():
            self._watch(server)

    async def close(self, *, drain_s: float) -> None:
        """Look after the servers no longer, and release all connections.

        Calls that nobody else waits for are waited for, at most ``drain_s``.
        """
        for name in self.servers:
            self.incidents.forget(name)
        self._is_open = False
        servers = [*self.servers.values(), *self._leaving.values()]
        await self._background.stop()
        await asyncio.gather(*(server.client.close(drain_s=drain_s) for server in servers), return_exceptions=True)

    def _connect(self, name: ServerName, client: ServerClient) -> ServerConnection:
        return ServerConnection(name, client, self.settings, self.times.work_s, is_driven=self._drives(name))

    def _watch_of(self, server: ServerConnection) -> ServerWatch:
        return ServerWatch(server, self.times.begin, self.times.observe, self._prober.verify)

    def _watch(self, server: ServerConnection) -> None:
        watch, returned = self._watch_of(server), lambda: self._observer.on_readmission(server.name)
        self._watches[server.name] = self._background.start(
            "watching servers", lambda: watch.run(self._changed, returned)
        )

    # --- who belongs to it ---

    def reconfigure(
        self,
        settings: RouterSettings,
        starts: ProfileStarts,
        *,
        opened: Mapping[ServerName, ServerClient],
        closed: Iterable[ServerName],
    ) -> None:
        """Go on with other settings and servers; one that is in both has moved.

        A server that leaves gets nothing more at once, finishes what it has, and is then let go. A new one is taken
        to serve what the others did until it has been asked, so that requests wait for it and are not refused.
        """
        assumed = {model.name: model for server in self.servers.values() for model in server.served}
        self.settings = self.incidents.settings = settings
        self.times.starts = starts
        for name in closed:
            self._leave(name)
        for server in self.servers.values():
            server.settings = settings
        for name, client in opened.items():
            self.servers[name] = server = self._connect(name, client)
            server.served, server.is_assumed = tuple(assumed.values()), True
            log.info("server %s has joined", name)
            if self._is_open:
                server.check_soon.set()
                self._watch(server)
        ordered = sorted(self.servers.items())
        self.servers.clear()
        self.servers.update(ordered)
        self._changed()

    def _leave(self, name: ServerName) -> None:
        server = self.servers.pop(name)
        self.times.latency = self.times.latency.without(name)
        self.incidents.forget(name)
        watching = self._watches.pop(name, None)
        if watching is not None:
            watching.cancel()
        log.info("server %s leaves; %d batches are still to be answered", name, server.calls)
        task = self._background.start("seeing servers off", lambda: self._see_off(server, watching))
        self._leaving[task] = server
        task.add_done_callback(lambda done: self._leaving.pop(done, None))

    async def _see_off(self, server: ServerConnection, watching: asyncio.Task[None] | None) -> None:
        """Close a connection once nothing is under way on it: closing it earlier would cancel that on the server."""
        while server.calls > 0:
            await asyncio.sleep(_LEAVING_LOOK_S)
        if watching is not None:
            await asyncio.gather(watching, return_exceptions=True)
        await server.client.close()
        log.info("server %s has left", server.name)

    def answers(self, name: str) -> bool:
        """Return whether a server answered when it was last asked."""
        server = self.servers.get(ServerName(name))
        return server is not None and server.health.problem is None and not server.health.is_suspect

    # --- which of them this router drives ---

    def drive(self, names: Collection[ServerName] | None) -> None:
        """Send batches to these servers only, whether they are there yet or not; None: to all."""
        self._driven = None if names is None else frozenset(names)
        for server in self.servers.values():
            server.is_driven = self._drives(server.name)
        self._changed()

    def _drives(self, name: ServerName) -> bool:
        return self._driven is None or name in self._driven

    def driven(self) -> dict[ServerName, ServerConnection]:
        """Return the servers that this router sends batches to, by name, ascending."""
        return {name: server for name, server in self.servers.items() if server.is_driven}

    def is_elsewhere(self, key: BatchKey) -> bool:
        """Return whether servers answer what a key asks for, all of them driven by other routers."""
        if self._driven is None:
            return False
        suiting = [
            server
            for server in self.servers.values()
            if server.health.is_healthy and any(map(key.allows, server.models_of(key.family)))
        ]
        return bool(suiting) and not any(server.is_driven for server in suiting)

    def takes(self, key: BatchKey) -> bool:
        """Return whether a server that a key does not avoid may be sent what the key asks for."""
        servers = [server for name, server in self.servers.items() if name not in key.avoid and server.takes_batches]
        return any(map(key.allows, [model for server in servers for model in server.models_of(key.family)]))

    # --- what they serve ---

    def models(self, family: str | None) -> tuple[ServedModel, ...]:
        """Return one model for each width that some server serves, ascending.

        Raises:
            ConfigError: when the family is unknown, or not named although there are several.
        """
        known: dict[Family, dict[Width, ServedModel]] = {}
        for server in self.servers.values():
            for model in server.served:
                known.setdefault(model.family, {}).setdefault(model.width, model)
        wanted = family or self.settings.family
        if wanted is None:
            if len(known) != 1:
                raise ConfigError(f"name the family; the fleet serves {', '.join(sorted(known)) or 'none'}")
            wanted = next(iter(known))
        widths = known.get(Family(wanted))
        if widths is None:
            raise ConfigError(f"unknown family {wanted!r}; the fleet serves {', '.join(sorted(known)) or 'none'}")
        return tuple(widths[w] for w in sorted(widths))

    # --- who is left out ---

    def has_lost(self, key: BatchKey) -> bool:
        """Return whether requests bound to a server have to be given to another, because it has gone or hangs."""
        assert key.bound_to is not None  # or there is nothing to ask
        name, width = key.bound_to
        server = self.servers.get(name)
        if server is None or not server.takes_batches or (model := server.model(key.family, width)) is None:
            return True
        health = server.health
        if health.is_suspect and self.times.elsewhere_s(key.elsewhere(name), 1) is not None:
            return True
        return model.name in health.suspects and self.times.elsewhere_s(key, 1) is not None

    @property
    def suspects(self) -> frozenset[ServerName]:
        """Servers that have an overdue batch and have answered nothing since it was sent."""
        return frozenset(name for name, server in self.servers.items() if server.health.is_suspect)

    @property
    def suspect_models(self) -> frozenset[tuple[ServerName, ModelName]]:
        """Models that have an overdue batch and have answered nothing since, on servers that have."""
        servers = [server for server in self.servers.values() if not server.health.is_suspect]
        return frozenset([(server.name, model) for server in servers for model in server.health.suspects])
