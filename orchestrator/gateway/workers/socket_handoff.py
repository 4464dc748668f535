"""Accepted connections on their way from the supervisor to the worker that has the fewest of their kind.

gRPC's connections live for hours, so who gets one matters: of eight that arrived at once, two workers with SO_REUSEPORT
got 3 and 5 or 1 and 7 by the kernel's hash, and with one listening socket for both often 0 and 8. Here it is 4 and 4.
It costs two system calls a connection, and none a request. A connection that no worker can take, because all are
starting or full of connections on their way, waits here, and as long as one does nothing more is accepted: the rest
waits where the kernel keeps it. A worker that ends takes no connection along that it had not begun with: those that
wait to be accepted are the supervisor's, and those on their way are given to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from orchestrator.gateway.listening import Endpoint, bind_address
from orchestrator.http2.listener import BACKLOG

log = logging.getLogger(__name__)

_TAKEN = b"+"
_MESSAGE_BYTES = 256
_REPORT_PERIOD_S = 0.1
_RETRY_ACCEPT_S = 0.5
Kind = str


class SocketHandoff:
    """The supervisor's side, one a worker: its end of a SOCK_SEQPACKET pair.

    ``on_room`` is called when the worker has taken a connection.
    """

    def __init__(self, end: socket.socket, on_room: Callable[[], None]) -> None:
        end.setblocking(False)
        self._end = end
        self._on_room = on_room
        self._reported: Counter[Kind] = Counter()
        self._in_transit: deque[tuple[Kind, socket.socket]] = deque()
        asyncio.get_running_loop().add_reader(end, self._read)

    def count(self, kind: Kind) -> int:
        """Return how many connections of a kind the worker has, those on their way included."""
        return self._reported[kind] + sum(1 for sent, _ in self._in_transit if sent == kind)

    @property
    def total(self) -> int:
        """How many connections of all kinds the worker has, those on their way included."""
        return sum(self._reported.values()) + len(self._in_transit)

    def give(self, kind: Kind, connection: socket.socket) -> bool:
        """Send a connection; False when the worker takes none now, or is gone."""
        try:
            socket.send_fds(self._end, [kind.encode()], [connection.fileno()])
        except OSError:
            return False
        self._in_transit.append((kind, connection))  # ours stays open until it is taken
        return True

    def close(self) -> list[tuple[Kind, socket.socket]]:
        """Close, and return the connections that the worker never took."""
        asyncio.get_running_loop().remove_reader(self._end)
        self._end.close()
        left = list(self._in_transit)
        self._in_transit.clear()
        return left

    def _read(self) -> None:
        while True:
            try:
                message = self._end.recv(_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError:
                message = b""
            if not message:  # the worker is gone; its process is watched elsewhere
                asyncio.get_running_loop().remove_reader(self._end)
                return
            if message == _TAKEN:
                kind, connection = self._in_transit.popleft()
                connection.close()
                self._reported[kind] += 1
                self._on_room()
            else:
                kind, _, number = message.decode().partition("=")
                self._reported[kind] = int(number)


class ConnectionDistributor:
    """Listens, and gives each connection to the worker that has the fewest of its kind.

    Attributes:
        sockets: Those that are bound, by kind.
    """

    def __init__(self) -> None:
        self.sockets: dict[Kind, Sequence[socket.socket]] = {}
        self._listeners: list[tuple[Kind, socket.socket]] = []
        self._handoffs: dict[int, SocketHandoff] = {}
        self._waiting: list[tuple[Kind, socket.socket]] = []

    def bind(self, kind: Kind, address: str, given: Sequence[socket.socket] | None = None) -> None:
        """Take ``host:port`` for connections of a kind, without listening yet; raises ConfigError."""
        self.sockets[kind] = given or bind_address(f"gateway.{kind}", address)

    def listen(self) -> None:
        """Accept from now on; before that, a client is to find another gateway."""
        for kind, sockets in self.sockets.items():
            for one in sockets:
                one.listen(BACKLOG)
                self._listeners.append((kind, one))
        self.resume()

    def close(self) -> None:
        """Hand out what waits to be accepted, and listen no more."""
        for kind, listener in self._listeners:
            while self._accept(kind, listener):
                pass
        self._pause()
        self._listeners.clear()
        for sockets in self.sockets.values():
            for one in sockets:
                one.close()

    def add(self, number: int, handoff: SocketHandoff) -> None:
        """Give connections to a worker from now on."""
        self._handoffs[number] = handoff
        self.resume()

    def remove(self, number: int, handoff: SocketHandoff) -> None:
        """Close the handoff of a worker that has ended, and give what it never took to another one."""
        self._handoffs.pop(number, None)
        self._waiting += handoff.close()
        self.resume()

    def resume(self) -> None:
        """Hand out what waits, then accept again; for when a worker may have room."""
        while self._waiting:
            if not self._hand_out(*self._waiting[0]):
                return
            del self._waiting[0]
        if self._handoffs:
            for kind, listener in self._listeners:
                asyncio.get_running_loop().add_reader(listener, self._accept, kind, listener)

    def _pause(self) -> None:
        for _, listener in self._listeners:
            asyncio.get_running_loop().remove_reader(listener)

    def _accept(self, kind: Kind, listener: socket.socket) -> bool:
        """Accept and hand out one connection; False when none waits."""
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        except OSError as exc:  # no more descriptors, most likely
            log.error("can't accept a connection (%s); again in %g s", exc.strerror, _RETRY_ACCEPT_S)
            self._pause()
            asyncio.get_running_loop().call_later(_RETRY_ACCEPT_S, self.resume)
            return False
        connection.setblocking(False)
        if not self._hand_out(kind, connection):
            self._waiting.append((kind, connection))
            self._pause()
        return True

    def _hand_out(self, kind: Kind, connection: socket.socket) -> bool:
        def load(number: int) -> tuple[int, int, int]:
            handoff = self._handoffs[number]
            return handoff.count(kind), handoff.total, number

        return any(self._handoffs[number].give(kind, connection) for number in sorted(self._handoffs, key=load))


class Receiver:
    """A worker's side: its end of the pair, and what serves connections, by kind."""

    def __init__(self, end: socket.socket, adopters: Mapping[Kind, Endpoint]) -> None:
        end.setblocking(False)
        self._end = end
        self._adopters = adopters
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Take connections and report how many are open, until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._end, self._read)
        reported: dict[Kind, int] = {}
        try:
            while True:
                await asyncio.sleep(_REPORT_PERIOD_S)
                now = {kind: adopter.connections for kind, adopter in self._adopters.items()}
                for kind, number in now.items():
                    if reported.get(kind) != number:
                        self._send(f"{kind}={number}".encode())
                reported = now
        finally:
            loop.remove_reader(self._end)

    def _read(self) -> None:
        while True:
            try:
                message, descriptors, _, _ = socket.recv_fds(self._end, _MESSAGE_BYTES, 1)
            except OSError:  # nothing more now, or the supervisor is gone, which the channel shows
                return
            if not message:
                asyncio.get_running_loop().remove_reader(self._end)
                return
            for descriptor in descriptors:
                connection = socket.socket(fileno=descriptor)
                connection.setblocking(False)
                task = asyncio.get_running_loop().create_task(self._adopt(message.decode(), connection))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            self._send(_TAKEN)

    async def _adopt(self, kind: Kind, connection: socket.socket) -> None:
        try:
            await self._adopters[kind].adopt(connection)
        except OSError as exc:  # the client has left, or broke off TLS
            log.debug("a connection for %s was lost at once: %s", kind, exc)
            connection.close()

    def _send(self, message: bytes) -> None:
        with contextlib.suppress(OSError):
            self._end.send(message)
