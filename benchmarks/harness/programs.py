"""Programs of this environment as the processes they are: Envoy, ``slimsched gateway``, and clients of our own."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from orchestrator.errors import ConfigError, ServerUnavailableError

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 20.0
_TYPE = "type.googleapis.com/envoy.extensions"
_HTTP2: dict[str, Any] = {"explicit_http_config": {"http2_protocol_options": {}}}
_UPSTREAM_HTTP2 = {
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": f"{_TYPE}.upstreams.http.v3.HttpProtocolOptions",
        **_HTTP2,
    }
}


def render_envoy(port: int, servers: Sequence[tuple[str, int]], balancing: str = "LEAST_REQUEST") -> dict[str, Any]:
    """Return Envoy's configuration: gRPC on ``port``, spread over the servers by one of Envoy's ``lb_policy``."""
    endpoints = [
        {"endpoint": {"address": {"socket_address": {"address": host, "port_value": server_port}}}}
        for host, server_port in servers
    ]
    cluster = {
        "name": "triton",
        "type": "STATIC",
        "lb_policy": balancing,
        "typed_extension_protocol_options": _UPSTREAM_HTTP2,
        "load_assignment": {"cluster_name": "triton", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    route = {"match": {"prefix": "/"}, "route": {"cluster": "triton", "timeout": "0s"}}
    connections = {
        "@type": f"{_TYPE}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "grpc",
        "codec_type": "HTTP2",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": f"{_TYPE}.filters.http.router.v3.Router"},
            }
        ],
    }
    listener = {
        "name": "grpc",
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [
            {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": connections}]}
        ],
    }
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


@asynccontextmanager
async def run_envoy(
    port: int, servers: Sequence[tuple[str, int]], folder: Path, balancing: str = "LEAST_REQUEST"
) -> AsyncIterator[int]:
    """Run Envoy with one worker and yield its process id; ``balancing`` as of ``render_envoy``.

    Raises ConfigError when it is not installed, ServerUnavailableError when it does not listen in time.
    """
    config = folder / "envoy.json"
    config.write_text(json.dumps(render_envoy(port, servers, balancing)))
    command = ["envoy", "-c", str(config), "--concurrency", "1", "--log-level", "warning", "--use-dynamic-base-id"]
    async with _running(command, port, folder / "envoy.log") as pid:
        yield pid


@asynccontextmanager
async def run_gateway(fleet: Path, port: int, *options: str) -> AsyncIterator[int]:
    """Run ``slimsched gateway`` and yield its process id; raises as ``run_envoy``."""
    command = ["slimsched", "gateway", "--fleet", str(fleet), *options]
    async with _running(command, port, fleet.with_name("gateway.log")) as pid:
        yield pid


@asynccontextmanager
async def run_controller(fleet: Path, server: str, port: int) -> AsyncIterator[int]:
    """Run ``slimsched controller`` for one server of a fleet and yield its process id; raises as ``run_envoy``."""
    command = ["slimsched", "controller", "--config", str(fleet), "--server", server]
    async with _running(command, port, fleet.with_name(f"controller-{server}.log")) as pid:
        yield pid


async def run_slimsched(*command: str, log: Path) -> None:
    """Run a command of ours to its end, its output in a file.

    Raises:
        ServerUnavailableError: with its last words when it fails.
    """
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(find_program("slimsched")), *command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if status:
        raise ServerUnavailableError(f"slimsched {command[0]} ended with {status}: {last_lines(log)}")


def find_program(name: str) -> Path:
    """Return a program of this Python's environment; raises ConfigError when it is not installed."""
    program = Path(sys.executable).with_name(name)
    if not program.exists():
        raise ConfigError(f"no {name} beside {sys.executable}; install the package into it, with the extra 'bench'")
    return program


@asynccontextmanager
async def run_python(module: str, *arguments: str, log: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run ``python -m module``, its output piped and its errors appended to a file; it is gone at the block's end."""
    with log.open("ab") as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=2**28,
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def last_lines(log: Path, count: int = 5) -> str:
    """Return the end of a log in one line."""
    return " | ".join(log.read_text(errors="replace").splitlines()[-count:]) or "its log is empty"


@asynccontextmanager
async def _running(command: Sequence[str], port: int, log: Path) -> AsyncIterator[int]:
    program = find_program(command[0])
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            str(program), *command[1:], stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
    try:
        await _wait_listening(process, port, log)
        yield process.pid
    finally:
        if process.returncode is None:
            process.terminate()
            try:
                async with asyncio.timeout(STOP_TIMEOUT_S):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()


async def _wait_listening(process: asyncio.subprocess.Process, port: int, log: Path) -> None:
    ends_s = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < ends_s and process.returncode is None:
        try:
            await asyncio.to_thread(lambda: socket.create_connection(("127.0.0.1", port), 1.0).close())
        except OSError:
            await asyncio.sleep(0.1)
        else:
            return
    raise ServerUnavailableError(f"nothing listens on port {port} after {START_TIMEOUT_S:g} s: {last_lines(log)}")
