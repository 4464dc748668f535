"""What a router drives of a fleet that several gateways share: the port for who shares the fleet out."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from orchestrator.errors import ServerUnavailableError
from orchestrator.request_options import RequestOptions
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.fleet import Fleet
from orchestrator.snapshot import Family, ServerName

ELSEWHERE: Final = "what it could run on is driven by another gateway now; retry there"


@dataclass(frozen=True, slots=True)
class FleetShare:
    """The servers that one router drives, and those that it could; at first it drives all."""

    _fleet: Fleet
    _queues: RequestQueues

    def drive(self, servers: Collection[ServerName] | None) -> None:
        """Send batches to these servers only from now on, whether they are there yet or not; None: to all.

        What was sent to others is awaited, and what was bound to them is bound anew. What waits and only they can run
        fails as not executed, so that whoever asked can ask elsewhere. All are asked what they serve.
        """
        self._fleet.drive(servers)
        for key in filter(self._fleet.is_elsewhere, self._queues.keys()):
            for request in self._queues.take_all(key):
                request.give_up(ServerUnavailableError(ELSEWHERE, executed=False))

    @property
    def unfinished_items(self) -> int:
        """The items that wait in the router, or run on the servers that it drives."""
        driven = self._fleet.driven().values()
        return self._queues.backlog.items + sum(batch.items for server in driven for batch in server.in_flight)

    def has_sent(self, name: ServerName) -> bool:
        """Return whether a server has a batch of this router's that it has not answered."""
        server = self._fleet.servers.get(name)
        return server is not None and bool(server.in_flight)

    def capacities_rps(self) -> dict[ServerName, float]:
        """Return the items a second of each server, driven or not, in full batches; above 0."""
        return self._fleet.times.capacities_rps()

    def suiting(self, options: RequestOptions) -> list[ServerName]:
        """Return the servers that answer and have a width that a request allows, whoever drives them."""
        return [name for name, server in self._fleet.servers.items() if self._suits(server, options)]

    def drives_for(self, options: RequestOptions) -> bool:
        """Return whether this router drives one of them."""
        return any(server.is_driven and self._suits(server, options) for server in self._fleet.servers.values())

    def _suits(self, server: ServerConnection, options: RequestOptions) -> bool:
        if not server.health.is_healthy or server.health.is_suspect:
            return False
        family, width, least = options.family or self._fleet.settings.family, options.width, options.min_accuracy
        models = server.models if family is None else server.models_of(Family(family))
        return any(width in (None, m.width) and (least is None or m.accuracy >= least) for m in models)
