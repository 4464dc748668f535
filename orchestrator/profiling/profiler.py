"""Takes the profile of a fleet as its settings describe it: opens the servers, runs the campaign, assembles.

Whether a controller looks after a server is asked by who calls, because controllers are none of profiling's business.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from orchestrator.config import FleetSettings, ServerSettings
from orchestrator.config.names import profile_entry
from orchestrator.errors import ConfigError, PermanentError, TransientError
from orchestrator.profile.document import Conditions, Profile, batch_ladder, read_profile
from orchestrator.profile.start import find_start
from orchestrator.profiling.assembly import ServerFacts, assemble_profile, check_binding, keep_others
from orchestrator.profiling.campaign import (
    Progress,
    Subject,
    forget_records,
    measure_batches,
    measure_changes,
    restore_left,
)
from orchestrator.profiling.changes import Control
from orchestrator.profiling.records import Records
from orchestrator.profiling.sampling import Sampling
from orchestrator.snapshot import ServerName
from orchestrator.telemetry import describe_cpu, describe_gpu, open_telemetry
from orchestrator.triton.client import TritonClient
from orchestrator.triton.control import check_control, open_control
from orchestrator.triton.families import describe_models
from orchestrator.triton.protocol_key import read_protocol_key

LOOPBACK = ("127.", "localhost:", "[::1]:")
HasController = Callable[[ServerSettings], bool]
"""Whether a server's controller answers; asked in a thread of its own."""


@dataclass(frozen=True, slots=True)
class ProfileRequest:
    """What to profile, with the file that keeps what was measured so far.

    With ``control`` loads, reloads and memory are measured, which changes the servers; with ``force`` also beside a
    running controller. With ``restart`` what was measured so far is forgotten. The profile keeps the servers of an
    ``earlier`` one that are not measured.
    """

    fleet: FleetSettings
    partial: Path
    sampling: Sampling
    control: bool = False
    force: bool = False
    restart: bool = False
    earlier: Profile | None = None


async def take_profile(
    request: ProfileRequest, *, report: Callable[[Progress], None], has_controller: HasController
) -> Profile:
    """Measure what is missing and return the profile; ``has_controller`` says which servers may not be changed.

    Raises:
        SlimError: when a server fails or may not be changed, or the partial profile is about other servers.
    """
    async with _controls(request, has_controller) as controls, _subjects(request.fleet, controls) as opened:
        if request.restart:
            await forget_records(request.partial, controls)
        with Records(request.partial) as records:
            await restore_left(controls, records)
            records.require_restored()
            pairs = [await _describe(settings, subject) for settings, subject in opened]
            facts, subjects = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
            records.bind(_binding(facts, request.sampling))
            if request.control:
                await measure_changes(subjects, records, request.sampling, report=report, clock=time.perf_counter)
            await measure_batches(subjects, records, request.sampling, report=report, clock=time.perf_counter)
    taken = assemble_profile(
        facts, _conditions(request.sampling, facts), visits=records.visits, idles=records.idles, cycles=records.cycles
    )
    return taken if request.earlier is None else keep_others(taken, request.earlier)


async def check_profile(fleet: FleetSettings, path: Path) -> Profile:
    """Return the profile in a file after holding it against the servers as they are.

    Raises:
        ConfigError: when it is damaged or about something else.
        SlimError: when a server does not answer.
    """
    profile = read_profile(path)
    async with _subjects(fleet, {}) as opened:
        pairs = [await _describe(settings, subject) for settings, subject in opened]
    for found, _ in pairs:
        check_binding(profile, found, source=str(path))
    return profile


async def check_weights(fleet: FleetSettings, path: Path) -> list[str]:
    """Check that a profile is not older than the weights that servers serve; return who does not answer.

    What it has no entry for is no error: it may be of another family.

    Raises:
        ConfigError: when it can't be read, or an entry is of other weights or another emulation.
    """
    profile, silent = read_profile(path), []
    known = {str(entry.name) for entry in profile.servers}
    async with _subjects(fleet, {}) as opened:
        for server, subject in opened:
            entry = profile_entry(server.name, server.name, server.device_class, known)
            try:
                models = await subject.client.served_models()
            except TransientError:  # it may be away, or hang
                silent.append(server.name)
                continue
            except PermanentError as exc:
                raise ConfigError(f"servers[{server.name}] ({server.grpc}): {exc}; is it a Triton?") from exc
            own = ServerName(entry or server.name)
            for model in models:
                if profile.model(own, model.name) is not None:
                    found = find_start(profile, own, model, slowdown=server.emulated_slowdown)
                    if isinstance(found, str):
                        raise ConfigError(f"{path}: {found}")
    return silent


