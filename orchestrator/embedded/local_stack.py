"""All that ``slimsched up`` runs on one machine, and how it follows a fleet file that changes.

Processes start in stages, Tritons before their controllers before the gateway, and end the other way round. When
another fleet is taken, what is the same goes on: new servers are started before the gateway hears of them, and servers
that go are ended after it has let go of them, so no request is lost on the way. A server that has changed goes first
and comes again, because it may want the same port, one after another, and one that takes a port of one that goes waits
for that. What a running controller takes of its server's entry, and what is the gateway's alone, changes no server.
The gateway's section stays as it was first, because a gateway that is started again gets the sockets that were made
for that.

A fleet is complete when it has all that embedded servers on this machine need, addresses and repositories among it.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, check_repository, choose_free_ports
from orchestrator.errors import ConfigError, SlimError
from orchestrator.files import write_atomically
from orchestrator.processes.managed import ManagedProcess

log = logging.getLogger(__name__)

RELEASE_S = 3.0
"""For the gateway to take the fleet file, which it looks at once a second, and to answer what it has at a server."""
_HERE = frozenset({LOOPBACK, "localhost"})  # embedded servers listen on loopback only


def default_fleet(slowdowns: tuple[float, ...], repository: Path) -> FleetSettings:
    """Return a fleet of servers on free ports, one a slow-down (>= 1), with the gateway at its default addresses."""
    ports = iter(choose_free_ports(len(slowdowns)))
    servers = (
        ServerSettings(
            name=f"local-{number}",
            grpc=f"{LOOPBACK}:{next(ports)}",
            emulated_slowdown=slowdown if slowdown > 1.0 else None,
        )
        for number, slowdown in enumerate(slowdowns)
    )
    return complete_fleet(FleetSettings(servers=tuple(servers)), repository)


def complete_fleet(fleet: FleetSettings, repository: Path) -> FleetSettings:
    """Return the fleet with all that embedded servers and their controllers need; servers without a repository get it.

    Raises:
        ConfigError: A server can't run here, or a repository can't be used.
    """
    for server in fleet.servers:
        _check_is_here(server)
        check_repository(server.repository or repository, None)
    named = frozenset().union(*map(_ports, fleet.servers))
    ports = iter(choose_free_ports(2 * len(fleet.servers), besides=named))
    servers = []
    for server in fleet.servers:
        update = {
            "repository": (server.repository or repository).absolute(),
            "metrics": server.metrics or f"http://{LOOPBACK}:{next(ports)}/metrics",
            "controller": server.controller or f"{LOOPBACK}:{next(ports)}",
        }
        servers.append(server.model_copy(update=update))
    return fleet.model_copy(update={"servers": tuple(servers)})


def _ports(server: ServerSettings) -> set[int]:
    urls = (f"//{server.grpc}", f"//{server.controller or ''}", server.metrics or "")
    return {port for url in urls if (port := urlsplit(url).port)}


def options_of(server: ServerSettings, *, log_path: Path) -> EmbeddedOptions:
    """Return how an embedded server becomes the one of a complete fleet."""
    return EmbeddedOptions(
        grpc_port=int(server.grpc.rpartition(":")[2]),
        metrics_port=None if server.metrics is None else urlsplit(server.metrics).port,
        slowdown=server.emulated_slowdown or 1.0,
        log_path=log_path,
    )


class StackProcesses(Protocol):
    """Makes the processes of a local stack; they are not started."""

    def triton(self, server: ServerSettings) -> ManagedProcess:
        """Return the Triton of a server of a complete fleet."""

    def controller(self, server: ServerSettings) -> ManagedProcess:
        """Return the controller of a server."""

    def gateway(self, fleet: FleetSettings) -> ManagedProcess:
        """Return the gateway of a fleet."""


class LocalStack:
    """The Tritons of a complete fleet, their controllers and a gateway, kept running together.

    Controllers and gateway read the fleet file at ``path``, which is written here.
    """

    def __init__(self, fleet: FleetSettings, path: Path, make: StackProcesses) -> None:
        self._fleet = fleet
        self._path = path
        self._make = make
        self._tritons = {server.name: make.triton(server) for server in fleet.servers}
        self._controllers = {server.name: make.controller(server) for server in fleet.servers}
        self._gateway = make.gateway(fleet)
        self._write()

    @property
    def fleet(self) -> FleetSettings:
        """The fleet that is in force."""
        return self._fleet

    @property
    def processes(self) -> tuple[ManagedProcess, ...]:
        """All processes, in the order in which they start."""
        return (*self._tritons.values(), *self._controllers.values(), self._gateway)

    async def start(self) -> None:
        """Return when all answer; raises SlimError when one does not start."""
        for stage in (list(self._tritons.values()), list(self._controllers.values()), [self._gateway]):
            await _start(stage)

    async def stop(self) -> None:
        """End all, started or not."""
        for stage in ([self._gateway], self._controllers.values(), self._tritons.values()):
            await asyncio.gather(*(process.stop() for process in stage))

    def kill(self) -> None:
        """End all at once."""
        for process in self.processes:
            process.kill()

    def complete(self, fleet: FleetSettings, repository: Path) -> FleetSettings:
        """Return a fleet, complete and with the addresses that servers have by now; raises as complete_fleet."""
        known = {server.name: server for server in self._fleet.servers}
        servers = tuple(_keep_addresses(server, known.get(server.name)) for server in fleet.servers)
        return complete_fleet(fleet.model_copy(update={"servers": servers}), repository)

    async def take(self, fleet: FleetSettings) -> None:
        """Go on with another complete fleet; a server that does not start is missing until the next one is taken."""
        if fleet.gateway != self._fleet.gateway:
            log.warning("the gateway section has changed; end this and start it again for it to take effect")
            fleet = fleet.model_copy(update={"gateway": self._fleet.gateway})
        wanted = {server.name: server for server in fleet.servers}
        known = {server.name: server for server in self._fleet.servers}
        leaving = [name for name, server in known.items() if name not in wanted or _restarts(server, wanted[name])]
        freed = frozenset[int]().union(*(_ports(known[name]) for name in leaving))
        coming = [server for name, server in wanted.items() if name not in known]
        await self._join([server for server in coming if not _ports(server) & freed])
        staying = [name for name in known if name not in leaving]
        kept = (wanted[s.name] if s.name in staying else s for s in self._fleet.servers)
        self._fleet = fleet.model_copy(update={"servers": tuple(kept)})
        await self._leave([name for name in leaving if name not in wanted])
        for names in _in_turn([name for name in leaving if name in wanted], known, wanted):
            await self._leave(names)
            await self._join([wanted[name] for name in names])
        await self._join([server for server in coming if _ports(server) & freed])
        self._write()
        for process in (self._gateway, *(self._controllers[name] for name in staying)):
            process.signal(signal.SIGHUP)

    async def _join(self, servers: Sequence[ServerSettings]) -> None:
        """Start servers with their controllers, all or none of them."""
        tritons = {server.name: self._make.triton(server) for server in servers}
        controllers = {server.name: self._make.controller(server) for server in servers}
        before = self._fleet
        try:
            await _start(list(tritons.values()))
            self._fleet = before.model_copy(update={"servers": (*before.servers, *servers)})
            self._write()  # controllers look themselves up there
            await _start(list(controllers.values()))
        except BaseException as exc:
            await asyncio.gather(*(process.stop() for process in (*controllers.values(), *tritons.values())))
            self._fleet = before
            self._write()
            if not isinstance(exc, SlimError):
                raise
            log.error("%s missing from now on: %s", " and ".join(tritons), exc)
            return
        self._tritons |= tritons
        self._controllers |= controllers

    async def _leave(self, names: Sequence[str]) -> None:
        if names:
            kept = tuple(server for server in self._fleet.servers if server.name not in names)
            before, self._fleet = self._fleet, self._fleet.model_copy(update={"servers": kept})
            try:
                self._write()
            except OSError:  # they go when that is tried again
                self._fleet = before
                raise
            if kept:
                await asyncio.sleep(RELEASE_S)
            log.info("ending %s", ", ".join(names))
            await asyncio.gather(*(self._controllers.pop(name).stop() for name in names))
            await asyncio.gather(*(self._tritons.pop(name).stop() for name in names))

    def _write(self) -> None:
        if self._fleet.servers:  # nobody takes a fleet without one
            write_atomically(self._path, render_fleet(self._fleet))


def _restarts(server: ServerSettings, changed: ServerSettings) -> bool:
    """Return whether its processes have to start again for what has changed of a server's entry."""
    rest = {"limits": server.limits, "device_class": server.device_class}
    return changed.model_copy(update=rest) != server


