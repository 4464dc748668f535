"""Where whoever operates a gateway looks: its status page, health and metrics, at an address of their own.

It answers before there is anything to tell of, because a gateway may compile for a minute or wait for its first Triton,
and must be seen to live meanwhile: what does not answer is started again by Kubernetes, for ever. ``/livez`` says that
this process answers, ``/readyz`` that requests may be sent, and ``/healthz`` is the older name for the first. No token
is asked for these and for metrics, because probes and Prometheus send none: the fence is the address, which is loopback
unless set, and nothing can be changed here. What the status page shows may be kept for some tenants' tokens; the page
itself, which shows nothing without it, asks for one. A token comes in a header alone, because addresses are logged.
Pages of other origins can't read what is answered, and the status page runs and loads nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import socket
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from types import SimpleNamespace
from typing import Any, Final

import orjson
from aiohttp import web
from aiohttp.http import HttpProcessingError
from prometheus_client.exposition import choose_encoder

from orchestrator.gateway.auth.callers import ForbiddenError, Guard, UnauthenticatedError
from orchestrator.gateway.listening import address_of, bind_address, make_http_server, refused_address
from orchestrator.gateway.metrics.gateway_metrics import BUILD_INFO, MEASURES
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.page.feed import StatusFeed, Watched, find_of
from orchestrator.installed.version import read_build

_KEY = "gateway.metrics"
_ROUTES = "GET /, /status, /livez, /readyz, /healthz, /metrics"
_ASSETS: Final = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}.js": (f"{name}.js", "text/javascript") for name in ("page", "chart", "words")},
}
_PAGE_HEADERS: Final = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

_http_log = logging.getLogger(f"{__name__}.http")


def _is_of_ours(record: logging.LogRecord) -> bool:
    """Whether an error is our own: what is no HTTP aiohttp quotes with its traceback, and a token may be among it."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


_http_log.addFilter(_is_of_ours)


class AdminEndpoint:
    """Answers with status page, health and metrics, of a gateway once it has one to show; ``given`` as in Endpoint.

    Attributes:
        address: Where it listens, once started.
        sockets: Those that it listens on, once bound.
        gateway: What it tells of; None: there is nothing yet, or no more.
        guard: Who may see it, from when there is something to tell of.
        feed: What the status page is fed with.
    """

    def __init__(self, address: str, given: Sequence[socket.socket] | None = None) -> None:
        self.address = address
        self.sockets: Sequence[socket.socket] = given or ()
        self.gateway: Watched | None = None
        self.guard = Guard()
        self.feed = StatusFeed(lambda: self.gateway)
        self._runner: web.ServerRunner | None = None

    def bind(self) -> None:
        """Take the address without listening yet; raises ConfigError when it can't be had."""
        self.sockets = self.sockets or bind_address(_KEY, self.address)

    async def start(self) -> None:
        """Listen, if it does not yet; raises ConfigError when the address can't be listened on."""
        if self._runner is not None:
            return
        self.bind()
        self._runner = runner = web.ServerRunner(make_http_server(self._answer, access_log=None, logger=_http_log))
        await runner.setup()
        try:
            for one in self.sockets:
                await web.SockSite(runner, one).start()
        except OSError as exc:
            await runner.cleanup()
            raise refused_address(self.address, _KEY, exc) from exc
        self.feed.start()
        self.address = address_of(self.address, self.sockets)

    async def stop(self) -> None:
        """Listen no more, and close what is open."""
        await self.feed.stop()
        if self._runner is not None:
            await self._runner.cleanup()
        for one in self.sockets:
            one.close()

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
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
            case "/status" | "/events" if (refusal := self._refusal(request)) is not None:
                return refusal
            case "/status":
                document = await self.feed.read_document(find_of(request))
                return web.Response(body=orjson.dumps(document), content_type="application/json")
            case "/events" if request.method == "GET":
                return await self.feed.watch(request, lambda: self._refusal(request) is None)
            case path if path in _ASSETS:
                name, kind = _ASSETS[path]
                return web.Response(text=_read_asset(name), content_type=kind, charset="utf-8", headers=_PAGE_HEADERS)
            case _:
                return web.Response(status=404, text=f"there is {_ROUTES} here\n")

    def _refusal(self, request: web.BaseRequest) -> web.Response | None:
        """Return the answer to whoever may not see what the status page shows; None for all others."""
        try:
            given = request.headers.getall("Authorization", ())
            self.guard.require_status([("authorization", value) for value in given])
        except UnauthenticatedError as exc:
            return web.Response(status=401, text=f"{exc}\n", headers={"WWW-Authenticate": "Bearer"})
        except ForbiddenError as exc:
            return web.Response(status=403, text=f"{exc}\n")
        return None

    async def _answer_metrics(self, request: web.BaseRequest) -> web.Response:
        encode: Any
        encode, content_type = choose_encoder(request.headers.get("Accept", ""))
        snapshot = MetricSnapshot() if self.gateway is None else await self.gateway.read_metrics()
        number, commit = await asyncio.to_thread(read_build)
        snapshot.numbers(BUILD_INFO, (number, commit or "", platform.python_version()))[0] = 1.0
        families = snapshot.families(MEASURES.values())
        page = encode(SimpleNamespace(collect=lambda: families))  # all that an encoder needs of a registry
        return web.Response(body=page, headers={"Content-Type": content_type})


@cache
def _read_asset(name: str) -> str:
    return (files("orchestrator.gateway.page") / "assets" / name).read_text("utf-8")
