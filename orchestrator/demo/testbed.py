"""What the demo runs: two unlike Tritons, and before them a gateway for each policy.

The servers are real tritonservers. That they are unlike is emulated: each may use one core, and its backend waits
after every batch so that it takes 8 and 24 times as long. Both are slowed down because everything runs on one machine:
while a server waits, its core is free for the sender and the gateway, so the servers are what is scarce and not the
measuring.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.demo.baselines import Baseline
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.loadgen.clients import ALSO, GRPC
from orchestrator.loadgen.target import SetUp, find_target
from orchestrator.processes.child import ChildProcess
from orchestrator.snapshot import Family

SERVERS: Final = (("fast", 8.0), ("slow", 24.0))
"""Name and slow-down of each; above 1 is emulated."""
_STOP_S = 5.0


@asynccontextmanager
async def embedded_fleet(repository: Path, *, cores: Sequence[int] = ()) -> AsyncIterator[FleetSettings]:
    """Run embedded servers, each on a core of its own where there are enough; of ``cores``, or of all.

    Raises:
        SlimError: One can't be started.
    """
    cores = cores or sorted(os.sched_getaffinity(0))
    embedded = [
        EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown, cpus=frozenset({cores[index % len(cores)]})))
        for index, (_, slowdown) in enumerate(SERVERS)
    ]
    async with AsyncExitStack() as stack:
        await _enter_all(stack, embedded)
        yield FleetSettings(
            servers=tuple(
                ServerSettings(
                    name=name,
                    grpc=server.grpc_address,
                    metrics=server.metrics_url,
                    emulated_slowdown=slowdown if slowdown > 1 else None,
                )
                for server, (name, slowdown) in zip(embedded, SERVERS, strict=True)
            )
        )


@asynccontextmanager
async def open_set_ups(
    fleet: FleetSettings, family: Family, baselines: Sequence[Baseline], folder: Path, *, seed: int
) -> AsyncIterator[list[SetUp]]:
    """Run a gateway for each baseline that is one, all at the same time; yield what is to be asked, in order.

    Raises:
        SlimError: A gateway can't be started, or a Triton says nothing of a model.
    """
    tritons = ALSO.join(server.grpc for server in fleet.servers)
    ports = choose_free_ports(len(baselines))
    async with AsyncExitStack() as stack:
        gateways, set_ups = [], []
        for baseline, port in zip(baselines, ports, strict=True):
            if baseline.model is None:
                router = RouterSettings(seed=seed, policy=baseline.policy or RouterSettings().policy)
                gateways.append(_gateway(fleet, router, f"{LOOPBACK}:{port}", folder / f"{port}"))
        await _enter_all(stack, gateways)
        for baseline, port in zip(baselines, ports, strict=True):
            address, model = (f"{LOOPBACK}:{port}", family) if baseline.model is None else (tritons, baseline.model)
            set_ups.append(SetUp(baseline.name, await find_target(GRPC, address, model)))
        yield set_ups


@asynccontextmanager
async def _gateway(fleet: FleetSettings, router: RouterSettings, address: str, folder: Path) -> AsyncIterator[None]:
    """Run ``slimsched gateway``; its settings and its log are in a folder that is made."""
    folder.mkdir()
    path = folder / "fleet.yaml"
    gateway = GatewaySettings(grpc=address, http=None, metrics=None, drain_s=0.0)
    path.write_text(render_fleet(fleet.model_copy(update={"router": router, "gateway": gateway})))
    process = ChildProcess.slimsched(
        "gateway", "--fleet", str(path), log_path=folder / "gateway.log", stop_s=_STOP_S, says_ready=True
    )
    try:
        await process.start()
        yield
    finally:
        await process.stop()


async def _enter_all(stack: AsyncExitStack, contexts: Sequence[AbstractAsyncContextManager[object]]) -> None:
    """Enter contexts at the same time; when one fails the others are left, too, before its error is raised."""
    for outcome in await asyncio.gather(*map(stack.enter_async_context, contexts), return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
