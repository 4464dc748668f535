"""``slimsched up``: on one machine embedded Tritons, a controller for each, and the gateway; one Ctrl-C ends all."""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import socket
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import click
from rich.console import Console
from rich.live import Live
from rich.table import Table

from orchestrator.background import BackgroundTasks
from orchestrator.cli.logs import logging_through
from orchestrator.cli.options import FOLDER, PATH, SHIPPED_PATH
from orchestrator.cli.signals import watch_for_stop
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, load_fleet
from orchestrator.config.environment import without_overrides
from orchestrator.config.fleet import read_fleet
from orchestrator.embedded.emulation import parse_slowdowns
from orchestrator.embedded.first_request import describe_request
from orchestrator.embedded.local_stack import LocalStack, complete_fleet, default_fleet, options_of
from orchestrator.embedded.local_state import command_down, default_state_directory, prepare_directory
from orchestrator.embedded.server import EmbeddedServer
from orchestrator.embedded.wheel import check_installation
from orchestrator.errors import ConfigError, SlimError
from orchestrator.files import Stamp, open_private, stamp_of
from orchestrator.gateway.file_watch import PERIOD_S, WatchedFiles
from orchestrator.gateway.listening import bind_address
from orchestrator.processes.child import ChildProcess, is_listening
from orchestrator.processes.managed import ManagedProcess, State
from orchestrator.router import compile_ahead
from orchestrator.triton.client import TritonClient
from orchestrator.triton.families import read_shapes
from orchestrator.triton.protocol_key import read_protocol_key
from orchestrator.triton.trial_items import read_fills

log = logging.getLogger(__name__)

_ASK_TIMEOUT = aiohttp.ClientTimeout(total=5.0)
_CONTROLLER_STOP_S = 15.0
_GATEWAY_STOP_MARGIN_S = 10.0
_REFRESH_S = 0.5
_TELL_WAITING_S = 5.0
"""From one line that says what is waited for to the next."""
_REPOSITORY = Path("model_repository")
_SHOWN_LOGGERS = (
    "orchestrator.cli",
    "orchestrator.embedded.local_stack",
    "orchestrator.embedded.server",
    "orchestrator.gateway.file_watch",
    "orchestrator.processes",
    "orchestrator.router.dispatch.compilation",
)


@click.command()
@click.option("--fleet", "fleet_path", type=PATH, help="Which servers to run, and all settings.")
@click.option("--servers", type=click.IntRange(min=1), help="How many, without --fleet.  [default: 2]")
@click.option("--slowdown", help="One emulated slow-down factor (>= 1) per server, such as 1,3, without --fleet.")
@click.option(
    "--repository",
    type=SHIPPED_PATH,
    default=_REPOSITORY,
    help="Model repository of servers for which the fleet file names none.",
)
@click.option(
    "--state-dir",
    type=FOLDER,
    default=lambda: default_state_directory() / "up",
    show_default="$XDG_RUNTIME_DIR/slimsched/up, else slimsched-UID/up in the temporary directory",
    help="Where the logs and the fleet file that is in force lie.",
)
def up(fleet_path: Path | None, servers: int | None, slowdown: str | None, repository: Path, state_dir: Path) -> None:
    """Run a whole fleet on this machine: real Tritons, a controller beside each, and the gateway.

    What dies is started again, after pauses that grow when it dies soon. Ctrl-C or SIGTERM lets the gateway answer what
    is in, then takes all down; a second one does not wait. Without --fleet it is two servers over model_repository and
    the gateway at its default addresses. The servers of a fleet file must have loopback addresses. It is looked at once
    a second and followed: servers come, go and are started anew, router and controllers take their settings; the
    gateway section needs a new start. SIGHUP is no sign for that, because a terminal that closes sends it.

    \b
    Example:
      slimsched up
      slimsched up --servers 2 --slowdown 1,3
      slimsched up --fleet fleet.yaml
    """
    if fleet_path is not None and (servers is not None or slowdown is not None):
        raise click.UsageError("--servers and --slowdown describe a fleet, and so does --fleet; give one or the other")
    # From before it is read, because it takes a while until it is followed.
    stamps: tuple[Stamp, ...] = () if fleet_path is None else (stamp_of(fleet_path),)
    if fleet_path is None:
        count = servers or 2
        slowdowns = parse_slowdowns(slowdown, count) if slowdown else (1.0,) * count
        fleet = default_fleet(slowdowns, repository.absolute())
    else:
        fleet = complete_fleet(load_fleet(fleet_path), repository.absolute())
    check_installation()
    prepare_directory(state_dir)
    with open(state_dir / "lock", "w", opener=open_private) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ConfigError(
                f"another 'slimsched up', or a fleet of 'slimsched local up', runs in {state_dir}; end it (the "
                f"latter by '{command_down(state_dir)}') or give another --state-dir"
            ) from None
        console = Console(stderr=True)
        handler = _ConsoleHandler(console)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handler.addFilter(lambda record: record.name.startswith(_SHOWN_LOGGERS))
        with logging_through(handler, logging.INFO):
            asyncio.run(_run(fleet, fleet_path, stamps, repository.absolute(), state_dir, console))


