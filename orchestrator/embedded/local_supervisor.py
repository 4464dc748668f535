"""The background process of a local fleet: it holds the embedded servers until a signal.

`local_fleet.start_fleet` runs this file as `python -m`. It takes the lock and forks itself into the background. The
background process starts all servers at once, then writes fleet.yaml and state.json and says so on the starter's pipe,
or says why one of them failed, when all have been taken down again. Until the starter says on standard input that it
may stay, it belongs to the starter: when standard input just ends, the starter was interrupted or killed, and the fleet
goes too. Later a SIGTERM ends it. When it is killed instead, the servers' guardians notice and end them.
"""

import asyncio
import contextlib
import fcntl
import logging
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TextIO

from pydantic import TypeAdapter

from orchestrator.config import FleetSettings, ServerSettings, render_fleet
from orchestrator.embedded import local_state
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.local_state import LocalServer
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import EmbeddedServerError, SlimError
from orchestrator.files import write_atomically
from orchestrator.processes.process_table import read_identity

ALREADY_RUNNING = 3
READY = "ready"
MAY_STAY = b"stay\n"
logger = logging.getLogger("orchestrator.embedded.local_supervisor")


@dataclass(frozen=True, slots=True)
class FleetRequest:
    """What fleet to start; the two tuples have one entry a server.

    Attributes:
        slowdowns: Emulated slow-downs, >= 1.
        cpu_sets: CPUs each is bound to; None for no binding.
        start_timeout_s: Time each has to become ready.
    """

    repository: Path
    slowdowns: tuple[float, ...]
    cpu_sets: tuple[frozenset[int] | None, ...]
    start_timeout_s: float

    def make_servers(self, directory: Path) -> dict[str, EmbeddedServer]:
        """Return the servers by name, not started, with their logs in a directory."""
        servers = {}
        for number, (cpus, slowdown) in enumerate(zip(self.cpu_sets, self.slowdowns, strict=True)):
            log_path = directory / f"local-{number}.log"
            options = EmbeddedOptions(
                cpus=cpus, slowdown=slowdown, log_path=log_path, start_timeout_s=self.start_timeout_s
            )
            servers[f"local-{number}"] = EmbeddedServer(self.repository, options)
        return servers


REQUEST = TypeAdapter(FleetRequest)
"""From and to the JSON of a command line."""


def render_settings(servers: tuple[LocalServer, ...]) -> str:
    """Return the fleet.yaml of running servers; an emulated one carries its slow-down as a label."""
    settings = (
        ServerSettings(
            name=server.name,
            grpc=server.grpc,
            metrics=server.metrics,
            device="cpu",
            emulated_slowdown=server.slowdown if server.slowdown > 1.0 else None,
            repository=Path(server.repository),
            controller=server.controller,
        )
        for server in servers
    )
    return f"{local_state.FLEET_MARK}\n{render_fleet(FleetSettings(servers=tuple(settings)))}"


async def supervise(request: FleetRequest, directory: Path, on_ready: Callable[[], None]) -> None:
    """Run the fleet until cancelled; no server is left when this returns or raises.

    ``on_ready`` is called when all servers are ready and recorded in the state directory.

    Raises:
        SlimError: A server could not be started; the message names it.
    """
    servers = request.make_servers(directory)
    try:
        try:
            async with asyncio.TaskGroup() as starting:
                for name, server in servers.items():
                    starting.create_task(_start(name, server))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        ports = choose_free_ports(len(servers))
        described = tuple(map(_describe, servers, servers.values(), ports))
        write_atomically(directory / local_state.FLEET_FILE, render_settings(described))
        local_state.write_servers(directory, described)
        on_ready()
        async with asyncio.TaskGroup() as watching:
            for name, server in servers.items():
                watching.create_task(_watch(name, server))
        await asyncio.Event().wait()  # all have died; stay, so that `local status` can show it
    finally:
        await asyncio.gather(*(server.stop() for server in servers.values()))


async def _start(name: str, server: EmbeddedServer) -> None:
    try:
        await server.start()
    except EmbeddedServerError as exc:
        raise EmbeddedServerError(f"{name}: {exc}") from exc


async def _watch(name: str, server: EmbeddedServer) -> None:
    logger.error("%s %s", name, await server.wait_exited())


def _describe(name: str, server: EmbeddedServer, controller_port: int) -> LocalServer:
    identity, options = read_identity(server.pid), server.options
    if identity is None:
        raise EmbeddedServerError(f"{name}: tritonserver died as soon as it was ready; see {server.log_path}")
    return LocalServer(
        name=name,
        grpc=server.grpc_address,
        http=server.http_address,
        metrics=server.metrics_url,
        controller=f"{LOOPBACK}:{controller_port}",
        repository=str(server.repository),
        process=identity,
        slowdown=options.slowdown,
        cpus=None if options.cpus is None else tuple(sorted(options.cpus)),
        log=str(server.log_path),
    )


async def _run(request: FleetRequest, directory: Path, report: TextIO) -> None:
    loop, starter = asyncio.get_running_loop(), sys.stdin.fileno()
    task = asyncio.create_task(supervise(request, directory, lambda: print(READY, file=report, flush=True)))

    def stop() -> None:
        # Once is enough: a second signal must not interrupt the taking down of the servers.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        task.cancel()

    def hear_starter() -> None:
        loop.remove_reader(starter)
        if os.read(starter, len(MAY_STAY)) != MAY_STAY:
            stop()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, stop)
    loop.add_reader(starter, hear_starter)
    with contextlib.suppress(asyncio.CancelledError):
        await task


def _fork_into_background(directory: Path) -> TextIO:
    """Return, in the background process only, the pipe to the starter."""
    if os.fork():
        os._exit(0)
    report = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    log = os.open(directory / local_state.SUPERVISOR_LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
    os.dup2(log, sys.stdout.fileno())
    os.dup2(log, sys.stderr.fileno())
    return report


def main(directory: Path, request: FleetRequest) -> NoReturn:
    """Run a fleet in the background."""
    lock = os.open(directory / local_state.LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held until this process is gone, whatever ends it
    except OSError:
        sys.exit(ALREADY_RUNNING)
    local_state.remove_state(directory)
    report = _fork_into_background(directory)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    identity = read_identity(os.getpid())
    assert identity is not None
    local_state.write_supervisor(directory, identity)
    failure: SlimError | None = None
    try:
        asyncio.run(_run(request, directory, report))
    except SlimError as exc:
        failure = exc
    local_state.remove_state(directory)
    if failure is not None:
        print(" ".join(str(failure).split()), file=report, flush=True)
    sys.exit(failure is not None)


if __name__ == "__main__":
    main(Path(sys.argv[1]), REQUEST.validate_json(sys.argv[2]))
