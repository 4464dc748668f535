"""Where Prometheus reads the gateway's metrics."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from aiohttp import web
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder

from orchestrator.gateway.listening import listen
from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.gateway.metrics.snapshot import MetricSnapshot


class MetricsEndpoint:
    """Answers GET /metrics.

    Args:
        address: Where to listen, ``host:port``.
        read: Returns what all processes have counted until now.
    """

    def __init__(self, address: str, read: Callable[[], Awaitable[MetricSnapshot]]) -> None:
        self.address = address
        self._read = read
        self._runner: web.ServerRunner | None = None

    async def start(self) -> None:
        """Listen.

        Raises:
            ConfigError: The address can't be listened on.
        """
        self._runner, self.address = await listen(
            web.Server(self._answer, access_log=None), self.address, key="gateway.metrics"
        )

    async def stop(self, grace_s: float) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != "/metrics" or request.method not in ("GET", "HEAD"):
            return web.Response(status=404, text="there is GET /metrics here\n")
        encode: Any
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        page = encode(_Page(await self._read()))
        return web.Response(body=page, headers={"Content-Type": content_type})


class _Page:
    """What prometheus_client's encoders need of a registry."""

    def __init__(self, snapshot: MetricSnapshot) -> None:
        self._snapshot = snapshot

    def collect(self) -> Iterable[Metric]:
        return self._snapshot.families(MEASURES.values())
