"""``slimsched gateway``: Triton's protocol in front of the fleet, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from orchestrator.background import end_tasks
from orchestrator.cli.logs import logging_to_stderr
from orchestrator.cli.options import LOG_LEVEL, fleet_option, log_format_option, until_stdin_ends_option
from orchestrator.cli.serving import gateway_worker
from orchestrator.cli.signals import SighupHandler, caught_sighup, watch_for_stop
from orchestrator.config import FleetSettings, GatewaySettings, load_fleet
from orchestrator.files import Stamp, stamp_of
from orchestrator.gateway import (
    AdminEndpoint,
    FollowedFleet,
    Gateway,
    Sockets,
    Succession,
    Supervisor,
    WorkerLaunch,
    freeze_heap,
    go_first,
    inherited_sockets,
    new_event_loop,
    open_gateway,
)
from orchestrator.processes.readiness import Announcement
from orchestrator.router import compile_ahead, load_ahead

log = logging.getLogger(__name__)

_Opening = Callable[[Sockets, AdminEndpoint | None, asyncio.Event], AbstractAsyncContextManager[Gateway | Supervisor]]

_WORKER = f"""
import gc, sys
gc.disable()
from {gateway_worker.__name__} import main
sys.exit(main(*map(int, sys.argv[1:])))
"""
"""As with commands, nothing looks for garbage in what is imported; ``freeze_heap`` lets it begin."""


@click.command()
@fleet_option
@click.option("--log-level", type=LOG_LEVEL, default="info", help="Of the lines on stderr.")
@log_format_option
@click.option(
    "--replace",
    is_flag=True,
    help="Take over the addresses of the gateway that answers there, when there is one, and let it end.",
)
@click.option("--sockets", "descriptors", multiple=True, type=(str, int), hidden=True)
@until_stdin_ends_option
def gateway(
    fleet_path: Path,
    log_level: str,
    log_format: str,
    replace: bool,
    descriptors: Sequence[tuple[str, int]],
    until_stdin_ends: bool,
) -> None:
    """Answer Triton clients over gRPC and HTTP, every request routed over the fleet.

    The family is one model; other models are passed on to a server that has them. Without a server it is not ready,
    and waits for one; /livez and /readyz at the `metrics` address tell. Runs until SIGTERM or SIGINT, then
    sends clients elsewhere, answers what they have asked, and ends with status 0; a second signal ends it at once.
    SIGHUP reads the fleet file, tokens and certificates again, as happens anyway within a second of a change. Servers
    come and go so without a request being lost; the `gateway` section, with addresses and limits, needs a new start.

    \b
    Example:
      slimsched local up --servers 2 --fleet fleet.yaml
      slimsched gateway --fleet fleet.yaml
      slimsched gateway --fleet fleet.yaml --replace
      curl -s localhost:8080/v2/health/ready -o /dev/null -w '%{http_code}\\n'
    """
    stamps = (stamp_of(fleet_path),)  # it takes a while until the file is followed
    fleet = load_fleet(fleet_path)
    _raise_descriptor_limit()
    announcement = Announcement(os.environ)
    succession = Succession(fleet.gateway, inherited_sockets(descriptors, os.environ), replaces=replace)
    opening: _Opening
    if fleet.gateway.workers == 1:
        opening, loop_factory = partial(_open_alone, fleet, fleet_path, stamps, succession), new_event_loop
    else:
        opening = partial(_open_workers, fleet, fleet_path, stamps, (log_level, log_format), succession)
        loop_factory = asyncio.new_event_loop
    with (
        caught_sighup() as sighup,
        logging_to_stderr(log_level, log_format),
        asyncio.Runner(loop_factory=loop_factory) as runner,
    ):
        runner.run(_serve(opening, succession, announcement, fleet.gateway, sighup, until_stdin_ends=until_stdin_ends))


def _raise_descriptor_limit() -> None:
    """Allow as many files as the system does: a thousand connections are more than most shells' soft limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _serve(
    opening: _Opening,
    succession: Succession,
    announcement: Announcement,
    settings: GatewaySettings,
    sighup: SighupHandler,
    *,
    until_stdin_ends: bool,
) -> None:
    stop = asyncio.Event()
    watch_for_stop(stop.set, until_stdin_ends=until_stdin_ends)
    sockets = succession.take()
    async with _open_admin(settings, sockets, is_takeover=succession.is_takeover) as admin:
        if not await _is_compiled(stop):  # here once, and not in each worker
            return
        async with opening(sockets, admin, stop) as opened:
            await _serve_opened(opened, stop, succession, announcement, settings, sighup)
    log.info("the gateway has ended")


