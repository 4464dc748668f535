"""Which servers a router has: those of its fleet file, with names resolved now and again.

A name that can't be resolved keeps the addresses that it had; one that never could be is left to the connection, whose
error says why. Nor does one that now stands for nothing that answers lose an address that does: a record may be wrong,
or ahead of the server it names. A fleet with names that nobody has resolved yet is taken once they are, so that no
server leaves before those that take its place are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence, Set

from orchestrator.config import FleetSettings, RouterSettings, ServerSettings, find_changes
from orchestrator.config.names import Assigned, at_address, expand_servers, host_of, is_name, pod_of
from orchestrator.errors import ConfigError, SlimError
from orchestrator.router.servers.connection import ServerClient
from orchestrator.router.servers.fleet import Fleet
from orchestrator.router.servers.profile_priors import ProfileStarts
from orchestrator.snapshot import ServerName
from orchestrator.triton.client import TritonClient
from orchestrator.triton.protocol_key import read_protocol_key

log = logging.getLogger(__name__)

_UNKNOWN_PAUSE_S = 1.0  # so that the first server behind a name is used two seconds after it has come
_MOST_SHORT_PAUSES = 60  # for one that does not say what it is called: it may have gone for good

Connect = Callable[[ServerSettings, RouterSettings], ServerClient]
_OWN_NAMES_S = 1.0

Resolve = Callable[[str], Awaitable[tuple[str, ...]]]
NameOf = Callable[[str], Awaitable[str]]
Identify = Callable[[ServerSettings], Awaitable[str]]
Listener = Callable[[tuple[ServerSettings, ...]], None]


async def resolve_host(host: str) -> tuple[str, ...]:
    """Return the addresses of a host name, ascending; none when it can't be resolved now.

    Those of IPv4 only, where there are any: the two families of one host would look like two servers.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as exc:
        log.debug("resolving %s: %s", host, exc)
        return ()
    by_family = {family: {str(entry[4][0]) for entry in found if entry[0] is family} for family, *_ in found}
    return tuple(sorted(by_family.get(socket.AF_INET) or by_family.get(socket.AF_INET6) or ()))


async def name_of_address(address: str) -> str:
    """Return what the DNS calls an address; empty when it has no name, or none is told now."""
    try:
        name, _ = await asyncio.get_running_loop().getnameinfo((address, 0), socket.NI_NAMEREQD)
    except OSError as exc:
        log.debug("the name of %s: %s", address, exc)
        return ""
    return name


async def identify_triton(server: ServerSettings) -> str:
    """Return what a Triton calls itself, its ``--id``; raises SlimError while it does not answer."""
    key = read_protocol_key(server.protocol_key_file)
    triton = TritonClient(server.grpc, timeout_s=_OWN_NAMES_S, protocol_key=key)
    try:
        return await triton.identifier()
    finally:
        await triton.close(drain_s=0.0)  # one that is silent would else be waited for


def addresses_to_use(found: Sequence[str], before: Sequence[str], answers: Callable[[str], bool]) -> tuple[str, ...]:
    """Return the addresses to use of a host name that was just looked up, ascending.

    They are those found, and those used before that still answer, until one of the found ones has answered.
    """
    if not found:
        return tuple(before)
    kept = () if any(map(answers, found)) else filter(answers, before)
    return tuple(sorted({*found, *kept}))


