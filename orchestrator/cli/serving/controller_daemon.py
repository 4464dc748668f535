"""The controller of one server, composed from settings: as a daemon, for a single run, or dry."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from orchestrator.cli.sighup import SighupHandler
from orchestrator.cli.stopping import watch_stdin
from orchestrator.config import ControllerSettings, FleetSettings, ServerSettings
from orchestrator.controller.actuator import LONGEST_SETTLE_S
from orchestrator.controller.loop import Controller
from orchestrator.controller.preflight import BudgetCheck, CheckedControl
from orchestrator.controller.reload import SettingsFile
from orchestrator.controller.report import StepReport
from orchestrator.controller.resolve import check_budget, resolve_limits
from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.controller.status.render import describe_status
from orchestrator.controller.status.view import render_done, render_plan
from orchestrator.errors import ConfigError, ServerUnavailableError, SlimError, TransientError
from orchestrator.planner import Limits
from orchestrator.snapshot import ServerName
from orchestrator.telemetry import open_telemetry
from orchestrator.telemetry.reading import HostReading
from orchestrator.triton.control import TritonControl, check_control
from orchestrator.triton.protocol_key import read_protocol_key

log = logging.getLogger(__name__)

MISSED_PERIODS = 5
"""Without a step, besides one action and its memory that take as long as they may, before a controller calls itself
unhealthy."""

MEMORY_PATIENCE_S = 5.0
"""Telemetry looks for a Triton that has just started every two seconds."""


@dataclass(slots=True)
class _Host:
    """A controller and what it is made of; only its limits change, when the fleet file is read again."""

    controller: Controller
    control: CheckedControl
    limits: Limits
    metrics: ControllerMetrics
    heartbeat: Heartbeat
    first_reading: HostReading

    def resolve(self, server: ServerSettings, fleet: FleetSettings) -> Limits:
        """Return the limits that settings lead to on this host, held against what it runs now."""
        report = self.controller.last_report
        reading = report.reading if report is not None and report.reading is not None else self.first_reading
        limits = _resolve(self.control, server, fleet, reading)
        if report is not None and report.snapshot is not None:
            check_budget(limits, report.snapshot, server=ServerName(server.name))
        return limits


@asynccontextmanager
async def _host(
    fleet: FleetSettings, server: ServerSettings, *, is_dry: bool = False, is_daemon: bool = False
) -> AsyncIterator[_Host]:
    """Compose the controller of a server; nothing is asked of its Triton yet.

    Args:
        fleet: that the server belongs to.
        server: to look after.
        is_dry: change nothing.
        is_daemon: it may have been killed and started again, and may wait for what can't be read yet.
    """
    settings, name = fleet.controller, ServerName(server.name)
    triton = _open_control(server, settings)
    telemetry = open_telemetry(
        server.device, grpc_port=int(server.grpc.rpartition(":")[2]), gpu_index=server.limits.gpu_index
    )
    try:
        first = await telemetry.read()
        limits = _resolve(triton, server, fleet, first)
        metrics = ControllerMetrics(name, failed_steps=lambda: daemon.failed_steps)
        heartbeat = Heartbeat(_heartbeat_limit_s(settings), time.monotonic)

        def observed(report: StepReport) -> None:
            metrics.observe(report)
            heartbeat.beat()

        control = CheckedControl(
            triton,
            check=lambda: check_control(triton),
            first_check=BudgetCheck(
                name,
                triton,
                telemetry,
                limits=lambda: host.limits,
                clock=time.monotonic,
                patience_s=MEMORY_PATIENCE_S if is_daemon else 0.0,
                may_be_resuming=is_daemon,
            ),
        )
        daemon = Controller(
            name,
            control,
            telemetry,
            limits,
            settings=settings,
            dry_run=is_dry,
            on_step=observed,
            on_action=heartbeat.beat,
        )
        host = _Host(daemon, control, limits, metrics, heartbeat, first)
        yield host
    finally:
        await triton.close()
        await telemetry.close()


def _open_control(server: ServerSettings, settings: ControllerSettings) -> TritonControl:
    if server.repository is None:
        raise ConfigError(
            f"servers[{server.name}].repository is not set; give the folder that its Triton serves, as seen from here"
        )
    if server.metrics is None:
        raise ConfigError(
            f"servers[{server.name}].metrics is not set; give the URL of its Triton's metrics, such as "
            "http://127.0.0.1:8002/metrics"
        )
    key = read_protocol_key(server.protocol_key_file)
    return TritonControl(server.grpc, server.metrics, server.repository, family=settings.family, protocol_key=key)


def _resolve(
    control: TritonControl | CheckedControl,
    server: ServerSettings,
    fleet: FleetSettings,
    reading: HostReading,
) -> Limits:
    return resolve_limits(
        server,
        fleet.controller,
        control.repository_models(),
        memory_total_bytes=reading.memory_total_bytes.value,
        # A Triton that is not there yet is taken to be allowed what this process is.
        cpus=reading.cpus or len(os.sched_getaffinity(0)),
        deadline_ms=fleet.router.deadline_ms,
    )


def _heartbeat_limit_s(settings: ControllerSettings) -> float:
    return MISSED_PERIODS * settings.period_s + settings.action_timeout_s + LONGEST_SETTLE_S


def _endpoint(host: _Host, server: ServerSettings) -> ControllerEndpoint | nullcontext[None]:
    if server.controller is None:
        log.warning(
            "servers[%s].controller is not set: nothing tells this controller's status, and nothing keeps a second one "
            "away",
            server.name,
        )
        return nullcontext()
    return ControllerEndpoint(
        server.controller,
        server=ServerName(server.name),
        registry=host.metrics.registry,
        report=lambda: host.controller.last_report,
        heartbeat=host.heartbeat,
        models=host.control.repository_models,
        demand=host.controller.demand,
        loop=asyncio.get_running_loop(),
    )


async def serve(
    fleet: FleetSettings,
    server: ServerSettings,
    fleet_path: Path,
    sighup: SighupHandler,
    *,
    until_stdin_ends: bool = False,
) -> None:
    """Look after a server until SIGTERM or SIGINT.

    Args:
        fleet: as read at the start.
        server: of it.
        fleet_path: to read again after a SIGHUP.
        sighup: tells of those.
        until_stdin_ends: stop at the end of standard input too.

    Raises:
        SlimError: when the server's settings can't be kept to.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if until_stdin_ends:
        watch_stdin(stop.set)
    async with _host(fleet, server, is_daemon=True) as host:
        settings_file = SettingsFile(fleet_path, server, fleet, resolve=host.resolve)
        loop.add_signal_handler(signal.SIGHUP, sighup.come)
        with _endpoint(host, server):
            sighup.take_over(partial(_reload, host, settings_file))
            try:
                await host.control.check()
            except TransientError as exc:
                log.warning("waiting for Triton at %s: %s", server.grpc, exc)
            log.info("controller of %s runs, on %s", server.name, server.controller or "no address")
            await host.controller.run(stop)
    log.info("controller of %s has ended", server.name)


