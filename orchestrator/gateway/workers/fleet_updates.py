"""A gateway's process that follows its fleet file: servers come and go while it answers."""

from __future__ import annotations

from pathlib import Path

from orchestrator.config import FleetSettings, load_fleet
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.workers.file_watch import WatchedFiles
from orchestrator.gateway.workers.shares import share_router
from orchestrator.router import Router


def follow_fleet(path: Path, router: Router, gateway: Gateway, *, workers: int = 1) -> WatchedFiles:
    """Return the watch over a fleet file whose changes a router and a gateway take.

    A file that can't be used is refused as a whole, and what was there is kept.

    Args:
        path: that both were made from.
        router: of this process.
        gateway: of this process.
        workers: processes that share what the router section allows.
    """

    def take() -> None:
        fleet: FleetSettings = load_fleet(path)
        # The router first: it looks at everything that could be refused before it changes anything.
        router.reconfigure(fleet.model_copy(update={"router": share_router(fleet.router, workers)}))
        gateway.reconfigure(fleet)

    return WatchedFiles("the fleet's servers and the router's settings", [path], take)