class _ConsoleHandler(logging.Handler):
    """Prints above the table that is shown at the same time."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._console.print(self.format(record), markup=False, highlight=False, soft_wrap=True)
        except Exception:  # a full disk, most likely: who logs goes on, such as with starting again what has died
            self.handleError(record)


async def _run(
    fleet: FleetSettings,
    fleet_path: Path | None,
    stamps: tuple[Stamp, ...],
    repository: Path,
    state_dir: Path,
    console: Console,
) -> None:
    stack = LocalStack(fleet, state_dir / "fleet.yaml", _StackProcesses(state_dir))
    task = asyncio.current_task()
    assert task is not None
    is_stopping = asyncio.Event()

    def stop() -> None:
        is_stopping.set()
        task.cancel()

    watch_for_stop(stop)
    background = BackgroundTasks()
    try:
        try:
            await compile_ahead()  # the gateway would, but where nobody reads what it says
            await stack.start()
            if fleet_path is not None:
                background.start("following the fleet file", lambda: _follow(fleet_path, stamps, repository, stack))
            for line in (*_addresses(fleet), f"logs and fleet file in {state_dir}", "Ctrl-C ends all of it"):
                console.print(line, highlight=False, markup=False, soft_wrap=True)
            background.start("looking for what is served", lambda: _tell_first_request(fleet, console))
            await _show(stack, console)
        except asyncio.CancelledError:
            if not is_stopping.is_set():
                raise
            task.uncancel()
            log.info("stopping: the gateway answers what is in, then all is taken down")
    finally:
        watch_for_stop(stack.kill)
        await background.stop()
        await stack.stop()
    log.info("all is down")


async def _follow(path: Path, stamps: tuple[Stamp, ...], repository: Path, stack: LocalStack) -> None:
    """Have the stack take the fleet file whenever it has changed from what it was with these stamps."""
    changed: list[FleetSettings] = []
    from orchestrator.router.dispatch.deciders import policy_checks  # takes a second to import

    policies = policy_checks()

    def read() -> None:
        fleet, _ = read_fleet(path, os.environ, policies)  # the gateway would keep what it has, and not start anew
        changed.append(stack.complete(fleet, repository))

    files = WatchedFiles("the fleet file", [path], read, stamps=stamps)
    while True:
        await asyncio.sleep(PERIOD_S)
        files.refresh()
        if changed:
            await _take_newest(stack, changed)


async def _take_newest(stack: LocalStack, fleets: list[FleetSettings]) -> None:
    """Have the stack take the newest of some fleets, and forget them; they are kept where it can't write that down."""
    try:
        await stack.take(fleets[-1])
    except OSError as exc:  # a full disk, most likely
        log.error("the fleet file is not taken yet: %s; tried again in %g s", exc, PERIOD_S)
    else:
        fleets.clear()


