"""Embedded Tritons, a gateway for each policy, Envoy before the Tritons themselves, and what takes cores from them."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import onnxruntime as ort

from benchmarks.harness.gateways import start_gateway, wait_served
from benchmarks.harness.programs import run_envoy
from benchmarks.real.cells import FLEETS
from orchestrator.config import DecisionLogSettings, FleetSettings, RouterSettings, ServerSettings
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.loadgen.target import SetUp
from orchestrator.triton.client import TritonClient

FAMILY = "fashion"
WIDEST, NARROWEST, NARROWEST_WIDTH = "fashion_w100", "fashion_w025", 25
DEFAULT = "default"
FIXED = {"always 25 %": 25, "always 50 %": 50, "always 75 %": 75, "always 100 %": 100}
"""Widths that callers ask for themselves (``slim_width``), so that nothing else is offered to them."""
RULES = {"lert:slack": "lert:slack", "lert:reserve": "lert:reserve", "thrift": "thrift", "ppo-slim": "ppo-slim"}
"""Every rule that chooses the width by itself and was once a default, and the learned policy."""
POLICIES = {DEFAULT: RouterSettings().policy, **dict.fromkeys(FIXED, "lert:narrowest"), **RULES}
TRITON = {"Triton 25 %, Envoy": NARROWEST, "Triton 100 %, Envoy": WIDEST}
"""Tritons themselves behind Envoy, by the fewest requests under way."""
IN_TURN = {f"{name}, in turn": model for name, model in TRITON.items()}
"""Likewise, each server in its turn; measured where arrivals and deadline are the usual ones."""
_SAMPLED = 1.0
"""All decisions are written. What is written costs its batch some time more than others: of three in ten a
point less than of all came within what was promised, because what is promised follows all."""
_LOG_MIB = 512.0


def accuracies_of(repository: Path, sample: LabelledSample) -> dict[str, float]:
    """Return how often each of the fixed widths is right on the images that are sent, by percentage."""
    found = {}
    for width in FIXED.values():
        graph = repository / f"{FAMILY}_w{width:03}" / "1" / "model.onnx"
        session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
        (logits,) = session.run(None, {session.get_inputs()[0].name: sample.images})
        found[f"{width}"] = float((logits.argmax(axis=1) == sample.labels).mean())
    return found


@asynccontextmanager
async def open_set_ups(settings: FleetSettings, folder: Path) -> AsyncIterator[tuple[list[SetUp], list[TritonClient]]]:
    """Run everything that asks a fleet; yield the set-ups, the default first, and who asks the servers."""
    async with AsyncExitStack() as stack:
        tritons = [await stack.enter_async_context(TritonClient(server.grpc)) for server in settings.servers]
        set_ups: list[SetUp] = []
        for name, policy in POLICIES.items():
            router = RouterSettings(policy=policy)
            address = await start_gateway(stack, settings, folder / f"{len(set_ups)}", router=router)
            asked = (("slim_width", FIXED[name]),) if name in FIXED else ()
            set_ups.append(SetUp(name, await wait_served(address, FAMILY), asked))
        upstream = [(LOOPBACK, int(server.grpc.rpartition(":")[2])) for server in settings.servers]
        for balancing, models in (("LEAST_REQUEST", TRITON), ("ROUND_ROBIN", IN_TURN)):
            port, own = choose_free_ports(1)[0], folder / balancing
            own.mkdir()
            await stack.enter_async_context(run_envoy(port, upstream, own, balancing))
            for name, model in models.items():
                set_ups.append(SetUp(name, await wait_served(f"{LOOPBACK}:{port}", model)))
        yield set_ups, tritons


@asynccontextmanager
async def open_logging_gateway(
    repository: Path, fleet: str, folder: Path, decisions: Path
) -> AsyncIterator[tuple[SetUp, EmbeddedServer]]:
    """Run a fleet and the default gateway, which writes part of its decisions into a directory.

    Yields the gateway and the slowest server.
    """
    log = DecisionLogSettings(directory=decisions, sample_ratio=_SAMPLED, max_mib=_LOG_MIB)
    async with AsyncExitStack() as stack:
        servers = await _run_servers(stack, repository, fleet)
        settings = _settings_of(servers)
        address = await start_gateway(stack, settings, folder, router=RouterSettings(decision_log=log))
        slowest = max(servers, key=lambda server: server.options.slowdown)
        yield SetUp(DEFAULT, await wait_served(address, FAMILY)), slowest


async def run_fleet(stack: AsyncExitStack, repository: Path, fleet: str) -> FleetSettings:
    """Run the servers of a fleet of FLEETS until the stack is closed."""
    return _settings_of(await _run_servers(stack, repository, fleet))


async def _run_servers(stack: AsyncExitStack, repository: Path, fleet: str) -> list[EmbeddedServer]:
    servers = [EmbeddedServer(repository, EmbeddedOptions(slowdown=slowdown)) for slowdown in FLEETS[fleet]]
    await asyncio.gather(*map(stack.enter_async_context, servers))
    return servers


def _settings_of(servers: Sequence[EmbeddedServer]) -> FleetSettings:
    return FleetSettings(
        servers=tuple(
            ServerSettings(name=f"s{number}", grpc=server.grpc_address, emulated_slowdown=server.options.slowdown)
            for number, server in enumerate(servers)
        )
    )


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
