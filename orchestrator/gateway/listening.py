"""Where the gateway's transports listen, and one line when an address can't be had."""

from __future__ import annotations

import socket
import ssl as tls
from typing import Any

from orchestrator.errors import ConfigError
from orchestrator.http2.listener import Listener


class Endpoint:
    """One address of the gateway, whose connections are accepted here or by another process.

    Args:
        key: The address' key in fleet.yaml.
        address: ``host:port``; port 0 takes a free one.
        listener: What accepts or adopts the connections.
        ssl: What to speak TLS with; None for plain connections.
        listens: Whether it listens itself; else another process does, and its connections are adopted.

    Attributes:
        address: Where it listens, once started.
        is_draining: Whether clients are sent elsewhere.
    """

    def __init__(
        self, key: str, address: str, listener: Listener[Any], *, ssl: tls.SSLContext | None, listens: bool
    ) -> None:
        self.address = address
        self.is_draining = False
        self._key = key
        self._listener = listener
        self._ssl = ssl
        self._listens = listens

    async def start(self) -> None:
        """Listen; raises ConfigError when the address can't be listened on."""
        if not self._listens:
            self._listener.open()
            return
        host, _, port = self.address.rpartition(":")
        try:
            found = await self._listener.start(host.strip("[]"), int(port), ssl=self._ssl)
        except OSError as exc:
            raise refused_address(self.address, self._key, exc) from exc
        self.address = f"{host}:{found}"

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process has accepted; raises OSError when it is lost at once."""
        await self._listener.adopt(connection, ssl=self._ssl)

    @property
    def connections(self) -> int:
        """The number of connections that are open now."""
        return self._listener.connections

    async def drain(self) -> None:
        """Take no more connections, send clients elsewhere, and return when all connections have ended."""
        self.is_draining = True
        await self._listener.drain()

    def stop(self) -> None:
        """Take no more connections, and end all at once."""
        self._listener.stop()


def refused_address(address: str, key: str, error: OSError) -> ConfigError:
    """Return the error that says that the address under ``key`` of fleet.yaml can't be listened on."""
    return ConfigError(
        f"can't listen on {key} = {address} ({error.strerror or error}); give a free address of this machine"
    )
