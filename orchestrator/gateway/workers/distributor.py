"""Which worker gets a connection that has just been accepted: the one that has the fewest of its kind.

A connection that no worker can take, because all are starting or full of connections on their way, waits here, and as
long as one does nothing more is accepted: the rest waits where the kernel keeps it.
"""

from __future__ import annotations

import asyncio
import logging
import socket

from orchestrator.gateway.listening import BACKLOG, bind
from orchestrator.gateway.workers.socket_handoff import Kind, SocketHandoff

log = logging.getLogger(__name__)

_RETRY_ACCEPT_S = 0.5


class ConnectionDistributor:
    """Listens for some workers."""

    def __init__(self) -> None:
        self._bound: dict[Kind, socket.socket] = {}
        self._listeners: dict[Kind, socket.socket] = {}
        self._handoffs: dict[int, SocketHandoff] = {}
        self._waiting: list[tuple[Kind, socket.socket]] = []

    def bind(self, kind: Kind, address: str) -> None:
        """Take ``host:port`` for connections of a kind, without listening yet; raises ConfigError."""
        self._bound[kind] = bind(address, key=f"gateway.{kind}")

    def listen(self) -> None:
        """Accept from now on; before that, a client is to find another gateway."""
        for kind, bound in self._bound.items():
            bound.listen(BACKLOG)
            self._listeners[kind] = bound
        self.resume()

    def close(self) -> None:
        """Hand out what waits to be accepted, and listen no more."""
        for kind, listener in self._listeners.items():
            while self._accept(kind, listener):
                pass
        self._pause()
        self._listeners.clear()
        for bound in self._bound.values():
            bound.close()

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
            for kind, listener in self._listeners.items():
                asyncio.get_running_loop().add_reader(listener, self._accept, kind, listener)

    def _pause(self) -> None:
        for listener in self._listeners.values():
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