class _StackProcesses:
    """The processes of a local stack (see ``StackProcesses``), with a log for each in a directory."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._sockets: list[socket.socket] = []

    def triton(self, server: ServerSettings) -> ManagedProcess:
        assert server.repository is not None, "the fleet is complete"
        options = options_of(server, log_path=self._open_log(f"triton-{server.name}"))
        return ManagedProcess(server.name, partial(EmbeddedServer, server.repository, options), address=server.grpc)

    def controller(self, server: ServerSettings) -> ManagedProcess:
        assert server.controller is not None, "the fleet is complete"
        arguments = ("controller", "--server", server.name)
        log_path = self._open_log(f"controller-{server.name}")
        address = server.controller
        more = {"stop_s": _CONTROLLER_STOP_S, "is_ready": partial(is_listening, address)}
        return self._command(f"controller {server.name}", arguments, log_path, address, **more)

    def gateway(self, fleet: FleetSettings) -> ManagedProcess:
        settings = fleet.gateway
        arguments = ["gateway"]
        descriptors = []
        # Kept here: while a gateway that was killed is started again, its clients wait instead of being refused.
        for kind, place in (("grpc", settings.grpc), ("http", settings.http), ("metrics", settings.metrics)):
            for one in () if place is None else bind_address(f"gateway.{kind}", place):
                self._sockets.append(one)
                descriptors.append(one.fileno())
                arguments += ("--sockets", kind, str(one.fileno()))
        stop_s = fleet.gateway.lame_duck_s + fleet.gateway.drain_s + _GATEWAY_STOP_MARGIN_S
        # Something always listens on these, so it has to say itself that it serves.
        more = {"pass_fds": descriptors, "says_ready": True}
        address = settings.grpc or settings.http
        return self._command("gateway", arguments, self._open_log("gateway"), address, stop_s=stop_s, **more)

    def _command(
        self,
        name: str,
        arguments: Sequence[str],
        log_path: Path,
        address: str | None,
        **more: Any,
    ) -> ManagedProcess:
        """Return a ``slimsched`` command, of which a ``ChildProcess`` has to know more."""
        fleet = ("--fleet", str(self._state_dir / "fleet.yaml"))
        environment = without_overrides(os.environ)
        make_run = partial(
            ChildProcess.slimsched, *arguments, *fleet, environment=environment, log_path=log_path, **more
        )
        return ManagedProcess(name, make_run, address=address or "")

    def _open_log(self, name: str) -> Path:
        path = self._state_dir / f"{name}.log"
        path.unlink(missing_ok=True)  # an older one may be readable by others
        open(path, "xb", opener=open_private).close()
        return path


def _addresses(fleet: FleetSettings) -> list[str]:
    gateway = fleet.gateway
    offered = (("gRPC", gateway.grpc), ("HTTP", gateway.http), ("metrics", gateway.metrics))
    return ["the gateway answers on " + ", ".join(f"{what} {address}" for what, address in offered if address)]


async def _tell_first_request(fleet: FleetSettings, console: Console) -> None:
    """Print lines that a newcomer can paste once a family is served, and until then what is waited for."""
    began_s = asked_s = asyncio.get_running_loop().time()
    while not (lines := await _describe_first_request(fleet.gateway)):
        now_s = asyncio.get_running_loop().time()
        if now_s - asked_s >= _TELL_WAITING_S:
            asked_s = now_s
            waiting = await _what_loads(fleet)
            console.print(f"nothing is served after {now_s - began_s:.0f} s: {waiting}", markup=False, soft_wrap=True)
        await asyncio.sleep(_REFRESH_S)
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


async def _what_loads(fleet: FleetSettings) -> str:
    """Return what the Tritons of a fleet load now, or why nothing is served."""
    said = []
    for server in fleet.servers:
        try:
            async with TritonClient(server.grpc, protocol_key=read_protocol_key(server.protocol_key_file)) as triton:
                index = await triton.index()
        except SlimError as exc:
            said.append(f"{server.name} does not answer ({exc})")
            continue
        loading = [entry.name for entry in index if entry.state == "LOADING"]
        failed = [f"{entry.name} failed ({entry.reason})" for entry in index if entry.reason not in ("", "unloaded")]
        said.append(
            f"{server.name} " + (f"loads {', '.join(loading)}" if loading else "; ".join(failed) or "loads nothing")
        )
    return ", ".join(said)


async def _describe_first_request(settings: GatewaySettings) -> list[str]:
    """Return lines that a newcomer can paste, made from what the gateway says it serves; none while it serves nothing.

    One line says why there are none where it can't be asked over plain HTTP without credentials.
    """
    if settings.http is None or settings.tls is not None:
        what = "offers no HTTP" if settings.http is None else "speaks TLS"
        return [f"the gateway {what}, so there is no line to try it by; see docs/gateway.md"]
    url = f"http://{settings.http}"
    try:
        async with aiohttp.ClientSession(timeout=_ASK_TIMEOUT, raise_for_status=True) as session:
            return await _ask_first_model(session, url)
    except aiohttp.ClientResponseError as exc:
        return ["the gateway wants a token, see docs/gateway.md"] if exc.status in (401, 403) else []
    except (aiohttp.ClientError, TimeoutError):
        return []


async def _ask_first_model(session: aiohttp.ClientSession, url: str) -> list[str]:
    """Return how the first model that is ready is asked; nothing while none is."""
    async with session.post(f"{url}/v2/repository/index") as answer:
        ready = [entry["name"] for entry in await answer.json(content_type=None) if entry["state"] == "READY"]
    if not ready:
        return []
    async with session.get(f"{url}/v2/models/{ready[0]}") as answer:
        model = await answer.json(content_type=None)
    async with session.get(f"{url}/v2/models/{ready[0]}/config") as answer:
        config = await answer.json(content_type=None)
    said = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
    try:
        item = read_shapes(said.get("slim.item", "{}")), read_fills(said.get("slim.fill", "{}"))
    except ValueError:  # no router takes that model, and what reads its config has told why
        item = {}, {}
    return describe_request(url, model, *item)


async def _show(stack: LocalStack, console: Console) -> None:
    """Show where every process stands, until cancelled; not where nobody looks."""
    if not console.is_terminal:
        await asyncio.Event().wait()
    with Live(_table(stack.processes), console=console, refresh_per_second=1 / _REFRESH_S) as live:
        while True:
            await asyncio.sleep(_REFRESH_S)
            live.update(_table(stack.processes))


def _table(processes: Sequence[ManagedProcess]) -> Table:
    table = Table("part", "state", "address", "process", "restarts")
    for process in processes:
        state = f"[{'green' if process.state is State.RUNNING else 'yellow'}]{process.state}[/]"
        table.add_row(process.name, state, process.address, str(process.pid or ""), str(process.restarts or ""))
    return table
