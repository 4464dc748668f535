"""A server's controller with all that it needs, composed from settings: connections, checks, metrics and endpoint.

Nothing is asked of Triton while it is composed, so a daemon may be started before its Triton. The same composition
serves a daemon, a single run and a dry run; whoever calls catches the signals and prints.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext

from orchestrator.config import ControllerSettings, FleetSettings, ServerSettings
from orchestrator.controller.actuator import LONGEST_SETTLE_S
from orchestrator.controller.loop import Controller
from orchestrator.controller.observer import one_line
from orchestrator.controller.preflight import BudgetCheck, CheckedControl
from orchestrator.controller.report import StepReport
from orchestrator.controller.resolve import Load, SettingsFile, check_budget, resolve_limits
from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.controller.status.metrics import ControllerMetrics
from orchestrator.errors import ConfigError, ServerUnavailableError, SlimError, TransientError
from orchestrator.planner.host import Limits
from orchestrator.snapshot import ModelName, ServerName
from orchestrator.telemetry import HostReading, Telemetry, open_telemetry
from orchestrator.triton.control import TritonControl, check_control, open_control
from orchestrator.triton.protocol_key import read_protocol_key, render_headers

log = logging.getLogger(__name__)

MISSED_PERIODS = 5
"""Periods without a step, besides one action and its memory that take as long as they may, before a controller calls
itself unhealthy."""
_MOST_KEY_BYTES = 108
"""Longest name of a socket on Linux."""
MEMORY_PATIENCE_S = 5.0
"""How long a daemon waits for the memory of a Triton that has just started; telemetry looks every two seconds."""


class ControllerDaemon:
    """A controller and what it is made of; only its limits change, with the fleet file and the repository's widths.

    Args:
        triton: The connections to its Triton; closed by whoever opened them, as the telemetry is.
        first_reading: The host as it was before the first step.
        is_daemon: Whether it may have been killed and started again, and may wait for what can't be read yet.

    Raises:
        ConfigError: when the server's settings can't be kept to.
    """

    def __init__(
        self,
        fleet: FleetSettings,
        server: ServerSettings,
        triton: TritonControl,
        telemetry: Telemetry,
        first_reading: HostReading,
        *,
        is_dry: bool,
        is_daemon: bool,
    ) -> None:
        self._fleet = fleet
        self._server = server
        self._first_reading = first_reading
        name = ServerName(server.name)
        self._limits = _resolve(triton, server, fleet, first_reading)
        self._widths = frozenset(model.name for model in triton.repository_models())
        self._metrics = ControllerMetrics(name, failed_steps=lambda: self.controller.failed_steps)
        self._heartbeat = Heartbeat(_heartbeat_limit_s(fleet.controller), time.monotonic)
        budget_check = BudgetCheck(
            name,
            triton,
            telemetry,
            limits=lambda: self._limits,
            clock=time.monotonic,
            patience_s=MEMORY_PATIENCE_S if is_daemon else 0.0,
            may_be_resuming=is_daemon,
        )
        self._keeper = HolderKeeper(
            time.monotonic,
            # So that terms usually go on from those of an earlier controller. After the clock was set back they begin
            # lower, and that does no harm: a term only says whether a message is of the time that the record has, for
            # which the holder has to be the same too, and never which of two is newer. What was sent to an earlier
            # controller ended with its connections, long before this one grants its first claim.
            first_term=int(time.time()),
            headers=render_headers(read_protocol_key(server.protocol_key_file)),
        )
        self._control = CheckedControl(triton, check=lambda: check_control(triton), first_check=budget_check)
        self.controller = Controller(
            name,
            self._control,
            telemetry,
            self._limits,
            dry_run=is_dry,
            on_step=self._observe,
            on_action=self._heartbeat.beat,
        )

    async def check(self) -> None:
        """Pass the checks of Triton that are due, or log that they wait for it.

        Raises:
            ConfigError: when one fails; says what and the remedy.
        """
        try:
            await self._control.check()
        except TransientError as exc:
            log.warning("waiting for Triton at %s: %s", self._server.grpc, exc)

    async def look_twice(self) -> StepReport:
        """Take two steps a period apart and return the report of the second, which knows rates.

        Raises:
            ConfigError: when a check fails; says what and the remedy.
            ServerUnavailableError: when Triton does not answer.
        """
        try:
            await self._control.check()
        except ServerUnavailableError as exc:
            raise ServerUnavailableError(
                f"servers[{self._server.name}].grpc: {exc}; start the Triton at {self._server.grpc} ('slimsched local "
                "up' starts local ones), or correct the address"
            ) from exc
        await self.controller.step()
        await asyncio.sleep(self._fleet.controller.period_s)
        return await self.controller.step()

    @contextmanager
    def endpoint(self) -> Iterator[None]:
        """Answer at the controller's address where the fleet file names one, and keep its Triton to itself.

        Raises:
            ConfigError: when the address can't be had, or another controller of this host has the Triton.
        """
        with self._endpoint(), hold_lease(self._server):
            yield

    def _endpoint(self) -> ControllerEndpoint | nullcontext[None]:
        if self._server.controller is None:
            log.warning(
                "servers[%s].controller is not set: nothing shows this controller's status, and nothing keeps one on "
                "another host away",
                self._server.name,
            )
            return nullcontext()
        return ControllerEndpoint(
            self._server.controller,
            server=ServerName(self._server.name),
            registry=self._metrics.registry,
            report=lambda: self.controller.last_report,
            heartbeat=self._heartbeat,
            models=self._control.repository_models,
            demand=self.controller.demand,
            keeper=self._keeper,
            loop=asyncio.get_running_loop(),
        )

    def settings_file(self, load: Load) -> SettingsFile:
        """Return the fleet file to read again."""
        return SettingsFile(load, self._server, self._fleet, resolve=self._resolve_again)

    def reload(self, settings_file: SettingsFile) -> None:
        """Keep to what the fleet file says now; one that is refused is logged and leaves the old settings in force."""
        try:
            limits, changes = settings_file.reload()
        except SlimError as exc:
            log.error("the fleet file is refused and the old settings stay: %s", one_line(exc))
            return
        self._limits = limits
        self.controller.replace_limits(limits)
        self._heartbeat.limit_s = _heartbeat_limit_s(limits.settings)
        log.info("the fleet file was read again: %s", "; ".join(changes) or "nothing changed for this server")

    def _observe(self, report: StepReport) -> None:
        self._metrics.observe(report)
        self._heartbeat.beat()
        if report.seen.snapshot is not None:
            self._follow_repository(frozenset(seen.name for seen in report.seen.snapshot.models))

    def _follow_repository(self, widths: frozenset[ModelName]) -> None:
        """Settle the limits anew once the repository holds other widths: which are wanted depends on them."""
        if widths in (self._widths, frozenset()):  # away, or without any, it says nothing of what is wanted
            return
        self._widths = widths
        try:
            self._limits = self._resolve_again(self._server, self._fleet)
        except SlimError as exc:
            log.error("the repository holds other widths, and the old limits stay: %s", one_line(exc))
            return
        self.controller.replace_limits(self._limits)
        log.info("the repository holds other widths; wanted are %s", ", ".join(self._limits.wanted))

    def _resolve_again(self, server: ServerSettings, fleet: FleetSettings) -> Limits:
        """Return the limits that settings lead to on this host, held against what it runs now."""
        report = self.controller.last_report
        seen = None if report is None else report.seen
        limits = _resolve(self._control, server, fleet, (seen and seen.reading) or self._first_reading)
        if seen is not None and seen.snapshot is not None:
            check_budget(limits, seen.snapshot, server=ServerName(server.name))
        self._server, self._fleet = server, fleet
        return limits


@contextmanager
def hold_lease(server: ServerSettings) -> Iterator[None]:
    """Keep every other controller of this host from a server's Triton, whatever it calls it and wherever it answers.

    Two of them would undo each other's changes for ever. The lease is a socket whose name is the Triton's address. The
    kernel keeps it, in the network namespace, and drops it with this process, so it needs no file and is never stale.

    Raises:
        ConfigError: when another controller has the Triton.
    """
    host, _, port = server.grpc.rpartition(":")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        host = sorted((family, str(target[0])) for family, _, _, _, target in found)[0][1]
    except OSError:
        pass  # a name that can't be resolved now is as good a key
    key = f"\0slimsched-controller-{host}-{port}"
    if len(key.encode()) > _MOST_KEY_BYTES:
        key = f"\0slimsched-controller-{server.digest}"
    with socket.socket(socket.AF_UNIX) as lease:
        try:
            lease.bind(key)
        except OSError as exc:
            raise ConfigError(
                f"another controller of this host acts on the Triton of server {server.name!r} at {server.grpc}; end "
                "it, or give the server the address of its own Triton in 'grpc'"
            ) from exc
        yield


@asynccontextmanager
async def open_daemon(
    fleet: FleetSettings, server: ServerSettings, *, is_dry: bool = False, is_daemon: bool = False
) -> AsyncIterator[ControllerDaemon]:
    """Compose the controller of a server and close its connections at the end; see ``ControllerDaemon``."""
    port = int(server.grpc.rpartition(":")[2])
    telemetry = open_telemetry(server.device, grpc_port=port, gpu=server.limits.gpu, source=server.telemetry)
    triton = open_control(server, fleet)
    try:
        first = await telemetry.read()
        yield ControllerDaemon(fleet, server, triton, telemetry, first, is_dry=is_dry, is_daemon=is_daemon)
    finally:
        await triton.close()
        await telemetry.close()


def _resolve(
    control: TritonControl | CheckedControl, server: ServerSettings, fleet: FleetSettings, reading: HostReading
) -> Limits:
    return resolve_limits(
        server,
        fleet.controller,
        control.repository_models(),
        memory_total_bytes=reading.memory_total_bytes.value,
        # A Triton that is not there yet is taken to be allowed what this process is.
        cpus=reading.cpus or len(os.sched_getaffinity(0)),
        deadline_ms=fleet.router.deadline_ms,
        family_weights=fleet.router.family_weights,
    )


def _heartbeat_limit_s(settings: ControllerSettings) -> float:
    return MISSED_PERIODS * settings.period_s + settings.action_timeout_s + LONGEST_SETTLE_S
