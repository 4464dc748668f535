"""What a router holds at one moment, as values: for tests, and for whoever looks for what is stuck."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.router.queue.request_queue import Backlog
from orchestrator.snapshot import ServerName


@dataclass(frozen=True, slots=True)
class ServerInspection:
    """One server as the router sees it.

    Attributes:
        is_healthy: Whether it answered when it was last asked, and is not ejected.
        is_suspect: Whether it has an overdue batch, and has answered nothing since that was sent.
        awaited_batches: The number of batches sent to it whose answers are awaited.
        calls: The number of calls under way to it, those that nobody waits for any more included.
    """

    is_healthy: bool
    is_suspect: bool
    awaited_batches: int
    calls: int


@dataclass(frozen=True, slots=True)
class RouterInspection:
    """The queue, the batches and the servers of a router.

    Attributes:
        backlog: What waits in the queue.
        batches_under_way: The number of batches that were sent and have not ended, those given up included.
        batches_given_up: The number of batches under way that nobody waits for any more.
        servers: The servers by name.
    """

    backlog: Backlog
    batches_under_way: int
    batches_given_up: int
    servers: Mapping[ServerName, ServerInspection]

    @property
    def suspects(self) -> frozenset[ServerName]:
        """The servers that are suspect."""
        return frozenset(name for name, server in self.servers.items() if server.is_suspect)