@asynccontextmanager
async def _controls(
    request: ProfileRequest, has_controller: HasController
) -> AsyncIterator[Mapping[ServerName, Control]]:
    async with AsyncExitStack() as stack:
        controls: dict[ServerName, Control] = {}
        for server in request.fleet.servers if request.control else ():
            if reason := _no_telemetry(server):
                raise ConfigError(f"--control: servers[{server.name}]: {reason}")
            if not request.force and await asyncio.to_thread(has_controller, server):
                raise ConfigError(
                    f"--control: a controller looks after {server.name} and would undo what is measured; stop it, or "
                    "give --force"
                )
            if server.repository is None or server.metrics is None:
                raise ConfigError(
                    f"--control: servers[{server.name}] needs 'repository' and 'metrics' in fleet.yaml; or leave it out"
                )
            control = open_control(server, request.fleet)
            stack.push_async_callback(control.close)
            await check_control(control)
            controls[ServerName(server.name)] = control
        yield controls


@asynccontextmanager
async def _subjects(
    fleet: FleetSettings, controls: Mapping[ServerName, Control]
) -> AsyncIterator[list[tuple[ServerSettings, Subject]]]:
    """Open every server; what it serves is asked later."""
    async with AsyncExitStack() as stack:
        opened, described = [], describe_models(fleet.families)
        for server in fleet.servers:
            client = TritonClient(
                server.grpc,
                timeout_s=fleet.router.connect_timeout_s,
                protocol_key=read_protocol_key(server.protocol_key_file),
                described=described,
            )
            stack.push_async_callback(client.close)
            telemetry = None
            if not _no_telemetry(server):
                port = int(server.grpc.rpartition(":")[2])
                telemetry = open_telemetry(
                    server.device, grpc_port=port, gpu=server.limits.gpu, source=server.telemetry
                )
                stack.push_async_callback(telemetry.close)
            name = ServerName(server.name)
            opened.append((server, Subject(name, client, (), telemetry, controls.get(name))))
        yield opened


def _no_telemetry(server: ServerSettings) -> str:
    """Return why the host of a server can't be read from here; empty when it can."""
    if server.grpc.startswith(LOOPBACK):
        return ""
    return f"{server.grpc} is not this host; run 'slimsched profile' beside the server, over loopback"


async def _describe(server: ServerSettings, subject: Subject) -> tuple[ServerFacts, Subject]:
    """Ask a server what it is; return that and the subject to measure."""
    models = await subject.client.served_models()
    if not models:
        raise ConfigError(f"server {server.name} at {server.grpc} serves no slimmable family; load one first")
    reading = None if subject.telemetry is None else await subject.telemetry.read()
    slowdown = server.emulated_slowdown if (server.emulated_slowdown or 1) > 1 else None
    no_counter = _no_telemetry(server)
    if slowdown is not None:
        no_counter = "the machine is emulated, and what this host draws says nothing of it"
    elif reading is not None and reading.energy_j.value is None:
        no_counter = reading.energy_j.reason
    total = None if reading is None else reading.memory_total_bytes.value
    facts = ServerFacts(
        name=subject.name,
        device=server.device,
        description=_describe_device(server),
        slowdown=slowdown,
        triton_version=await subject.client.version(),
        memory_bytes=None if total is None else int(total),
        power=server.power,
        no_counter=no_counter,
        models=models,
    )
    # Without a counter no window needs to be long; changes of models read memory through the same telemetry.
    return facts, replace(subject, models=models, has_counter=not no_counter)


def _describe_device(server: ServerSettings) -> str:
    if _no_telemetry(server):
        return "not on the host that measured"
    return describe_cpu() if server.device == "cpu" else describe_gpu(server.limits.gpu)


def _binding(facts: list[ServerFacts], sampling: Sampling) -> dict[str, Any]:
    """Return what the measurements are about: they may not be mixed with those of anything else."""
    return {
        **({"under_load": True} if sampling.bursts_s else {}),
        "servers": {
            server.name: {
                "triton_version": server.triton_version,
                "slowdown": server.slowdown,
                "models": {
                    model.name: {
                        "sha256": model.sha256,
                        "instances": model.instances,
                        "batches": list(batch_ladder(model.max_batch_size)),
                    }
                    for model in server.models
                },
            }
            for server in facts
        },
    }


def _conditions(sampling: Sampling, servers: Sequence[ServerFacts]) -> Conditions:
    try:
        onnxruntime = version("onnxruntime")
    except PackageNotFoundError:
        onnxruntime = None
    return Conditions(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        host=f"{describe_cpu()}, {os.uname().sysname} {os.uname().release}",
        onnxruntime=onnxruntime,
        seed=sampling.seed,
        assumptions=tuple(
            f"{server.name} draws {server.power.idle_w:g} W idle, {server.power.busy_w:g} W busy: stated in fleet.yaml"
            for server in servers
            if server.power is not None and server.no_counter
        ),
    )
