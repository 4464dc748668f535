"""All that ``slimsched up`` runs on one machine, and how it follows a fleet file that changes.

Parts start in stages, Tritons before their controllers before the gateway, and end the other way round. When another
fleet is taken, what is the same goes on: new servers are started before the gateway hears of them, and servers that go
are ended after it has let go of them, so no request is lost on the way. A server that has changed goes first and comes
again, because it may want the same port.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded.one_machine import complete_fleet
from orchestrator.embedded.stack_processes import Part
from orchestrator.errors import SlimError
from orchestrator.files import write_atomically

log = logging.getLogger(__name__)

LETS_GO_S = 3.0
"""For the gateway to take the fleet file, which it looks at once a second, and to answer what it has at a server."""


class Maker(Protocol):
    """Makes parts; they are not started."""

    def triton(self, server: ServerSettings) -> Part:
        """Return the Triton of a server of a complete fleet."""
        ...

    def controller(self, server: ServerSettings) -> Part:
        """Return its controller."""
        ...

    def gateway(self, fleet: FleetSettings) -> Part:
        """Return the gateway."""
        ...


class Machine:
    """Parts that run together.

    Args:
        fleet: complete.
        path: of the fleet file that controllers and gateway read.
        maker: of the parts.
    """

    def __init__(self, fleet: FleetSettings, path: Path, maker: Maker) -> None:
        self._fleet = fleet
        self._path = path
        self._maker = maker
        self._tritons = {server.name: maker.triton(server) for server in fleet.servers}
        self._controllers = {server.name: maker.controller(server) for server in fleet.servers}
        self._gateway = maker.gateway(fleet)
        self._write()

    @property
    def fleet(self) -> FleetSettings:
        """That is in force."""
        return self._fleet

    @property
    def parts(self) -> tuple[Part, ...]:
        """In the order in which they start."""
        return (*self._tritons.values(), *self._controllers.values(), self._gateway)

    async def start(self) -> None:
        """Return when all answer; raises SlimError when a part does not start."""
        for stage in (list(self._tritons.values()), list(self._controllers.values()), [self._gateway]):
            await _start(stage)

    async def stop(self) -> None:
        """End all, what was not started included."""
        for stage in ([self._gateway], self._controllers.values(), self._tritons.values()):
            await asyncio.gather(*(part.stop() for part in stage))

    def kill(self) -> None:
        """End all at once."""
        for part in self.parts:
            part.kill()

    def complete(self, fleet: FleetSettings, repository: Path) -> FleetSettings:
        """Return a fleet with all that its parts need, and with the addresses that servers have by now.

        Raises:
            ConfigError: a server can't run here, or a repository can't be used.
        """
        known = {server.name: server for server in self._fleet.servers}
        servers = tuple(_keep_addresses(server, known.get(server.name)) for server in fleet.servers)
        return complete_fleet(fleet.model_copy(update={"servers": servers}), repository)

    async def take(self, fleet: FleetSettings) -> None:
        """Go on with another complete fleet; a server that does not start is missing until the next one is taken."""
        wanted = {server.name: server for server in fleet.servers}
        known = {server.name: server for server in self._fleet.servers}
        await self._join([server for name, server in wanted.items() if name not in known])
        leaving = [name for name, server in known.items() if wanted.get(name) != server]
        staying = [name for name in known if name not in leaving]
        self._fleet = fleet.model_copy(update={"servers": tuple(s for s in self._fleet.servers if s.name in wanted)})
        await self._leave(leaving)
        await self._join([wanted[name] for name in leaving if name in wanted])
        self._write()
        for part in (self._gateway, *(self._controllers[name] for name in staying)):
            part.signal(signal.SIGHUP)

    async def _join(self, servers: Sequence[ServerSettings]) -> None:
        """Start servers with their controllers, all or none of them."""
        tritons = {server.name: self._maker.triton(server) for server in servers}
        controllers = {server.name: self._maker.controller(server) for server in servers}
        before = self._fleet
        try:
            await _start(list(tritons.values()))
            self._fleet = before.model_copy(update={"servers": (*before.servers, *servers)})
            self._write()  # controllers look themselves up there
            await _start(list(controllers.values()))
        except BaseException as exc:
            await asyncio.gather(*(part.stop() for part in (*controllers.values(), *tritons.values())))
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
            self._fleet = self._fleet.model_copy(update={"servers": kept})
            self._write()
            await asyncio.sleep(LETS_GO_S)
            log.info("ending %s", ", ".join(names))
            await asyncio.gather(*(self._controllers.pop(name).stop() for name in names))
            await asyncio.gather(*(self._tritons.pop(name).stop() for name in names))

    def _write(self) -> None:
        write_atomically(self._path, render_fleet(self._fleet))


def _keep_addresses(server: ServerSettings, known: ServerSettings | None) -> ServerSettings:
    if known is None:
        return server
    update = {name: getattr(server, name) or getattr(known, name) for name in ("metrics", "controller")}
    return server.model_copy(update=update)


async def _start(stage: Sequence[Part]) -> None:
    if not stage:
        return
    log.info("starting %s", ", ".join(part.name for part in stage))
    # All are waited for, also when one fails, so that none is half started when they are taken down.
    for result in await asyncio.gather(*(part.start() for part in stage), return_exceptions=True):
        if isinstance(result, BaseException):
            raise result
