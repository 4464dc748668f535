"""Where Prometheus reads the gateway's metrics."""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from orchestrator.gateway.listening import address_of, bind_address, make_http_server, refused_address
from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.gateway.metrics.snapshot import MetricSnapshot


class MetricsEndpoint:
    """Answers GET /metrics with what all processes have counted, as ``read`` says; ``given`` as in Endpoint."""

    def __init__(
        self,
        address: str,
        read: Callable[[], Awaitable[MetricSnapshot]],
        given: Sequence[socket.socket] | None = None,
    ) -> None:
        self.address = address
        self.sockets: Sequence[socket.socket] = given or ()
        self._read = read
        self._runner: web.ServerRunner | None = None

    def bind(self) -> None:
        """Take the address without listening yet; raises ConfigError when it can't be had."""
        self.sockets = self.sockets or bind_address("gateway.metrics", self.address)

    async def start(self) -> None:
        """Listen; raises ConfigError when the address can't be listened on."""
        self.bind()
        self._runner = runner = web.ServerRunner(make_http_server(self._answer, access_log=None))
        await runner.setup()
        try:
            for one in self.sockets:
                await web.SockSite(runner, one).start()
        except OSError as exc:
            await runner.cleanup()
            raise refused_address(self.address, "gateway.metrics", exc) from exc
        self.address = address_of(self.address, self.sockets)

    async def stop(self) -> None:
        """Listen no more, and close what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
        for one in self.sockets:
            one.close()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
            return web.Response(status=404, text="there is GET /metrics here\n")
        encode: Any
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        families = (await self._read()).families(MEASURES.values())
        page = encode(SimpleNamespace(collect=lambda: families))  # all that an encoder needs of a registry
        return web.Response(body=page, headers={"Content-Type": content_type})
