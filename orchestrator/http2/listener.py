"""A listening socket, and the connections that were accepted on it, or elsewhere: watched until they are closed.

For HTTP/1.1 and HTTP/2 alike. All connections are looked at every now and then instead of by timers of each request,
which cost more than the request. A process that stood still, stopped or on too busy a host, has not listened either:
how much too late a look comes is handed to the connections, which hold it against nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl as tls
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

BACKLOG: Final = 1024
_CHECK_S: Final = 1.0
_EVICTION_S: Final = 10e-6
"""Seconds for each connection between two evictions for one address; choosing takes less."""


def bind(host: str, port: int) -> list[socket.socket]:
    """Return non-blocking sockets, one for each address of a host, which nobody else has; they do not listen yet.

    Port 0 is a free one. Raises OSError when one of the addresses can't be had.
    """
    found = dict.fromkeys(socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))
    bound: list[socket.socket] = []
    try:
        for family, kind, protocol, _, place in found:
            bound.append(one := socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:  # IPv4 has a socket of its own
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setblocking(False)
            one.bind(place)
    except BaseException:
        for one in bound:
            one.close()
        raise
    return bound


class Waiting(NamedTuple):
    """A connection that waits for its client.

    Attributes:
        peer: The client's address.
        since_s: When it was last heard of, seconds on any one clock.
        was_answered: Whether anything was ever answered on it.
        is_idle: Whether its client has nothing begun that it doesn't go on with.
    """

    peer: str
    since_s: float
    was_answered: bool = False
    is_idle: bool = True


def choose_evicted(peers: Sequence[str], find: Callable[[int], Waiting | None], newcomer: str) -> int | None:
    """Return the index of the connection to close for the sake of a new one, None when the new one is not to be served.

    Each address may have its share of the places, so a client that opens a thousand connections closes its own. The
    first to go is one that waits for its client, of the address that has most: one on which nothing was ever answered
    before the others, which spares a good client behind the same proxy, then one with a call that its client does not
    go on with, and then the one that has waited longest, which is not the oldest; the first of equals. One that is
    being answered goes only when its address has more than its share and the new one's has less. Then come connections
    that wait, of addresses within their share.

    Args:
        peers: The address of each connection.
        find: Returns since when one waits for its client, None when it is being answered.
        newcomer: The address of the new connection.
    """
    counts = Counter(peers)
    own = counts[newcomer]
    share = len(peers) / len(counts.keys() | {newcomer})
    excessive = {peer for peer, count in counts.items() if count >= share}
    waiting, answered, modest = [], [], []
    for i, peer in enumerate(peers):
        count = counts[peer]
        if peer in excessive or peer == newcomer:
            found = find(i)
            if found is not None:
                waiting.append((-count, found.was_answered, found.is_idle, found.since_s, i))
            elif count > own + 1:
                answered.append((-count, i))
        elif count >= own:
            modest.append(i)
    if waiting:
        return min(waiting)[-1]
    if answered:
        return min(answered)[-1]
    others = [(-counts[peers[i]], *found[2:], found.since_s, i) for i in modest if (found := find(i)) is not None]
    return min(others)[-1] if others else None


class ServedConnection(Protocol):
    """The protocol of one connection, as far as its listener has to know it; ``peer`` is its client's address."""

    peer: str

    @property
    def waiting(self) -> Waiting | None:
        """Since when it waits for its client; None while a request is under way."""

    def check(self, *, late_s: float) -> None:
        """Close it when its client has kept it waiting for too long, by a look that comes ``late_s`` too late."""

    def abort(self) -> None:
        """Close at once; what was written and not taken is lost."""


C = TypeVar("C", bound=ServedConnection)


