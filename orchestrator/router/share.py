"""What a router drives of a fleet that several gateways share: the port for who shares the fleet out."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from itertools import chain
from typing import Final, NamedTuple

from orchestrator.errors import ServerUnavailableError
from orchestrator.request_options import RequestOptions
from orchestrator.router.dispatch.sender import Sender
from orchestrator.router.queue.request_queue import RequestQueues
from orchestrator.router.servers.connection import ServerConnection
from orchestrator.router.servers.fleet import Fleet
from orchestrator.snapshot import Family, ServedModel, ServerName, Width

_MOST_COSTS: Final = 1024
ELSEWHERE: Final = "what it could run on is driven by another gateway now; retry there"


class _Wanted(NamedTuple):
    """Which models may answer: of a family, None for any, of some widths, None for all, and as accurate at least."""

    family: Family | None
    widths: tuple[Width, ...] | None
    min_accuracy: float

    def allows(self, model: ServedModel) -> bool:
        return (
            self.family in (None, model.family)
            and (self.widths is None or model.width in self.widths)
            and model.accuracy >= self.min_accuracy
        )


@dataclass(frozen=True, slots=True)
class FleetShare:
    """The servers that one router drives, and those that it could; at first it drives all.

    Work is told in items of a server's quickest width, which is what capacities count: what only slow widths may run
    counts as many as take as long.
    """

    _fleet: Fleet
    _queues: RequestQueues
    _sender: Sender
    _costs: dict[_Wanted, float] = field(default_factory=dict)

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
    def unfinished_items(self) -> float:
        """The items that wait in the router or run on the servers that it drives, each by its cost."""
        both = chain(self._queues.items_by_key(), self._sender.items_by_key())
        return sum(items * self._cost(_Wanted(key.family, key.widths, key.min_accuracy)) for key, items in both)

    def cost(self, options: RequestOptions) -> float:
        """Return how many items of the quickest width take as long as one of a request at the quickest it allows.

        It is the mean of the servers that have such a width, at least 1; 1 where nothing is known yet.
        """
        return self._cost(self._wanted(options))

    def _cost(self, wanted: _Wanted) -> float:
        known = self._costs.get(wanted)
        if known is None:
            if len(self._costs) >= _MOST_COSTS:  # callers may ask for any accuracy
                self._costs.clear()
            known = self._costs[wanted] = self._fleet.times.relative_cost(wanted.allows)
        return known

    def has_sent(self, name: ServerName) -> bool:
        """Return whether a server has a batch of this router's that it has not answered."""
        server = self._fleet.servers.get(name)
        return server is not None and bool(server.in_flight)

    def weigh(self) -> dict[ServerName, float]:
        """Return the items a second of each server, driven or not, in full batches; above 0.

        What requests cost is worked out anew from then on.
        """
        self._costs.clear()
        return self._fleet.times.capacities_rps()

    def suiting(self, options: RequestOptions) -> list[ServerName]:
        """Return the servers that answer and have a width that a request allows, whoever drives them."""
        wanted = self._wanted(options)
        return [name for name, server in self._fleet.servers.items() if _suits(server, wanted)]

    def drives_for(self, options: RequestOptions) -> bool:
        """Return whether this router drives one of them."""
        wanted = self._wanted(options)
        return any(server.is_driven and _suits(server, wanted) for server in self._fleet.servers.values())

    def _wanted(self, options: RequestOptions) -> _Wanted:
        family = options.family or self._fleet.settings.family
        widths = None if options.width is None else (options.width,)
        least = -math.inf if options.min_accuracy is None else options.min_accuracy  # qualities may lie below 0
        return _Wanted(None if family is None else Family(family), widths, least)


def _suits(server: ServerConnection, wanted: _Wanted) -> bool:
    if not server.health.is_healthy or server.health.is_suspect:
        return False
    models = server.models if wanted.family is None else server.models_of(wanted.family)
    return any(map(wanted.allows, models))
