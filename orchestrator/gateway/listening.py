"""Where the gateway listens: on sockets of its own, or on those that somebody keeps for it, or has handed over.

Sockets that somebody else holds too, such as systemd, ``slimsched up`` or the gateway that this one replaces, listen
for as long as any of them does: connections that come while nobody accepts wait.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from aiohttp import web

from orchestrator.errors import ConfigError
from orchestrator.http2.listener import Listener, bind

Sockets = Mapping[str, Sequence[socket.socket]]
"""Bound sockets by what is to be offered on them: ``grpc``, ``http``, ``metrics``."""


class Endpoint:
    """One address of the gateway, whose connections are accepted here or by another process.

    Args:
        key: The address' key in fleet.yaml.
        address: ``host:port``; port 0 takes a free one.
        given: The sockets of that address; None: it takes its own.
        listener: What accepts or adopts the connections.
        ssl: What to speak TLS with; None for plain connections.
        listens: Whether it listens itself; else another process does, and its connections are adopted.

    Attributes:
        address: Where it listens, once started.
        sockets: Those that it listens on, once started.
        is_draining: Whether clients are sent elsewhere.
    """

    def __init__(
        self,
        key: str,
        address: str,
        listener: Listener[Any],
        *,
        ssl: tls.SSLContext | None,
        listens: bool,
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        self.address = address
        self.sockets: Sequence[socket.socket] = given or ()
        self.is_draining = False
        self._key = key
        self._listener = listener
        self._ssl = ssl
        self._listens = listens

    def bind(self) -> None:
        """Take the address without listening yet; raises ConfigError when it can't be had."""
        if self._listens and not self.sockets:
            self.sockets = bind_address(self._key, self.address)

    async def start(self) -> None:
        """Listen; raises ConfigError when the address can't be listened on."""
        if not self._listens:
            self._listener.open()
            return
        self.bind()
        try:
            await self._listener.listen(self.sockets, ssl=self._ssl)
        except OSError as exc:
            raise refused_address(self.address, self._key, exc) from exc
        self.address = address_of(self.address, self.sockets)

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
        for one in self.sockets:
            one.close()


def make_http_server(answer: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], **options: Any) -> web.Server:
    """Return a server of aiohttp, with options as it takes them, whose answers do not say what serves them."""
    loop = asyncio.get_running_loop()

    def make_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        return _NamelessRequest(message, payload, protocol, writer, task, loop)

    return web.Server(answer, request_factory=make_request, **options)


class _NamelessRequest(web.BaseRequest):
    """A request whose answer lacks aiohttp's header ``Server``: an attacker would read there which versions to attack.

    The hook is aiohttp's last word before headers are written, also for answers that it makes by itself.
    """

    async def _prepare_hook(self, response: web.StreamResponse) -> None:
        response.headers.pop("Server", None)


def bind_address(key: str, address: str) -> list[socket.socket]:
    """Return sockets of ``host:port``, as ``bind`` does; raises ConfigError when it can't be had."""
    host, _, port = address.rpartition(":")
    try:
        return bind(host.strip("[]"), int(port))
    except OSError as exc:
        raise refused_address(address, key, exc) from exc


def address_of(address: str, sockets: Sequence[socket.socket]) -> str:
    """Return an address with the port that its sockets have."""
    return f"{address.rpartition(':')[0]}:{sockets[0].getsockname()[1]}"


def refused_address(address: str, key: str, error: OSError) -> ConfigError:
    """Return the error that says that the address under ``key`` of fleet.yaml can't be listened on."""
    return ConfigError(
        f"can't listen on {key} = {address} ({error.strerror or error}); give a free address of this machine"
    )
