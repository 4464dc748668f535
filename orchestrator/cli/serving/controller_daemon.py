"""A server's controller as a daemon, for a single run, or dry: signals in, what was done out."""

from __future__ import annotations

import asyncio
import logging
import signal
from functools import partial

import click
from rich.console import Console

from orchestrator.cli.signals import STOP_SIGNALS, SighupHandler, watch_stdin
from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.controller.daemon import open_daemon
from orchestrator.controller.resolve import Load
from orchestrator.controller.status.document import describe_status
from orchestrator.controller.status.view import render_done, render_plan
from orchestrator.errors import ServerUnavailableError

log = logging.getLogger(__name__)


async def serve(
    fleet: FleetSettings,
    server: ServerSettings,
    load: Load,
    sighup: SighupHandler,
    *,
    until_stdin_ends: bool = False,
) -> None:
    """Look after a server until SIGTERM or SIGINT, or the end of standard input; load it again after a SIGHUP.

    Raises SlimError when the server's settings can't be kept to.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stop.set)
    if until_stdin_ends:
        watch_stdin(stop.set)
    async with open_daemon(fleet, server, is_daemon=True) as daemon:
        settings_file = daemon.settings_file(load)
        loop.add_signal_handler(signal.SIGHUP, sighup.come)
        with daemon.endpoint():
            sighup.take_over(partial(daemon.reload, settings_file))
            await daemon.check()
            log.info("controller of %s runs, on %s", server.name, server.controller or "no address")
            await daemon.controller.run(stop)
    log.info("controller of %s has ended", server.name)


async def show_plan(fleet: FleetSettings, server: ServerSettings) -> None:
    """Say what would be done now; raises SlimError when settings can't be kept to, or Triton can't be observed."""
    async with open_daemon(fleet, server, is_dry=True) as daemon:
        report = await daemon.look_twice()
    if report.seen.snapshot is None:
        raise ServerUnavailableError(report.seen.trouble or "Triton can't be observed")
    click.echo(f"{server.name}, seen for {fleet.controller.period_s:g} s; nothing is changed")
    Console().print(render_plan(describe_status(report)))


async def act_once(fleet: FleetSettings, server: ServerSettings) -> None:
    """Do what is to be done now, and say what was done; ends with status 1 when something failed.

    Raises SlimError when the settings can't be kept to, or Triton can't be observed.
    """
    async with open_daemon(fleet, server) as daemon:
        with daemon.endpoint():
            report = await daemon.look_twice()
            await daemon.controller.close(wait_s=fleet.controller.action_timeout_s)
    click.echo(f"{server.name}, seen for {fleet.controller.period_s:g} s")
    Console().print(render_done(describe_status(report)))
    if report.has_failed:
        raise click.exceptions.Exit(1)