class ResolvedNames:
    """What the host names of servers stand for, as last looked up.

    Args:
        resolve: Returns the addresses of a host name.
        name_of: Returns what the DNS calls an address, empty where it says nothing. It is asked until it has said
            something, for a second at each look-up: names of addresses may be in no DNS, and that may take long.
        identify: Returns what a Triton calls itself; raises SlimError. It is asked where the DNS has no name for it,
            until it has answered, and again where it has not answered since: it may be another one.
    """

    def __init__(
        self,
        resolve: Resolve = resolve_host,
        name_of: NameOf = name_of_address,
        identify: Identify = identify_triton,
    ) -> None:
        self._resolve = resolve
        self._name_of = name_of
        self._identify = identify
        self._resolved: dict[str, tuple[str, ...]] = {}
        self._own_names: dict[str, str] = {}
        self._identifiers: dict[tuple[str, str], str] = {}
        self._gone: set[tuple[str, str]] = set()  # since they said it
        self._silent: frozenset[tuple[str, str]] = frozenset()
        self._asked_in_vain = 0
        self._assigned: Assigned = {}

    @property
    def in_file(self) -> Mapping[str, str]:
        """The names in the file by those of the servers that stand behind its host names."""
        return {name: in_file for (in_file, _), name in self._assigned.items()}

    async def look_up(self, servers: Sequence[ServerSettings], answers: Callable[[str], bool]) -> None:
        """Resolve the names of servers, of which ``answers`` returns whether one as expanded answers now."""
        hosts = _names(servers)
        found = await asyncio.gather(*map(self._resolve, hosts))
        for host, addresses in zip(hosts, found, strict=True):
            own = {server.name for server in servers if host_of(server.grpc) == host}
            answering = {ip for (name, ip), expanded in self._assigned.items() if name in own and answers(expanded)}
            self._resolved[host] = addresses_to_use(addresses, self._resolved.get(host, ()), answering.__contains__)
        used = {address for host in hosts for address in self._resolved[host]}
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_OWN_NAMES_S):
                await asyncio.gather(self._ask_dns(used), self._ask_tritons(servers, answers))
        silent = frozenset((server.name, ip) for server, ip in self._unnamed(servers))
        self._asked_in_vain = self._asked_in_vain + 1 if silent == self._silent else 0
        self._silent = silent

    async def _ask_dns(self, used: Set[str]) -> None:
        own_names = self._own_names = {ip: name for ip, name in self._own_names.items() if ip in used}
        unknown = [*sorted(used - own_names.keys()), *(ip for ip, name in own_names.items() if not name)]
        for ip in unknown:
            own_names.pop(ip, None)
            own_names[ip] = ""  # after the others the next time, if it takes all of it
            own_names[ip] = await self._name_of(ip)

    async def _ask_tritons(self, servers: Sequence[ServerSettings], answers: Callable[[str], bool]) -> None:
        at = {(s.name, ip) for s in servers for ip in self._resolved.get(host_of(s.grpc), ())}
        known = self._identifiers = {key: name for key, name in self._identifiers.items() if key in at}

        async def ask(server: ServerSettings, ip: str) -> None:
            with contextlib.suppress(SlimError):
                known[server.name, ip] = await self._identify(at_address(server, server.name, ip))
                self._gone.discard((server.name, ip))

        self._gone = at & {*self._gone, *(key for key, name in self._assigned.items() if not answers(name))}
        await asyncio.gather(*(ask(server, ip) for server, ip in self._unnamed(servers)))

    def _unnamed(self, servers: Iterable[ServerSettings]) -> list[tuple[ServerSettings, str]]:
        """Return what is no pod by the DNS and has not said what it is called, or is gone, with its address."""
        return [
            (server, ip)
            for server in servers
            for ip in self._resolved.get(host_of(server.grpc), ())
            if ((server.name, ip) not in self._identifiers or (server.name, ip) in self._gone)
            and pod_of(host_of(server.grpc), ip, self._own_names.get(ip, "")) is None
        ]

    def knows(self, servers: Iterable[ServerSettings]) -> bool:
        """Return whether all names of servers were looked up."""
        return all(host in self._resolved for host in _names(servers))

    def pause_s(self, servers: Iterable[ServerSettings], period_s: float) -> float:
        """Return how long to wait before names are looked up again.

        It is less while one stands for nothing yet, or for a Triton that has not said what it is called.
        """
        is_known = all(map(self._resolved.get, _names(servers)))
        if is_known and (not self._silent or self._asked_in_vain >= _MOST_SHORT_PAUSES):
            return period_s
        return min(period_s, _UNKNOWN_PAUSE_S)

    def expand(self, servers: Sequence[ServerSettings]) -> tuple[ServerSettings, ...]:
        """Return one server for each address; see expand_servers."""
        expanded, self._assigned = expand_servers(
            servers, self._resolved, self._assigned, self._own_names, self._identifiers
        )
        return expanded


class Membership:
    """The servers of one router.

    Attributes:
        starts: What is known of models from the fleet's profile.
        servers: The servers as they are now, one for each address.
    """

    def __init__(self, settings: FleetSettings, connect: Connect, names: ResolvedNames) -> None:
        self._settings = settings
        self.starts = ProfileStarts.from_fleet(settings)
        self._connect = connect
        self._names = names
        self._listeners: list[Listener] = []
        self._has_changed = asyncio.Event()
        self.servers = tuple(server for server in settings.servers if not is_name(host_of(server.grpc)))

    def clients(self) -> Mapping[ServerName, ServerClient]:
        """Return a connection to each server whose address is known from the beginning."""
        return {ServerName(server.name): self._connect(server, self._settings.router) for server in self.servers}

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with the servers whenever they have changed."""
        self._listeners.append(listener)

    def reconfigure(self, settings: FleetSettings, fleet: Fleet) -> None:
        """Go on with another fleet, now or once its names are resolved.

        Raises:
            ConfigError: when a key file or the profile can't be used; then nothing has changed.
        """
        starts = ProfileStarts.from_fleet(settings)
        if self._names.knows(settings.servers):
            self._take(settings, starts, fleet)
        else:
            self._settings, self.starts = settings, starts
        self._has_changed.set()

    async def resolve(self, fleet: Fleet) -> None:
        """Look all names up, and take what has changed.

        Raises:
            ConfigError: when a key file can't be used; then nothing has changed.
        """
        await self._names.look_up(self._settings.servers, fleet.answers)
        if self._names.knows(self._settings.servers):  # else they have changed meanwhile
            self._take(self._settings, self.starts, fleet)

    async def watch(self, fleet: Fleet) -> None:
        """Resolve names for ever: once a period, sooner while one is not known yet, or when the fleet changed."""
        while True:
            period_s = self._settings.router.resolve_period_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._names.pause_s(self._settings.servers, period_s)):
                    await self._has_changed.wait()
            self._has_changed.clear()
            try:
                await self.resolve(fleet)
            except ConfigError as exc:
                log.warning("the fleet's servers: kept as before: %s", exc)

    def _take(self, settings: FleetSettings, starts: ProfileStarts, fleet: Fleet) -> None:
        servers = self._names.expand(settings.servers)
        starts.in_file = self._names.in_file
        changes = find_changes(self.servers, servers)
        opened = {ServerName(s.name): self._connect(s, settings.router) for s in changes.opened}
        is_same = servers == self.servers and settings.router is fleet.settings
        self._settings, self.starts, self.servers = settings, starts, servers
        if is_same:
            return
        fleet.reconfigure(settings.router, starts, opened=opened, closed=map(ServerName, changes.closed))
        for listener in self._listeners:
            listener(servers)


def _names(servers: Iterable[ServerSettings]) -> list[str]:
    return sorted({host for server in servers if is_name(host := host_of(server.grpc))})