def _in_turn(
    names: list[str], known: Mapping[str, ServerSettings], wanted: Mapping[str, ServerSettings]
) -> list[list[str]]:
    """Return which changed servers go and come together: each alone, unless one takes a port that another has."""
    takes = any(_ports(wanted[name]) & _ports(known[other]) for name in names for other in names if name != other)
    return [names] if takes else [[name] for name in names]


def _keep_addresses(server: ServerSettings, known: ServerSettings | None) -> ServerSettings:
    if known is None:
        return server
    update = {name: getattr(server, name) or getattr(known, name) for name in ("metrics", "controller")}
    return server.model_copy(update=update)


async def _start(stage: Sequence[ManagedProcess]) -> None:
    if not stage:
        return
    log.info("starting %s", ", ".join(process.name for process in stage))
    # All are waited for, also when one fails, so that none is half started when they are taken down.
    for result in await asyncio.gather(*(process.start() for process in stage), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _check_is_here(server: ServerSettings) -> None:
    if server.device != "cpu":
        raise ConfigError(
            f"servers[{server.name}].device is {server.device}, but embedded servers run on CPU; start NVIDIA's image "
            "for it (deploy/compose.yaml) and then 'slimsched gateway'"
        )
    hosts = [("grpc", server.grpc.rpartition(":")[0])]
    if server.metrics is not None:
        hosts.append(("metrics", urlsplit(server.metrics).hostname or ""))
    for key, host in hosts:
        if host not in _HERE:
            raise ConfigError(
                f"servers[{server.name}].{key} is on {host}, but embedded servers listen on {LOOPBACK} only; give "
                "that, or run 'slimsched gateway' for servers elsewhere"
            )
    if server.protocol_key_file is not None:
        raise ConfigError(f"servers[{server.name}].protocol_key_file: embedded servers here have none; leave it out")
