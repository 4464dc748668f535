"""What differs between two fleets, for whoever holds connections to their servers; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from orchestrator.config.fleet import ServerSettings


@dataclass(frozen=True, slots=True)
class ServerChanges:
    """How to get from the servers of one fleet to those of another.

    Attributes:
        opened: The servers to connect to: new ones, and those whose address or key changed. In the order of the new
            fleet.
        closed: The names of servers to leave: removed ones, and those whose address or key changed. Ascending.
    """

    opened: tuple[ServerSettings, ...]
    closed: tuple[str, ...]


def find_changes(old: Iterable[ServerSettings], new: Iterable[ServerSettings]) -> ServerChanges:
    """Return what to open and to close; a server of the same name, address and key stays as it is."""
    before = {server.name: _connection(server) for server in old}
    after = {server.name: server for server in new}
    kept = {name for name, server in after.items() if before.get(name) == _connection(server)}
    return ServerChanges(
        opened=tuple(server for name, server in after.items() if name not in kept),
        closed=tuple(sorted(before.keys() - kept)),
    )


def _connection(server: ServerSettings) -> tuple[object, ...]:
    return server.grpc, server.protocol_key_file
