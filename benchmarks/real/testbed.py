"""Embedded Tritons, a gateway for each policy, Envoy before the Tritons themselves, and what takes cores from them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.harness.programs import run_envoy, run_gateway
from benchmarks.real.cells import FLEETS
from orchestrator.config import (
    DecisionLogSettings,
    FleetSettings,
    GatewaySettings,
    RouterSettings,
    ServerSettings,
    render_fleet,
)
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ServerUnavailableError
from orchestrator.loadgen.target import SetUp, Target, find_target

FAMILY = "fashion"
WIDEST, NARROWEST = "fashion_w100", "fashion_w025"
DEFAULT = "default"
FIXED = {"always 25 %": "lert:25", "always 50 %": "lert:50", "always 75 %": "lert:75", "always 100 %": "lert:100"}
RULES = {"lert:slack": "lert:slack", "lert:reserve": "lert:reserve", "thrift": "thrift", "ppo-slim": "ppo-slim"}
"""Every rule that chooses the width by itself and was once a default, and the learned policy."""
TRITON = {"Triton 25 %, Envoy": NARROWEST, "Triton 100 %, Envoy": WIDEST}
_TRIES = 100
_SAMPLED = 0.3  # more decisions would cost the gateway what is measured
_LOG_MIB = 512.0


@asynccontextmanager
async def open_set_ups(repository: Path, fleet: str, folder: Path) -> AsyncIterator[list[SetUp]]:
    """Run a fleet, and everything that asks it; yield the set-ups, the default first."""
    async with AsyncExitStack() as stack:
        settings = await run_fleet(stack, repository, fleet)
        set_ups: list[SetUp] = []
        for name, policy in {DEFAULT: None, **FIXED, **RULES}.items():
            router = RouterSettings() if policy is None else RouterSettings(policy=policy)
            address = await _run_gateway(stack, settings, router, folder / f"{len(set_ups)}")
            set_ups.append(SetUp(name, await _wait_for(address, FAMILY)))
        port, places = choose_free_ports(1)[0], [server.grpc.rpartition(":") for server in settings.servers]
        upstream = [(LOOPBACK, int(triton_port)) for _, _, triton_port in places]
        await stack.enter_async_context(run_envoy(port, upstream, folder))
        for name, model in TRITON.items():
            set_ups.append(SetUp(name, await _wait_for(f"{LOOPBACK}:{port}", model)))
        yield set_ups


@asynccontextmanager
async def open_logging_gateway(repository: Path, fleet: str, folder: Path, decisions: Path) -> AsyncIterator[SetUp]:
    """Run a fleet and the default gateway, which writes part of its decisions into a directory; yield the gateway."""
    log = DecisionLogSettings(directory=decisions, sample_ratio=_SAMPLED, max_mib=_LOG_MIB)
    async with AsyncExitStack() as stack:
        settings = await run_fleet(stack, repository, fleet)
        address = await _run_gateway(stack, settings, RouterSettings(decision_log=log), folder)
        yield SetUp(DEFAULT, await _wait_for(address, FAMILY))


async def run_fleet(stack: AsyncExitStack, repository: Path, fleet: str) -> FleetSettings:
    """Run the servers of a fleet of FLEETS until the stack is closed."""
    servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown in FLEETS[fleet]]
    await asyncio.gather(*map(stack.enter_async_context, servers))
    return FleetSettings(
        servers=tuple(
            ServerSettings(name=f"s{number}", grpc=server.grpc_address, emulated_slowdown=slowdown)
            for number, (server, slowdown) in enumerate(zip(servers, FLEETS[fleet], strict=True))
        )
    )


async def _run_gateway(stack: AsyncExitStack, fleet: FleetSettings, router: RouterSettings, folder: Path) -> str:
    folder.mkdir()
    ports = choose_free_ports(3)
    grpc, http, metrics = (f"{LOOPBACK}:{port}" for port in ports)
    own = fleet.model_copy(update={"router": router, "gateway": GatewaySettings(grpc=grpc, http=http, metrics=metrics)})
    path = folder / "fleet.yaml"
    path.write_text(render_fleet(own))
    await stack.enter_async_context(run_gateway(path, ports[0]))
    return grpc


async def _wait_for(address: str, model: str) -> Target:
    for _ in range(_TRIES):
        try:
            return await find_target("grpc", address, model)
        except ServerUnavailableError as exc:
            problem = exc
            await asyncio.sleep(0.2)
    raise problem


@asynccontextmanager
async def hogged(count: int) -> AsyncIterator[None]:
    """Let so many processes take all of a core that they can get."""
    hogs = [await asyncio.create_subprocess_exec(sys.executable, "-c", "while True: pass") for _ in range(count)]
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            await hog.wait()
