"""Two real Tritons with repositories of their own, each at an address that lasts, and a gateway in front of them.

Both play slower machines (the labelled emulation of the embedded backend, which sleeps), so that two cores hold both,
the gateway and the clients, and the Tritons are what is scarce.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness.programs import run_gateway
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports

FAMILY = "fashion"
NAMES = ("a", "b")


@dataclass(slots=True)
class ServerFixture:
    """One Triton, which may be gone, and where it is to be found.

    Attributes:
        name: The server's name in the fleet.
        repository: The repository that it serves, its own.
        ports: Ports of gRPC, HTTP and metrics.
        slowdown: The emulated slow-down.
        server: The process, another one after a restart.
    """

    name: str
    repository: Path
    ports: tuple[int, int, int]
    slowdown: float
    server: EmbeddedServer = field(init=False)

    @property
    def address(self) -> str:
        """Of its gRPC."""
        return f"{LOOPBACK}:{self.ports[0]}"

    async def start(self) -> None:
        """Run it with all its models."""
        grpc, http, metrics = self.ports
        options = EmbeddedOptions(
            grpc_port=grpc, http_port=http, metrics_port=metrics, slowdown=self.slowdown, exit_timeout_s=2
        )
        self.server = EmbeddedServer(self.repository, options)
        await self.server.__aenter__()

    async def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.server.is_running:
            self.signal(signal.SIGCONT)
        await self.server.stop()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to Triton and its stubs.

        Stubs first: a Triton 2.51 that goes on before them finds that it has waited too long for their shared memory,
        and dies of it (SIGSEGV in its Python backend).
        """
        for pid in (*self.server.stub_pids(), self.server.pid):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue


@dataclass(frozen=True, slots=True)
class Testbed:
    """What runs.

    Attributes:
        folder: A folder for files of the run.
        servers: Both Tritons.
        grpc: The gateway's gRPC, ``host:port``.
        http: The gateway's HTTP, ``host:port``.
        metrics: The gateway's metrics, ``host:port``.
        gateway_pid: The process id of the gateway, or of its supervisor.
    """

    folder: Path
    servers: Mapping[str, ServerFixture]
    grpc: str
    http: str
    metrics: str
    gateway_pid: int


@asynccontextmanager
async def open_testbed(
    repository: Path, folder: Path, *, slowdown: float, workers: int = 1, extra_model: str | None = None
) -> AsyncIterator[Testbed]:
    """Run both Tritons, slowed down by emulation, and a gateway with the default settings of its router.

    Both have the family's models and, under the name of ``extra_model``, one of no family. Files go to a folder.
    """
    ports = choose_free_ports(9)
    async with AsyncExitStack() as stack:
        servers = {}
        for number, name in enumerate(NAMES):
            own = folder / f"repository-{name}"
            _copy_models(repository, own, extra_model)
            fixture = ServerFixture(name, own, ports[3 * number : 3 * number + 3], slowdown)  # type: ignore[arg-type]
            await fixture.start()
            stack.push_async_callback(fixture.stop)
            servers[name] = fixture
        grpc, http, metrics = (f"{LOOPBACK}:{port}" for port in ports[6:])
        settings = FleetSettings(
            servers=tuple(
                ServerSettings(name=fixture.name, grpc=fixture.address, emulated_slowdown=slowdown)
                for fixture in servers.values()
            ),
            gateway=GatewaySettings(grpc=grpc, http=http, metrics=metrics, workers=workers),
        )
        fleet = folder / "fleet.yaml"
        fleet.write_text(render_fleet(settings))
        pid = await stack.enter_async_context(run_gateway(fleet, ports[6]))
        yield Testbed(folder, servers, grpc, http, metrics, pid)


def _copy_models(repository: Path, own: Path, extra_model: str | None) -> None:
    models = sorted(repository.glob(f"{FAMILY}_w*"))
    for model in models:
        shutil.copytree(model, own / model.name)
    if extra_model is not None:
        # The same network under another name, without what makes it one of a family.
        shutil.copytree(models[0], own / extra_model)
        config = own / extra_model / "config.pbtxt"
        text = config.read_text().replace(models[0].name, extra_model)
        config.write_text(text.replace('"slim.', '"was.'))
