"""Accepted connections on their way from the supervisor to a worker.

One process accepts and gives each connection to the worker that has the fewest of its kind. gRPC's connections live for
hours, so who gets one matters: of eight that arrived at once, two workers with SO_REUSEPORT got 3 and 5 or 1 and 7 by
the kernel's hash, and with one listening socket for both often 0 and 8. Here it is 4 and 4. It costs two system calls a
connection, and none a request. A worker that ends takes no connection along that it had not begun with: those that wait
to be accepted are the supervisor's, and those on their way are given to another worker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections import Counter, deque
from collections.abc import Callable, Mapping
from typing import Protocol

log = logging.getLogger(__name__)

_TAKEN = b"+"
_MESSAGE_BYTES = 256
_REPORT_PERIOD_S = 0.1
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


class Adopter(Protocol):
    """Serves connections that were accepted elsewhere."""

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        ...

    async def adopt(self, connection: socket.socket) -> None:
        """Begin to serve one; raises OSError when it is lost at once."""
        ...


class Receiver:
    """A worker's side: its end of the pair, and what serves connections, by kind."""

    def __init__(self, end: socket.socket, adopters: Mapping[Kind, Adopter]) -> None:
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
            except OSError:  # nothing more now, or the supervisor is gone, which the channel tells
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