def _reload(host: _Host, settings_file: SettingsFile) -> None:
    try:
        found = settings_file.reload()
    except SlimError as exc:
        log.error("the fleet file is refused and the old settings stay: %s", " ".join(str(exc).split()))
        return
    host.limits = found.limits
    host.controller.replace_limits(found.limits, found.settings)
    host.heartbeat.limit_s = _heartbeat_limit_s(found.settings)
    log.info("the fleet file was read again: %s", "; ".join(found.changes) or "nothing changed for this server")


async def show_plan(fleet: FleetSettings, server: ServerSettings) -> None:
    """Say what would be done now.

    Raises:
        SlimError: when the settings can't be kept to, or Triton can't be observed.
    """
    async with _host(fleet, server, is_dry=True) as host:
        report = await _look_twice(host, server, fleet.controller)
    if report.snapshot is None:
        raise ServerUnavailableError(report.trouble or "Triton can't be observed")
    click.echo(f"{server.name}, seen for {fleet.controller.period_s:g} s; nothing is changed")
    Console().print(render_plan(describe_status(report)))


async def act_once(fleet: FleetSettings, server: ServerSettings) -> None:
    """Do what is to be done now, and say what was done.

    Raises:
        SlimError: when the settings can't be kept to, or Triton can't be observed.
        click.exceptions.Exit: when something failed.
    """
    async with _host(fleet, server) as host:
        with _endpoint(host, server):
            report = await _look_twice(host, server, fleet.controller)
            await host.controller.close(wait_s=fleet.controller.action_timeout_s)
    click.echo(f"{server.name}, seen for {fleet.controller.period_s:g} s")
    Console().print(render_done(describe_status(report)))
    if report.snapshot is None or any(record.error is not None for record in report.recent):
        raise click.exceptions.Exit(1)


async def _look_twice(host: _Host, server: ServerSettings, settings: ControllerSettings) -> StepReport:
    """Return the report of a second step, which knows rates."""
    try:
        await host.control.check()
    except ServerUnavailableError as exc:
        raise ServerUnavailableError(
            f"servers[{server.name}].grpc: {exc}; start the Triton at {server.grpc} ('slimsched local up' starts local "
            "ones), or correct the address"
        ) from exc
    await host.controller.step()
    await asyncio.sleep(settings.period_s)
    return await host.controller.step()
