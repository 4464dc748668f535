"""Fleets to look at: their traffic is counted by the gateway's own metrics, over minutes that pass at once."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from orchestrator.config import ServerSettings
from orchestrator.gateway.admin import AdminEndpoint
from orchestrator.gateway.listening import make_http_server
from orchestrator.gateway.metrics.gateway_metrics import QUEUED, WORKERS, GatewayMetrics
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.page.feed import PERIOD_S, StatusFeed
from orchestrator.router import FamilyOverview, FleetOverview, ServerOverview, WidthOverview
from orchestrator.snapshot import ServerName, Width

START_UNIX_S = 1_800_000_000.0
WIDTHS = {
    25: (0.905, 0.0004, 0.002),
    50: (0.917, 0.0009, 0.005),
    75: (0.924, 0.0017, 0.009),
    100: (0.928, 0.0028, 0.015),
}


def server_overview(name: str, **changes: Any) -> ServerOverview:
    values: dict[str, Any] = {
        "condition": "up",
        "reason": "",
        "models": 4,
        "left_out": (),
        "instances": tuple((width, 1) for width in WIDTHS),
    }
    return ServerOverview(name, **{**values, **changes})


def family_overview(name: str) -> FamilyOverview:
    return FamilyOverview(name, tuple(WidthOverview(w, q, 2, 2, s, j) for w, (q, s, j) in WIDTHS.items()))


def fleet_overview(**changes: Any) -> FleetOverview:
    values: dict[str, Any] = {
        "policy": "lert:brownout",
        "fallback": "lert:reserve",
        "shadow": None,
        "is_paused": False,
        "decision_log": None,
        "sample_ratio": 0.01,
        "servers": (server_overview("edge-0"), server_overview("edge-1")),
        "families": (family_overview("fashion"),),
    }
    return FleetOverview(**{**values, **changes})


class Gateway:
    """A gateway to look at; what it counts is up to the test.

    Attributes:
        queued: What waits: requests, items and bytes.
    """

    def __init__(self, overview: FleetOverview | None = None) -> None:
        self.metrics = GatewayMetrics()
        self.overview = overview or fleet_overview()
        self.servers: tuple[ServerSettings, ...] = ()
        self.unready: str | None = None
        self.queued = (0, 0, 0)

    async def read_metrics(self) -> MetricSnapshot:
        snapshot = self.metrics.snapshot()
        for measure, amount in zip(QUEUED, self.queued, strict=True):
            snapshot.put(measure, amount)
        snapshot.put(WORKERS, 1)
        return snapshot

    async def read_overview(self) -> FleetOverview:
        return self.overview

    def unready_reason(self) -> str | None:
        return self.unready

    def end(
        self,
        outcome: str,
        count: int = 1,
        *,
        family: str = "fashion",
        width: int | str = "",
        server: str = "",
        latency_s: float = 0.01,
        queue_s: float = 0.002,
    ) -> None:
        """Count requests that ended so."""
        for _ in range(count):
            self.metrics.time(family, outcome, width=str(width), server=server, latency_s=latency_s, queue_s=queue_s)


class Minutes:
    """Wall-clock time, which may be set, and seconds as they pass for a feed."""

    def __init__(self, now_unix_s: float = START_UNIX_S) -> None:
        self.now_unix_s = now_unix_s
        self.passed_s = 0.0

    def __call__(self) -> float:
        return self.now_unix_s

    def steady(self) -> float:
        return self.passed_s

    def go_on(self, seconds: float) -> None:
        self.now_unix_s += seconds
        self.passed_s += seconds


async def pass_busy_minutes(feed: StatusFeed, gateway: Gateway, clock: Minutes, samples: int = 300) -> None:
    """Let load rise and fall: widths are narrowed, a few requests are late or refused at the top."""
    for step in range(samples):
        load = 0.5 - 0.5 * math.cos(step / samples * 4 * math.pi) + 0.08 * math.sin(step * 1.7)
        for index, width in enumerate(WIDTHS):
            near = max(0.0, 1 - abs((1 - load) * 3 - index) / 1.3)
            for server, part in (("edge-0", 0.7), ("edge-1", 0.3)):
                took_s = 0.004 + 0.02 * load + 0.0004 * width * (1.5 if server == "edge-1" else 0.3)
                gateway.end("ok", round(60 * near * part), width=width, server=server, latency_s=took_s)
        gateway.end("deadline", round(max(0.0, load - 0.85) * 20), width=25, server="edge-0", latency_s=0.1)
        gateway.end("shed", round(max(0.0, load - 0.8) * 40), latency_s=0.001)
        for _ in range(round(max(0.0, load - 0.8) * 40)):
            gateway.metrics.router.on_shed("late", 1)
        for _ in range(30):
            gateway.metrics.router.on_decision(1.4e-5 + 1e-5 * load)
        gateway.queued = (max(0, round(load * 9)), max(0, round(load * 14)), 0)
        clock.go_on(PERIOD_S)
        await feed.sample()
    for server in ("edge-0", "edge-1"):
        gateway.metrics.router.on_sent(ServerName(server), Width(50), 4)


def controller_status(server: str, now_unix_s: float = START_UNIX_S, **changes: Any) -> dict[str, Any]:
    """Return the keys of a controller's status document that the page shows."""
    numbers = {"busy_ratio": 0.93, "budget_bytes": 2 << 30, "used_bytes": 1_300 << 20, "needed_bytes": 90 << 20}
    return {
        "server": server,
        "trouble": None,
        "utilisation_ratio": {"value": 0.62, "source": "psutil", "reason": ""},
        "power_w": {"value": 41.3, "source": "rapl", "reason": ""},
        "memory": {"used_bytes": {"value": 1_300 << 20, "source": "psutil", "reason": ""}, "budget_bytes": 2 << 30},
        "refusals": [],
        "notices": [],
        "actions": [
            {
                "action": {"kind": kind, "model": model, "reason": reason, "instances": 2, "numbers": numbers},
                "ended_unix_s": now_unix_s - ago_s,
                "took_s": 0.8,
                "error": error,
                "is_under_way": False,
            }
            for kind, model, reason, ago_s, error in (
                ("load", "fashion_w100", "demand", 410.0, None),
                ("add_instance", "fashion_w050", "busy", 95.0, None),
                ("load", "fashion_w075", "busy", 31.0, "out of memory"),
            )
        ],
        **changes,
    }


