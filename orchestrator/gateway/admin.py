"""Where whoever operates a gateway looks: its health and metrics, at an address of their own.

It answers before there is anything to tell of, because a gateway may compile for a minute or wait for its first Triton,
and must be seen to live meanwhile: what does not answer is started again by Kubernetes, for ever. ``/livez`` says that
this process answers, ``/readyz`` that requests may be sent, and ``/healthz`` is the older name for the first. No token
is asked for, and nothing is told that a client's errors don't tell.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, Protocol

from aiohttp import web
from prometheus_client.exposition import choose_encoder

from orchestrator.gateway.listening import address_of, bind_address, make_http_server, refused_address
from orchestrator.gateway.metrics.gateway_metrics import MEASURES
from orchestrator.gateway.metrics.snapshot import MetricSnapshot

_KEY = "gateway.metrics"
_ROUTES = "GET /livez, /readyz, /healthz, /metrics"


class Observed(Protocol):
    """A gateway that is open, of one process or of several."""

    async def read_metrics(self) -> MetricSnapshot:
        """Return what all its processes have counted."""
        ...

    def unready_reason(self) -> str | None:
        """Return why no requests are to be sent to it; None when they are."""
        ...


class AdminEndpoint:
    """Answers health and metrics, of a gateway once it has one to show; ``given`` as in Endpoint.

    Attributes:
        address: Where it listens, once started.
        sockets: Those that it listens on, once bound.
        gateway: What it tells of; None: there is nothing yet, or no more.
    """

    def __init__(self, address: str, given: Sequence[socket.socket] | None = None) -> None:
        self.address = address
        self.sockets: Sequence[socket.socket] = given or ()
        self.gateway: Observed | None = None
        self._runner: web.ServerRunner | None = None

    def bind(self) -> None:
        """Take the address without listening yet; raises ConfigError when it can't be had."""
        self.sockets = self.sockets or bind_address(_KEY, self.address)

    async def start(self) -> None:
        """Listen, if it does not yet; raises ConfigError when the address can't be listened on."""
        if self._runner is not None:
            return
        self.bind()
        self._runner = runner = web.ServerRunner(make_http_server(self._answer, access_log=None))
        await runner.setup()
        try:
            for one in self.sockets:
                await web.SockSite(runner, one).start()
        except OSError as exc:
            await runner.cleanup()
            raise refused_address(self.address, _KEY, exc) from exc
        self.address = address_of(self.address, self.sockets)

    async def stop(self) -> None:
        """Listen no more, and close what is open."""
        if self._runner is not None:
            await self._runner.cleanup()
        for one in self.sockets:
            one.close()

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text=f"there is {_ROUTES} here\n", headers={"Allow": "GET, HEAD"})
        match request.path:
            case "/livez" | "/healthz":
                return web.Response(text="live\n")
            case "/readyz":
                reason = "it starts, or ends" if self.gateway is None else self.gateway.unready_reason()
                return web.Response(text="ready\n") if reason is None else web.Response(status=503, text=f"{reason}\n")
            case "/metrics":
                return await self._answer_metrics(request)
            case _:
                return web.Response(status=404, text=f"there is {_ROUTES} here\n")

    async def _answer_metrics(self, request: web.BaseRequest) -> web.Response:
        encode: Any
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        snapshot = MetricSnapshot() if self.gateway is None else await self.gateway.read_metrics()
        families = snapshot.families(MEASURES.values())
        page = encode(SimpleNamespace(collect=lambda: families))  # all that an encoder needs of a registry
        return web.Response(body=page, headers={"Content-Type": content_type})
