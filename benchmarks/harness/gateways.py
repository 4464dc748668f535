"""Gateways, as many as are compared, each with a fleet.yaml and ports of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.harness.programs import run_gateway
from orchestrator.config import FleetSettings, GatewaySettings, PeerSettings, RouterSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import choose_free_ports
from orchestrator.errors import ServerUnavailableError
from orchestrator.loadgen.target import Target, find_target

_TRIES, _EVERY_S = 200, 0.1


async def start_gateway(
    stack: AsyncExitStack,
    fleet: FleetSettings,
    folder: Path,
    *,
    router: RouterSettings | None = None,
    peers: PeerSettings | None = None,
) -> str:
    """Run a gateway before a fleet until the stack is closed, its files in a new folder; return its gRPC address."""
    folder.mkdir(exist_ok=True)
    ports = choose_free_ports(3)
    grpc, http, metrics = (f"{LOOPBACK}:{port}" for port in ports)
    gateway = GatewaySettings(grpc=grpc, http=http, metrics=metrics, peers=peers)
    own = fleet.model_copy(update={"router": router or RouterSettings(), "gateway": gateway})
    path = folder / "fleet.yaml"
    path.write_text(render_fleet(own))
    await stack.enter_async_context(run_gateway(path, ports[0]))
    return grpc


async def wait_served(address: str, model: str) -> Target:
    """Return a model of whoever has just begun to listen, as soon as it is served.

    Raises:
        ServerUnavailableError: when it is not for long.
    """
    for _ in range(_TRIES):
        try:
            return await find_target("grpc", address, model)
        except ServerUnavailableError:
            await asyncio.sleep(_EVERY_S)
    return await find_target("grpc", address, model)
