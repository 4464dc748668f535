"""Documents of a gateway that has been busy, made by the status page's own code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from orchestrator.gateway.page.document import describe
from orchestrator.gateway.page.feed import StatusFeed
from orchestrator.gateway.page.observed import Controller, Decision, Observed
from orchestrator.gateway.page.traffic import Point, compare
from tests.gateway.page.fleets import (
    Gateway,
    Minutes,
    controller_status,
    fleet_overview,
    pass_busy_minutes,
    server_overview,
)

DECISION = Decision(
    "a93a3a-17", 1_800_000_590.0, "fashion", "8 to edge-0 at 50 %: the widest", ("8 items waited", "in time")
)


async def busy_document() -> dict[str, Any]:
    """Return an event of ten busy minutes: two servers, one of which is ejected."""
    overview = fleet_overview(
        decision_log=str(Path("decisions")),
        servers=(server_overview("edge-0"), server_overview("edge-1", condition="ejected", reason="it failed")),
    )
    gateway, clock = Gateway(overview), Minutes()
    feed = StatusFeed(lambda: gateway, clock=clock, steady_clock=clock.steady)
    await pass_busy_minutes(feed, gateway, clock)
    controllers = {name: Controller(controller_status(name, clock.now_unix_s)) for name in ("edge-0", "edge-1")}
    observed = Observed("0.1.0", None, overview, controllers, (DECISION,))
    document = describe(compare(feed._readings[0], feed._readings[-1]), observed)
    points = {"keys": Point._fields, "rows": [tuple(point) for point in feed._points], "period_s": 2.0}
    found: dict[str, Any] = orjson.loads(orjson.dumps(document | {"points": points}))
    return found
