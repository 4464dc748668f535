"""Where clients are sent: a Triton, a gateway before it, and one with TLS, a token and two workers."""

from __future__ import annotations

import hashlib
import secrets
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.programs import run_gateway
from orchestrator.config import (
    AuthSettings,
    FleetSettings,
    GatewaySettings,
    ServerSettings,
    TlsSettings,
    render_fleet,
)
from orchestrator.config.tenants import DIGEST_PREFIX
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import ConfigError

WORKERS = 2
_CERTIFICATE = (
    *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"),
    *("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    *("-keyout", "server.key", "-out", "server.pem"),
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a client is sent.

    Attributes:
        grpc: Where it speaks gRPC, ``host:port``.
        http: Where it speaks HTTP, ``host:port``.
        authority: The authority of its certificate; None: it speaks plain.
        token: The token that it asks for; empty: none.
    """

    grpc: str
    http: str
    authority: Path | None = None
    token: str = ""


@dataclass(frozen=True, slots=True)
class Testbed:
    """What runs: a Triton of the fleet, and the gateways before it."""

    triton: Endpoint
    plain: Endpoint
    secured: Endpoint


@asynccontextmanager
async def open_testbed(repository: Path, folder: Path) -> AsyncIterator[Testbed]:
    """Run two Tritons and two gateways.

    Raises ConfigError when something is not installed, ServerUnavailableError when a gateway does not listen in time.
    """
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(2):
            server = EmbeddedServer(repository.resolve(), EmbeddedOptions())
            servers.append(await stack.enter_async_context(server))
        fleet = tuple(ServerSettings(name=f"s{n}", grpc=server.grpc_address) for n, server in enumerate(servers))
        plain_grpc, plain_http, grpc, http = choose_free_ports(4)
        plain = _settings(plain_grpc, plain_http)
        token, secured = _secure(folder, _settings(grpc, http))
        for name, settings, port in (("plain", plain, plain_grpc), ("secured", secured, grpc)):
            own = folder / name
            own.mkdir()
            path = own / "fleet.yaml"
            path.write_text(render_fleet(FleetSettings(servers=fleet, gateway=settings)))
            await stack.enter_async_context(run_gateway(path, port))
        yield Testbed(
            Endpoint(servers[0].grpc_address, servers[0].http_address),
            Endpoint(f"{LOOPBACK}:{plain_grpc}", f"{LOOPBACK}:{plain_http}"),
            Endpoint(f"localhost:{grpc}", f"localhost:{http}", folder / "server.pem", token),
        )


def _settings(grpc: int, http: int) -> GatewaySettings:
    return GatewaySettings(grpc=f"{LOOPBACK}:{grpc}", http=f"{LOOPBACK}:{http}", metrics=None)


def _secure(folder: Path, settings: GatewaySettings) -> tuple[str, GatewaySettings]:
    try:
        subprocess.run(_CERTIFICATE, cwd=folder, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as exc:
        raise ConfigError(f"can't make a certificate with openssl ({exc}); install openssl") from exc
    token = secrets.token_urlsafe(32)
    digest = DIGEST_PREFIX + hashlib.sha256(token.encode()).hexdigest()
    tokens = folder / "tokens.yaml"
    tokens.write_text(f"tenants:\n  - name: clients\n    tokens: ['{digest}']\n")
    tls = TlsSettings(certificate=folder / "server.pem", key=folder / "server.key")
    more = {"tls": tls, "auth": AuthSettings(tokens_file=tokens), "workers": WORKERS}
    return token, settings.model_copy(update=more)
