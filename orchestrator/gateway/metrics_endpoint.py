"""Where Prometheus reads the gateway's metrics."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from orchestrator.gateway.listening import listen


class MetricsEndpoint:
    """GET /metrics.

    Args:
        address: ``host:port`` to listen on.
        registry: to show.
    """

    def __init__(self, address: str, registry: CollectorRegistry) -> None:
        self.address = address
        self._registry = registry
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: when the address can't be listened on.
        """
        self._runner, self.address = await listen(
            web.Server(self._answer, access_log=None), self.address, key="gateway.metrics"
        )

    async def stop(self, grace_s: float) -> None:
        """Close."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
            return web.Response(status=404, text="there is GET /metrics here\n")
        encode: Any
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        return web.Response(body=encode(self._registry), headers={"Content-Type": content_type})
