"""The gateway's HTTP endpoint, on aiohttp's low-level server.

What is answered is up to ``routes``, and how long a client is waited for to ``connection``.
"""

from __future__ import annotations

import socket
import ssl as tls
from collections.abc import Sequence
from http import HTTPStatus

from aiohttp import web

from orchestrator.config import GatewaySettings
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.http.body import BodyReader
from orchestrator.gateway.http.connection import HttpConnection, HttpListener
from orchestrator.gateway.http.errors import error_response
from orchestrator.gateway.http.routes import HttpRoutes
from orchestrator.gateway.listening import Endpoint, make_http_server

_MIB = 2**20


class HttpServer(Endpoint):
    """The HTTP endpoint of a gateway, answered by a data plane; ``ssl``, ``listens`` and ``given`` as in Endpoint."""

    def __init__(
        self,
        data_plane: DataPlane,
        settings: GatewaySettings,
        *,
        ssl: tls.SSLContext | None = None,
        listens: bool = True,
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        self._limits = settings.limits
        self._bodies = BodyReader(settings.limits, max_bytes=int(settings.max_message_mib * _MIB))
        self._routes = HttpRoutes(data_plane, self._bodies)
        # A client that leaves withdraws its request from the router's queue.
        listener = HttpListener(make_http_server(self._answer, handler_cancellation=True), settings.limits)
        super().__init__("gateway.http", settings.http or "", listener, ssl=ssl, listens=listens, given=given)

    def stop(self) -> None:
        """Take no more connections, and end all at once."""
        super().stop()
        self._bodies.close()

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
        if self.is_draining and not response.prepared:
            response.force_close()  # the next request is to find another gateway
        return response