async def _serve_opened(
    opened: Gateway | Supervisor,
    stop: asyncio.Event,
    succession: Succession,
    announcement: Announcement,
    settings: GatewaySettings,
    sighup: SighupHandler,
) -> None:
    for what, address in opened.addresses:
        log.info("%s on %s", what, address)
    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, sighup.come)
    sighup.take_over(opened.reload)
    announcement.say_ready()
    async with succession.offering(opened.sockets, opened.say_unready, stop):
        await stop.wait()
    if succession.is_replaced and opened.metrics is not None:
        await opened.metrics.stop()  # who asks there now asks after the successor
    most_s = settings.lame_duck_s + settings.drain_s
    log.info("stopping: clients are sent elsewhere, what they have asked is answered within %g s", most_s)


@asynccontextmanager
async def _open_admin(
    settings: GatewaySettings, sockets: Sockets, *, is_takeover: bool
) -> AsyncIterator[AdminEndpoint | None]:
    """Answer for health from now on, also while the rest is compiled, or waits; not in place of one that is ready."""
    if settings.metrics is None or is_takeover:
        yield None
        return
    admin = AdminEndpoint(settings.metrics, sockets.get("metrics"))
    try:
        await admin.start()
        yield admin
    finally:
        await admin.stop()


@asynccontextmanager
async def _open_alone(
    fleet: FleetSettings,
    path: Path,
    stamps: tuple[Stamp, ...],
    succession: Succession,
    sockets: Sockets,
    admin: AdminEndpoint | None,
    _stop: asyncio.Event,
) -> AsyncIterator[Gateway]:
    """Answer in this process."""
    await load_ahead()
    async with open_gateway(
        fleet, path, sockets=sockets, admin=admin, requires_server=succession.is_takeover, stamps=stamps
    ) as opened:
        freeze_heap()
        go_first(fleet.gateway.nice)
        yield opened


@asynccontextmanager
async def _open_workers(
    settings: FleetSettings,
    path: Path,
    stamps: tuple[Stamp, ...],
    logging_as: tuple[str, str],
    succession: Succession,
    sockets: Sockets,
    admin: AdminEndpoint | None,
    stop: asyncio.Event,
) -> AsyncIterator[Supervisor]:
    """Answer in several processes, which a second signal to stop ends at once, also while they start."""
    fleet = FollowedFleet(settings, path.absolute(), stamps=stamps)
    await fleet.resolve()
    directory = TemporaryDirectory(prefix="slimsched-", ignore_cleanup_errors=True)
    launch = WorkerLaunch(
        command=lambda channel, handoff: (sys.executable, "-c", _WORKER, str(channel), str(handoff)),
        environment={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        init_message=lambda number: {
            "number": number,
            "logging_as": logging_as,
            "directory": directory.name,
            "fleet": fleet.settings.model_dump_json(),
            "fleet_path": str(fleet.path),
            "fleet_stamps": fleet.stamps,
            "requires_server": succession.is_takeover,
        },
    )
    with directory:
        supervisor = Supervisor(fleet, launch, sockets, admin)
        watch_for_stop(stop.set, then=supervisor.kill, is_stopping=stop.is_set)  # they would go on until they drained
        async with supervisor:
            yield supervisor


async def _is_compiled(stop: asyncio.Event) -> bool:
    """Return whether what decides was compiled before it was time to stop."""
    compiling, stopping = asyncio.create_task(compile_ahead()), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((compiling, stopping), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await end_tasks(compiling, stopping)
    if stop.is_set():
        log.info("the gateway has ended before it began")
        return False
    compiling.result()  # raises what went wrong
    return True