class Listener(ABC, Generic[C]):
    """Accepts connections, or adopts those that another process has accepted, until it is stopped.

    Args:
        make: Returns the protocol of a new connection, given what says whether there is room for it, and what to call
            when it is gone.
        max_connections: How many may be open; one beyond takes the place of one that waits, or is closed at once.
        handshake_s: The seconds that a TLS handshake may take.
        check_s: The seconds between two looks at the connections.
    """

    def __init__(
        self,
        make: Callable[[Callable[[C], bool], Callable[[C], None]], asyncio.Protocol],
        *,
        max_connections: int,
        handshake_s: float,
        check_s: float = _CHECK_S,
    ) -> None:
        self._make = make
        self._max_connections = max_connections
        self._handshake_s = handshake_s
        self._check_s = check_s
        self._connections: dict[C, None] = {}  # in the order they came
        self._ssl: tls.SSLContext | None = None
        self._sockets: Sequence[socket.socket] = ()
        self._servers: list[asyncio.Server] = []
        self._timer: asyncio.TimerHandle | None = None
        self._not_before_s = 0.0  # an address that has connections gets no other one's place

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    async def start(self, host: str, port: int, *, ssl: tls.SSLContext | None = None) -> int:
        """Listen, and return the port; raises OSError when it can't."""
        sockets = bind(host, port)
        await self.listen(sockets, ssl=ssl)
        found: int = sockets[0].getsockname()[1]
        return found

    async def listen(self, sockets: Sequence[socket.socket], *, ssl: tls.SSLContext | None = None) -> None:
        """Accept connections on bound sockets, which are closed in the end; raises OSError when it can't."""
        self._sockets, self._ssl = sockets, ssl
        create = asyncio.get_running_loop().create_server
        for one in sockets:  # what is accepted on is a copy: the original outlives it, for what is not accepted yet
            self._servers.append(await create(self._new_protocol, sock=one.dup(), backlog=BACKLOG, **self._tls(ssl)))
        self.open()

    def open(self) -> None:
        """Begin to look after connections, without listening: they are adopted."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._check_s
        self._timer = loop.call_at(due_s, self._check, due_s)

    async def adopt(self, connection: socket.socket, *, ssl: tls.SSLContext | None = None) -> None:
        """Serve a connection that another process has accepted; raises OSError when it is lost at once."""
        await asyncio.get_running_loop().connect_accepted_socket(self._new_protocol, sock=connection, **self._tls(ssl))

    async def drain(self) -> None:
        """Accept what waits and no more; return when all connections have ended, whose clients are sent elsewhere."""
        for server in self._servers:
            server.close()
        waiting = [connection for one in self._sockets for connection in _accept_all(one)]
        self._close_sockets()
        adopting = (self.adopt(connection, ssl=self._ssl) for connection in waiting)
        await asyncio.gather(asyncio.gather(*adopting, return_exceptions=True), self._drain())

    def _close_sockets(self) -> None:
        for server in self._servers:
            server.close()
        for one in self._sockets:
            one.close()
        self._servers, self._sockets = [], ()

    def stop(self) -> None:
        """Accept no more, and close everything at once."""
        self._close_sockets()
        for connection in list(self._connections):
            connection.abort()
        if self._timer is not None:
            self._timer.cancel()

    @abstractmethod
    async def _drain(self) -> None:
        """Send the clients of all connections elsewhere, and return when the connections have ended."""

    def _tls(self, ssl: tls.SSLContext | None) -> dict[str, Any]:
        return {} if ssl is None else {"ssl": ssl, "ssl_handshake_timeout": self._handshake_s}

    def _new_protocol(self) -> asyncio.Protocol:
        return self._make(self._add, self._remove)

    def _add(self, connection: C) -> bool:
        """Note a new connection; False when there is no room, because no other has to go."""
        if len(self._connections) >= self._max_connections:
            now_s = asyncio.get_running_loop().time()
            if now_s < self._not_before_s and any(other.peer == connection.peer for other in self._connections):
                return False
            self._not_before_s = now_s + len(self._connections) * _EVICTION_S
            others = list(self._connections)
            index = choose_evicted([other.peer for other in others], lambda i: others[i].waiting, connection.peer)
            if index is None:
                return False
            del self._connections[others[index]]
            self._evict(others[index])
        self._connections[connection] = None
        return True

    def _evict(self, connection: C) -> None:
        """Close a connection for another one's sake."""
        connection.abort()

    def _remove(self, connection: C) -> None:
        self._connections.pop(connection, None)

    def _check(self, due_s: float) -> None:
        late_s = asyncio.get_running_loop().time() - due_s
        for connection in list(self._connections):
            connection.check(late_s=late_s)
        self.open()


def _accept_all(listening: socket.socket) -> Iterator[socket.socket]:
    """Accept the connections that wait."""
    with contextlib.suppress(OSError):  # nothing waits any more
        while True:
            connection, _ = listening.accept()
            connection.setblocking(False)
            yield connection
