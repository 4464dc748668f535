"""One real Triton on fixed ports, what looks at it, and the daemon beside it.

Ports are fixed so that a Triton that was killed can come back where it was, as under an init system.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from orchestrator.config import ControllerSettings, FleetSettings, LimitSettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import SlimError, TransientError
from orchestrator.planner.host import ModelStatus
from orchestrator.processes.process_table import read_identity
from orchestrator.snapshot import ModelName
from orchestrator.telemetry import TritonProcesses
from orchestrator.triton.control import TritonControl

SERVER = "bench"
READINGS = 10
READING_INTERVAL_S = 0.1
POLL_S = 0.05


@dataclass(slots=True)
class Testbed:
    """A Triton that runs, and how to look at it.

    Attributes:
        repository: The repository that it serves.
        folder: A folder for files of the run.
        ports: Ports of Triton's gRPC, HTTP and metrics, and the controller's.
        server: The process, another one after a restart.
        control: Its control API, another one after a restart.
        processes: Its memory and stubs, by the same definition as the controller's budget.
    """

    repository: Path
    folder: Path
    ports: tuple[int, int, int, int]
    server: EmbeddedServer = field(init=False)
    control: TritonControl = field(init=False)
    processes: TritonProcesses = field(init=False)

    def __post_init__(self) -> None:
        self.processes = TritonProcesses(self.ports[0], search_interval_s=0.0)

    @property
    def models(self) -> tuple[ModelName, ...]:
        """Names of the family's widths, the narrowest first."""
        return tuple(model.name for model in self.control.repository_models())

    @property
    def grpc_address(self) -> str:
        """Of Triton."""
        return f"{LOOPBACK}:{self.ports[0]}"

    @property
    def controller_address(self) -> str:
        """Where the daemon answers."""
        return f"{LOOPBACK}:{self.ports[3]}"

    async def start(self, models: tuple[str, ...] = ()) -> None:
        """Start a Triton on the testbed's ports with these models loaded."""
        grpc, http, metrics, _ = self.ports
        options = EmbeddedOptions(models=models, grpc_port=grpc, http_port=http, metrics_port=metrics)
        self.server = EmbeddedServer(self.repository, options)
        await self.server.__aenter__()
        self.control = TritonControl(self.grpc_address, self.server.metrics_url, self.repository, unload_timeout_s=30.0)

    async def stop(self) -> None:
        """Stop Triton."""
        await self.control.close()
        await self.server.stop()

    async def kill(self) -> None:
        """Kill Triton with SIGKILL and return once it is gone with its stubs."""
        os.kill(self.server.pid, signal.SIGKILL)
        await self.server.wait_exited()
        await self.stop()

    def write_fleet(self, settings: ControllerSettings, limits: LimitSettings | None = None) -> Path:
        """Write a fleet.yaml for the daemon and return its path."""
        server = ServerSettings(
            name=SERVER,
            grpc=self.grpc_address,
            metrics=self.server.metrics_url,
            repository=self.repository,
            controller=self.controller_address,
            limits=limits or LimitSettings(),
        )
        path = self.folder / "fleet.yaml"
        path.write_text(render_fleet(FleetSettings(servers=(server,), controller=settings)))
        return path

    async def set_instances(self, model: str, instances: int) -> None:
        """Bring a model to its files' config with so many instances."""
        found = next(m for m in self.control.repository_models() if m.name == model)
        await self.control.apply(found.name, instances=instances, batching=found.batching, nonce="")

    async def instances(self) -> dict[str, int]:
        """Return the instances of every model that serves."""
        loaded = await self.control.loaded_models()
        return {model.name: model.instances for model in loaded if model.status is ModelStatus.READY}

    def read_memory(self) -> int:
        """Return the private memory of Triton and its stubs; raises TransientError when it can't be read."""
        reading = self.processes.read().memory_used_bytes
        if reading.value is None:
            raise TransientError(f"the memory of Triton can't be read: {reading.reason}")
        return int(reading.value)

    async def measure_memory(self) -> tuple[int, int]:
        """Return the median of repeated readings and their spread, largest minus smallest."""
        readings = []
        for _ in range(READINGS):
            readings.append(await asyncio.to_thread(self.read_memory))
            await asyncio.sleep(READING_INTERVAL_S)
        return int(median(readings)), max(readings) - min(readings)

    async def is_as_planned(self, plan: Mapping[str, int]) -> bool:
        """Return whether Triton runs exactly the plan's instances, and at least as many stubs live.

        There may be more: Triton 2.51 does not always end the living stubs of a version whose other stub was killed.
        """
        try:
            if await self.instances() != dict(plan):
                return False
            live = (await asyncio.to_thread(self.processes.read)).live_instances
        except SlimError:
            return False
        return live is not None and all(live.get(model, 0) >= count for model, count in plan.items())

    def count_stubs(self) -> int:
        """Return how many stubs live, those of an old version that is leaving included; a zombie has no memory."""
        return sum(read_identity(pid) is not None for pid in self.server.stub_pids())

    async def wait_settled(self, stubs: int, *, timeout_s: float) -> bool:
        """Return whether so many stubs live, after waiting for those of old versions to leave."""
        ends_s = time.monotonic() + timeout_s
        while await asyncio.to_thread(self.count_stubs) != stubs:
            if time.monotonic() > ends_s:
                return False
            await asyncio.sleep(POLL_S)
        return True

    async def wait_for_plan(self, plan: Mapping[str, int], *, timeout_s: float) -> float | None:
        """Return how long it took until Triton ran the plan; None when it did not in time."""
        began_s = time.monotonic()
        while not await self.is_as_planned(plan):
            if time.monotonic() - began_s > timeout_s:
                return None
            await asyncio.sleep(POLL_S)
        return time.monotonic() - began_s


@asynccontextmanager
async def open_testbed(repository: Path, folder: Path, *, models: tuple[str, ...] = ()) -> AsyncIterator[Testbed]:
    """Run a Triton with these models loaded."""
    grpc, http, metrics, controller = choose_free_ports(4)
    testbed = Testbed(repository.resolve(), folder, (grpc, http, metrics, controller))
    await testbed.start(models)
    try:
        yield testbed
    finally:
        await testbed.stop()
