"""Two gateways before two real Tritons, each of which can be restarted, or replaced, under load."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestrator.config import FleetSettings, GatewaySettings, PeerSettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ServerUnavailableError
from orchestrator.processes.child import ChildProcess

FAMILY = "fashion"
_SCRIPT = "from orchestrator.cli import main; main()"
_PEER_HOSTS = ("127.0.0.2", "127.0.0.3")
"""Workers listen for peers at ports side by side, which are free where nobody else listens."""
_STOP_S = 40.0
_ANSWERS_S = 60.0
_COUNTED = f'slim_gateway_requests_total{{model="{FAMILY}",outcome="ok"'


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a gateway answers, ``host:port`` each."""

    grpc: str
    http: str
    metrics: str


class GatewayFixture:
    """A gateway that may be another process after a while.

    Attributes:
        addresses: Where it answers, whichever process it is.
    """

    def __init__(self, addresses: Addresses, fleet: Path, environment: dict[str, str]) -> None:
        self.addresses = addresses
        self._fleet = fleet
        self._environment = environment
        self._process = self._make()

    async def start(self) -> None:
        """Return when it serves."""
        await self._process.start()

    async def stop(self) -> None:
        """Send SIGTERM, and return when it has ended."""
        await self._process.stop()

    async def restart(self) -> None:
        """End it and start it again."""
        await self.stop()
        self._process = self._make()
        await self.start()

    async def replace(self) -> None:
        """Start another one that takes its sockets over; return when the first one has ended."""
        old, self._process = self._process, self._make("--replace")
        await self.start()
        await old.wait_exited()

    async def wait_answers(self) -> None:
        """Return when requests reach it: who restarts gateways in turn waits for that."""
        for _ in range(int(_ANSWERS_S / 0.1)):
            if _COUNTED in await asyncio.to_thread(self._read_metrics):
                return
            await asyncio.sleep(0.1)
        raise ServerUnavailableError(f"no request reached the gateway on {self.addresses.grpc} in {_ANSWERS_S:g} s")

    def _read_metrics(self) -> str:
        with urllib.request.urlopen(f"http://{self.addresses.metrics}/metrics", timeout=10) as page:
            text: str = page.read().decode()
            return text

    def _make(self, *more: str) -> ChildProcess:
        return ChildProcess(
            f"gateway on {self.addresses.grpc}",
            (sys.executable, "-c", _SCRIPT, "gateway", "--fleet", str(self._fleet), *more),
            stop_s=_STOP_S,
            environment=self._environment,
            log_path=self._fleet.with_suffix(".log"),
            says_ready=True,
        )


@asynccontextmanager
async def open_testbed(
    repository: Path, folder: Path, settings: Mapping[str, float], *, shares: bool
) -> AsyncIterator[Sequence[GatewayFixture]]:
    """Run two Tritons, and two gateways with some settings of their section, which serve; files go to a folder.

    With ``shares`` the gateways are peers.
    """
    async with AsyncExitStack() as stack:
        servers = []
        for name in ("a", "b"):
            server = EmbeddedServer(repository, EmbeddedOptions(exit_timeout_s=2))
            await stack.enter_async_context(server)
            servers.append(ServerSettings(name=name, grpc=server.grpc_address))
        # Gateways hand their sockets over in a folder with a short name: that of a Unix socket is bounded.
        runtime = stack.enter_context(tempfile.TemporaryDirectory(prefix="restarts-"))
        environment = {**os.environ, "XDG_RUNTIME_DIR": runtime}
        gateways = []
        ports = choose_free_ports(6)
        listens = [f"{host}:{port}" for host, port in zip(_PEER_HOSTS, choose_free_ports(2), strict=True)]
        for first, listen in zip((0, 3), listens, strict=True):
            addresses = Addresses(*(f"{LOOPBACK}:{port}" for port in ports[first : first + 3]))
            fleet = folder / f"fleet-{first}.yaml"
            peers = PeerSettings(listen=listen, addresses=tuple(listens), name=f"gateway-{first}") if shares else None
            gateway_settings = GatewaySettings.model_validate({**asdict(addresses), **settings, "peers": peers})
            fleet.write_text(render_fleet(FleetSettings(servers=tuple(servers), gateway=gateway_settings)))
            gateway = GatewayFixture(addresses, fleet, environment)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            gateways.append(gateway)
        yield gateways
