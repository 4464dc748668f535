"""Takes samples of a gateway for its status page, and sends them to whoever watches, as server-sent events.

Metrics are read all the time, so that who opens the page during an incident sees the minutes before it. Routers,
controllers and the decision log are looked at only while somebody watches. A watcher gets the points that it has not
seen and the newest document; one that takes nothing for a while, such as a browser on a machine that sleeps, is let go:
browsers come again by themselves, and say what they had last. Watchers are bounded, so that pages left open can't take
what requests need; for the same reason samples are rarer where they take long.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import orjson
from aiohttp import web

from orchestrator.background import BackgroundTasks
from orchestrator.config import ServerSettings
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.page.document import Document, describe
from orchestrator.gateway.page.observed import Controller, Decision, Observed
from orchestrator.gateway.page.sources import ask_controllers, read_decisions
from orchestrator.gateway.page.traffic import Point, Reading, compare, point_of, read_snapshot
from orchestrator.router import FleetOverview

PERIOD_S = 2.0
"""Between two samples."""
_PART = 0.01  # of the time that samples may take: the counters of a thousand models on many servers are many
_POINTS = 300  # ten minutes
_WINDOW = 15  # samples, half a minute, that the numbers of now are over
MOST_WATCHERS = 16
_FIND_LIMIT = 200


class Watched(Protocol):
    """A gateway that is open, of one process or of several."""

    async def read_metrics(self) -> MetricSnapshot:
        """Return what all its processes have counted."""

    async def read_overview(self) -> FleetOverview | None:
        """Return what all its routers know; None while there is none."""

    @property
    def servers(self) -> tuple[ServerSettings, ...]:
        """The servers of its fleet now."""

    def unready_reason(self) -> str | None:
        """Return why no requests are to be sent to it; None when they are."""


class StatusFeed:
    """What the page of a gateway is fed with.

    Args:
        gateway: Returns the gateway to look at; None while there is none.
        clock: Returns wall-clock time in seconds.
        steady_clock: Returns seconds that pass evenly, whoever sets the clock; rates are over these.
        slow_s: How long a watcher may take nothing; then it is let go, and comes again when it is awake.

    Attributes:
        watchers: How many watch now.
    """

    def __init__(
        self,
        gateway: Callable[[], Watched | None],
        *,
        clock: Callable[[], float] = time.time,
        steady_clock: Callable[[], float] = time.monotonic,
        slow_s: float = 10.0,
    ) -> None:
        self.watchers = 0
        self._gateway = gateway
        self._clock = clock
        self._steady_clock = steady_clock
        self._slow_s = slow_s
        self._background = BackgroundTasks()
        self._readings: deque[Reading] = deque(maxlen=_WINDOW + 1)
        self._points: deque[Point] = deque(maxlen=_POINTS)
        self._overview: FleetOverview | None = None
        self._controllers: dict[str, Controller] = {}
        self._decisions: list[Decision] | None = None
        self._session: aiohttp.ClientSession | None = None
        self._sampled = asyncio.Event()  # set, and replaced, with each sample
        self._asked = asyncio.Event()
        self._looking = asyncio.Lock()
        self._looked_s = -math.inf
        self._period_s = PERIOD_S
        self._is_stopped = False

    def start(self) -> None:
        """Begin to take samples."""
        self._background.start("sampling for the status page", self._sample_again)
        self._background.start("looking around for the status page", self._look_again)

    async def stop(self) -> None:
        """Take no more samples, and let all watchers go."""
        await self._background.stop()
        self._is_stopped = True
        self._sampled.set()
        if self._session is not None:
            await self._session.close()

    async def sample(self) -> None:
        """Read the metrics once, and let watchers know."""
        gateway = self._gateway()
        if gateway is None:
            self._readings.clear()  # what comes next counts from zero
        else:
            metrics = await gateway.read_metrics()
            self._add(read_snapshot(metrics, round(self._clock(), 3), self._steady_clock()))
        sampled, self._sampled = self._sampled, asyncio.Event()
        sampled.set()

    def _add(self, reading: Reading) -> None:
        past_s = reading.at_unix_s - self._readings[-1].at_unix_s if self._readings else 0.0
        if past_s < 0:  # the clock was set back, and what is after now is no past
            self._readings.clear()
            self._points.clear()
        if self._readings and past_s == 0:
            return
        self._readings.append(reading)
        if len(self._readings) > 1:
            self._points.append(point_of(compare(self._readings[-2], reading)))

    async def look(self) -> None:
        """Ask routers, controllers and the decision log, unless that was just done."""
        async with self._looking:
            now_s = asyncio.get_running_loop().time()
            if now_s - self._looked_s > PERIOD_S / 2:
                await self._look()
                self._looked_s = now_s

    async def _look(self) -> None:
        gateway = self._gateway()
        if gateway is None:
            self._overview, self._controllers, self._decisions = None, {}, None
            return
        if self._session is None:
            self._session = aiohttp.ClientSession()
        self._overview, self._controllers = await asyncio.gather(
            gateway.read_overview(), ask_controllers(self._session, gateway.servers)
        )
        directory = None if self._overview is None else self._overview.decision_log
        self._decisions = None if directory is None else await asyncio.to_thread(read_decisions, Path(directory))

    async def read_document(self, find: str) -> Document | None:
        """Return the document of now, after having looked; None while there is nothing to tell of."""
        if not self._readings:
            await self.sample()
        await self.look()
        document, gateway = self._describe(find), self._gateway()
        if document is not None and gateway is not None:
            document["fleet"] = [server.digest for server in gateway.servers]
        return document

    async def watch(
        self, request: web.BaseRequest, is_allowed: Callable[[], bool] = lambda: True
    ) -> web.StreamResponse:
        """Send a watcher the document with each sample, until it leaves, takes nothing, or is not allowed any more."""
        if self.watchers >= MOST_WATCHERS:
            text = f"{MOST_WATCHERS} pages are open already, the most there may be; close one\n"
            return web.Response(status=503, text=text, headers={"Retry-After": "10"})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        self.watchers += 1
        try:
            await self.look()
            self._asked.set()
            await response.prepare(request)
            await self._send(request, response, is_allowed)
        except (ConnectionError, TimeoutError):  # it has left, or sleeps
            if request.transport is not None:
                request.transport.abort()
        finally:
            self.watchers -= 1
        return response

    async def _send(
        self, request: web.BaseRequest, response: web.StreamResponse, is_allowed: Callable[[], bool]
    ) -> None:
        find, seen_unix_s = find_of(request), _seen_of(request)
        while not self._is_stopped and is_allowed():
            document = self._describe(find)
            event: dict[str, Any] = {} if document is None else document
            if self._points and self._points[-1].unix_s < seen_unix_s:  # the clock was set back since
                seen_unix_s = 0.0
            points = [tuple(point) for point in self._points if point.unix_s > seen_unix_s]
            event["points"] = {"keys": Point._fields, "rows": points, "period_s": self._period_s}
            seen_unix_s = max(seen_unix_s, self._points[-1].unix_s if points else 0.0)
            async with asyncio.timeout(self._slow_s):
                await response.write(b"id: %d\ndata: %b\n\n" % (round(seen_unix_s * 1e3), orjson.dumps(event)))
            await self._sampled.wait()

    def _describe(self, find: str) -> Document | None:
        gateway = self._gateway()
        if gateway is None or not self._readings:
            return None
        observed = Observed(
            version("slim-scheduler"),
            gateway.unready_reason(),
            self._overview,
            self._controllers,
            self._decisions,
        )
        return describe(compare(self._readings[0], self._readings[-1]), observed, find=find)

    async def _sample_again(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began_s = loop.time()
            await self.sample()
            self._period_s = max(PERIOD_S, (loop.time() - began_s) / _PART)
            await asyncio.sleep(self._period_s)

    async def _look_again(self) -> None:
        while True:
            await self._asked.wait()
            await self.look()
            if not self.watchers:
                self._asked.clear()
            await asyncio.sleep(PERIOD_S)


def find_of(request: web.BaseRequest) -> str:
    """Return the part of a family's name that a request asks for; empty: any."""
    return request.rel_url.query.get("find", "")[:_FIND_LIMIT]


def _seen_of(request: web.BaseRequest) -> float:
    """Return the wall-clock time of the newest point that a watcher has, in seconds; 0: it has none."""
    given = request.headers.get("Last-Event-ID", "")
    return int(given) / 1e3 if given.isdecimal() and len(given) < 16 else 0.0
