"""The servers that a fleet file stands for, and what differs between two such fleets; pure.

Kubernetes' headless services and Docker's service names give one host name to many Tritons. gRPC would pick one of
them and hide the others, so names are resolved here, each address is a server, and servers keep their names as
addresses come and go: the first is called as in the file, the next ``name-2``, ``name-3``, …, and a name that has
become free is given to the next address that appears.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from orchestrator.config.fleet import ServerSettings

Assigned = Mapping[tuple[str, str], str]
"""Names of servers, by (name in the file, address of the host)."""


def host_of(address: str) -> str:
    """Return the host of ``host:port``, without brackets."""
    return address.rpartition(":")[0].strip("[]")


def address_above(address: str, number: int) -> str:
    """Return ``host:port`` with a port so much higher: where a worker of this number listens for peers."""
    host, _, port = address.rpartition(":")
    return f"{host}:{int(port) + number}"


def is_name(host: str) -> bool:
    """Return whether a host has to be resolved."""
    try:
        ip_address(host)
    except ValueError:
        return True
    return False


def expand_servers(
    servers: Sequence[ServerSettings], resolved: Mapping[str, Iterable[str]], assigned: Assigned
) -> tuple[tuple[ServerSettings, ...], Assigned]:
    """Return one server for each address, and the names to go on with, which are empty at first.

    Args:
        servers: The servers as in the file.
        resolved: The addresses of each host name; a name without any is left as it is.
        assigned: The names as this function returned them before.
    """
    expanded: list[ServerSettings] = []
    names: dict[tuple[str, str], str] = {}
    taken = {server.name for server in servers}
    for server in servers:
        host = host_of(server.grpc)
        hosts = sorted(set(resolved.get(host, ()))) if is_name(host) else []
        if not hosts:
            expanded.append(server)
            continue
        # A name follows its address, because the router's observations are kept by name.
        kept = {ip: assigned[server.name, ip] for ip in hosts if (server.name, ip) in assigned}
        free = (
            name
            for name in itertools.chain([server.name], (f"{server.name}-{n}" for n in itertools.count(2)))
            if name not in kept.values() and (name == server.name or name not in taken)
        )
        for ip in hosts:
            name = names[server.name, ip] = kept.get(ip) or next(free)
            taken.add(name)
            expanded.append(_at(server, name, host, ip))
    return tuple(expanded), names


def _at(server: ServerSettings, name: str, host: str, ip: str) -> ServerSettings:
    """Return the server at one of its addresses; what else is on that host is found there too."""
    literal = f"[{ip}]" if ":" in ip else ip
    moved = {"name": name, "grpc": f"{literal}:{server.grpc.rpartition(':')[2]}"}
    if server.controller is not None and host_of(server.controller) == host:
        moved["controller"] = f"{literal}:{server.controller.rpartition(':')[2]}"
    if server.metrics is not None:
        moved["metrics"] = server.metrics.replace(f"//{host}:", f"//{literal}:", 1)
    return server.model_copy(update=moved)


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
