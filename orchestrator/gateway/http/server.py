"""The gateway's HTTP endpoint: a listener, its connections, and when they end.

aiohttp's low-level server: what is answered is up to ``routes``, and how long a client is waited for to
``connection``.
"""

from __future__ import annotations

import asyncio
import socket
import ssl as tls
from http import HTTPStatus
from typing import Any

from aiohttp import web

from orchestrator.config import GatewaySettings
from orchestrator.gateway.dataplane import DataPlane
from orchestrator.gateway.http.body import BodyReader
from orchestrator.gateway.http.connection import HttpConnection, HttpConnections
from orchestrator.gateway.http.errors import error_response
from orchestrator.gateway.http.routes import HttpRoutes
from orchestrator.gateway.listening import BACKLOG, refused_address

_MIB = 2**20


class HttpServer:
    """The HTTP endpoint of a gateway; arguments and attributes are those of ``GrpcServer``."""

    def __init__(
        self,
        data_plane: DataPlane,
        settings: GatewaySettings,
        *,
        ssl: tls.SSLContext | None = None,
        listens: bool = True,
    ) -> None:
        self.address = settings.http or ""
        self._ssl = ssl
        self._limits = settings.limits
        self._listens = listens
        self._data_plane = data_plane
        bodies = BodyReader(settings.limits, max_bytes=int(settings.max_message_mib * _MIB))
        self._routes = HttpRoutes(data_plane, bodies)
        self._server: web.Server | None = None
        self._connections: HttpConnections | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen; raises ConfigError when the address can't be listened on."""
        # A client that leaves withdraws its request from the router's queue.
        self._server = web.Server(self._answer, handler_cancellation=True)
        self._connections = connections = HttpConnections(self._server, self._limits)
        if not self._listens:
            return
        host, _, port = self.address.rpartition(":")
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                connections.new_connection, host.strip("[]"), int(port), backlog=BACKLOG, **self._tls()
            )
        except OSError as exc:
            connections.close()
            raise refused_address(self.address, "gateway.http", exc) from exc
        self.address = f"{host}:{self._listener.sockets[0].getsockname()[1]}"

    def _tls(self) -> dict[str, Any]:
        if self._ssl is None:
            return {}
        return {"ssl": self._ssl, "ssl_handshake_timeout": self._limits.header_timeout_s}

    async def adopt(self, connection: socket.socket) -> None:
        """Serve a connection that another process has accepted; it belongs to this one from now on."""
        assert self._connections is not None, "adopt follows start"
        loop = asyncio.get_running_loop()
        await loop.connect_accepted_socket(self._connections.new_connection, sock=connection, **self._tls())

    @property
    def connections(self) -> int:
        """The number of connections that are open now."""
        return 0 if self._server is None else len(self._server.connections)

    async def stop(self, grace_s: float) -> None:
        """Take no more connections, wait for requests under way for so long, and end the rest."""
        if self._server is None or self._connections is None:
            return
        if self._listener is not None:
            self._listener.close()
        self._server.pre_shutdown()  # ends connections that wait for a next request
        await self._server.shutdown(grace_s)
        self._connections.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, HttpConnection)
        size = sum(len(name) + len(value) for name, value in request.raw_headers) + len(request.raw_path)
        with connection.answering():
            if size > (most_kib := self._limits.max_header_kib) * 1024:
                reason = f"the headers are larger than {most_kib:g} KiB; see gateway.limits.max_header_kib"
                response: web.StreamResponse = error_response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, reason)
            else:
                response = await self._routes.answer(request)
        if self._data_plane.health.is_draining and not response.prepared:
            response.force_close()  # the next request is to find another gateway
        return response
