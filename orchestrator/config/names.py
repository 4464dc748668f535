"""The servers that a fleet file stands for, and what differs between two such fleets; pure.

Kubernetes' headless services and Docker's service names give one host name to many Tritons. gRPC would pick one of
them and hide the others, so names are resolved here, and each address is a server. What it is called must be the same
in every gateway, whenever that began and in whatever order it met the addresses. So a name is made of the address: a
pod of a headless service is called as the pod, by what the address is called in the DNS, like the controller in it. One
that has no name there, as a DaemonSet's, is called by the identifier that its Triton was started with, such as
``name-node`` by ``--id=name-node``; any other address ``name-10.0.0.7``. One that was met alone is called as in the
file, for as long as it stays.
"""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from orchestrator.config.fleet import ServerSettings

Assigned = Mapping[tuple[str, str], str]
"""Names of servers, by (name in the file, address of the host)."""
NO_NAMES: Mapping[str, str] = {}
NO_IDS: Assigned = {}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


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


def name_at(name: str, ip: str) -> str:
    """Return what a server at an address is called; IPv6 with hyphens, as names have no colons."""
    return f"{name}-{ip}".replace(":", "-")


def pod_of(host: str, ip: str, own_name: str) -> str | None:
    """Return the name of the pod at an address, which the DNS calls by a name of its own; None where it is none.

    The pods of a headless service are called ``pod.service.…`` there. One without a host name, such as a DaemonSet's,
    has its address in place of ``pod``, with hyphens.
    """
    pod, _, service = own_name.lower().rstrip(".").partition(".")
    is_in_service = f"{service}.".startswith(f"{host.lower().rstrip('.')}.")
    is_name = pod.isascii() and pod.replace("-", "").isalnum() and not pod.startswith("-")
    has_host_name = pod != ip.replace(".", "-").replace(":", "-")
    return pod if is_in_service and is_name and has_host_name else None


def node_of(name: str, identifier: str) -> str | None:
    """Return the name that a Triton's identifier gives a server, called ``name`` in the file; None where it gives none.

    It has to begin with ``name-``: that tells what it is in the file, and none is called ``triton`` by default.
    """
    is_name = identifier.startswith(f"{name}-") and _NAME.fullmatch(identifier) is not None
    return identifier if is_name else None


def name_in_file(name: str, servers: Sequence[ServerSettings]) -> str | None:
    """Return what a server that is called so is called in the file; None where that can't be told.

    One that is called by its address has the file's name before that. A pod of a StatefulSet is taken to be behind the
    headless service that is called as the set, as is usual. Then one that is called by an identifier has the file's
    name before that, too, where it can be only one. Any other pod's name says nothing of the file, so there it is the
    only server behind a host name, if there is only one.
    """
    if any(server.name == name for server in servers):
        return name
    behind = {server.name: host_of(server.grpc) for server in servers if is_name(host_of(server.grpc))}
    before = [each for each in behind if name.startswith(f"{each}-")]
    by_address = [each for each in before if _is_address(name.removeprefix(f"{each}-"))]
    if by_address:
        return max(by_address, key=len)
    stateful_set = re.sub(r"-[0-9]+$", "", name)
    of_set = [each for each, host in behind.items() if host.partition(".")[0].lower() == stateful_set != name]
    found = next((each for each in (of_set, before, list(behind)) if len(each) == 1), [])
    return found[0] if found else None


def profile_entry(name: str, in_file: str | None, device_class: str | None, known: Container[str]) -> str | None:
    """Return which of a profile's entries is a server's: of its own name, else its name in the file, else its class.

    Args:
        name: What the server is called.
        in_file: What it is called in the fleet file; None where that can't be told.
        device_class: Its device class there; None where it has none.
        known: The names of the profile's entries.
    """
    return next((each for each in (name, in_file, device_class) if each is not None and each in known), None)


def _is_address(ending: str) -> bool:
    """Return whether a server's name can end so; see ``name_at`` and ``expand_servers``."""
    ipv4 = re.sub(r"(-2)+$", "", ending)
    return not (is_name(ipv4) and is_name(ending.replace("-", ":")))


def expand_servers(
    servers: Sequence[ServerSettings],
    resolved: Mapping[str, Iterable[str]],
    assigned: Assigned,
    own_names: Mapping[str, str] = NO_NAMES,
    identifiers: Assigned = NO_IDS,
) -> tuple[tuple[ServerSettings, ...], Assigned]:
    """Return one server for each address, and the names to go on with, which are empty at first.

    Args:
        servers: The servers as in the file.
        resolved: The addresses of each host name; a name without any is left as it is.
        assigned: The names as this function returned them before.
        own_names: What the DNS calls addresses, where it says so.
        identifiers: What Tritons call themselves, where they have said so, by (name in the file, address of the host).
    """
    hosts = {server.name: _addresses(server, resolved) for server in servers}
    names = _pods(servers, hosts, assigned, own_names, identifiers)
    taken = {*hosts, *names.values()}
    for server in servers:
        for ip in hosts[server.name]:
            if (server.name, ip) not in names:
                # A name follows its address, because the router's observations are kept by name.
                kept = assigned.get((server.name, ip))
                is_as_in_file = kept == server.name or (kept is None and len(hosts[server.name]) == 1)
                name = server.name if is_as_in_file else name_at(server.name, ip)
                while not is_as_in_file and name in taken:
                    name += "-2"
                names[server.name, ip] = name
                taken.add(name)
    expanded = [
        at_address(server, names[server.name, ip], ip) if ip else server
        for server in servers
        for ip in hosts[server.name] or [""]
    ]
    return tuple(expanded), names


def _pods(
    servers: Sequence[ServerSettings],
    hosts: Mapping[str, Sequence[str]],
    assigned: Assigned,
    own_names: Mapping[str, str],
    identifiers: Assigned,
) -> dict[tuple[str, str], str]:
    """Return the names of those that are called as their pods, or by their identifiers."""
    names: dict[tuple[str, str], str] = {}
    found = {}
    for server in servers:
        for ip in hosts[server.name]:
            pod = pod_of(host_of(server.grpc), ip, own_names.get(ip, ""))
            name = pod or node_of(server.name, identifiers.get((server.name, ip), ""))
            if name is not None and name not in hosts:
                found[server.name, ip] = name
    # A pod that has come is what its name stands for; one of the same name that is still there is about to go.
    for key in sorted(found, key=lambda key: 0 if key not in assigned else 1 if assigned[key] == found[key] else 2):
        if found[key] not in names.values():
            names[key] = found[key]
    return names


def _addresses(server: ServerSettings, resolved: Mapping[str, Iterable[str]]) -> list[str]:
    host = host_of(server.grpc)
    return sorted(set(resolved.get(host, ()))) if is_name(host) else []


def at_address(server: ServerSettings, name: str, ip: str) -> ServerSettings:
    """Return the server, called ``name``, at one of its addresses; what else is on that host is found there too."""
    host = host_of(server.grpc)
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