class Controllers:
    """Answers as the controllers of servers do, at an address for each, while the context is open."""

    def __init__(self, statuses: Mapping[str, Any]) -> None:
        self.statuses = dict(statuses)
        self.servers: tuple[ServerSettings, ...] = ()
        self.asked = 0
        self._runners: list[web.ServerRunner] = []

    async def __aenter__(self) -> Controllers:
        for number, name in enumerate(self.statuses):
            runner = web.ServerRunner(make_http_server(lambda request, name=name: self._answer(name)))  # type: ignore[misc]
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            self._runners.append(runner)
            address = f"127.0.0.1:{runner.addresses[0][1]}"
            server = ServerSettings(name=name, grpc=f"127.0.0.1:{number + 1}", controller=address)
            self.servers = (*self.servers, server)
        return self

    async def __aexit__(self, *_: object) -> None:
        for runner in self._runners:
            await runner.cleanup()

    async def _answer(self, name: str) -> web.Response:
        self.asked += 1
        return web.json_response(self.statuses[name])


def admin_of(gateway: Gateway, clock: Minutes) -> AdminEndpoint:
    """Return an endpoint that shows a gateway, in time that passes as the clock says."""
    admin = AdminEndpoint("127.0.0.1:0")
    admin.feed = StatusFeed(lambda: gateway, clock=clock, steady_clock=clock.steady)
    admin.gateway = gateway
    return admin
