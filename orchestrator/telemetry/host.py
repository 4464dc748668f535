"""The telemetry of one host: of a GPU through NVML, of CPUs through processes and powercap; and what both are called.

Each source is read on its own and under a time limit, so a driver that hangs takes only its own readings along.

A server's settings may name a source of another package, by an entry point of the group ``slimsched.telemetry``: a
meter at the wall, a board of another maker. What it has told once stays its own, and is absent when it fails: to fall
back would put two sensors of other scales behind one another.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import pynvml
from pynvml import NVMLError

from orchestrator.errors import ConfigError
from orchestrator.installed.plugins import PluginGroup
from orchestrator.telemetry.bounded import BoundedReader
from orchestrator.telemetry.nvml import NvmlDevice, find_handle
from orchestrator.telemetry.powercap import Powercap
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading, Reading

PLUGINS: Final = PluginGroup("slimsched.telemetry", "telemetry")
READ_TIMEOUT_S = 2.0
_READINGS: Final = ("memory_used_bytes", "memory_total_bytes", "utilisation_ratio", "power_w", "energy_j")
CPUINFO = Path("/proc/cpuinfo")


class Source(Protocol):
    """What is read by blocking calls."""

    def read(self) -> HostReading:
        """Return what it can read, the rest absent."""


class Device(Source, Protocol):
    """A GPU."""

    def close(self) -> None:
        """Let go of it; called from whatever thread, never during a read."""


class CpuTelemetry:
    """Readings of a host whose Triton computes on CPUs; its port is None when it isn't on this host."""

    def __init__(self, port: int | None, powercap: Source) -> None:
        self._processes = _bounded("Triton's processes", TritonProcesses(port))
        self._powercap = _bounded("powercap", powercap)

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason."""
        triton, powercap = await asyncio.gather(self._processes.read(), self._powercap.read())
        return replace(triton, power_w=powercap.power_w, energy_j=powercap.energy_j)

    async def close(self) -> None:
        """Nothing is held between reads."""


class GpuTelemetry:
    """Readings of a host whose Triton computes on a GPU, which is closed with this; its port as for CPUs."""

    def __init__(self, device: Device, port: int | None, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._processes = _bounded("Triton's processes", TritonProcesses(port), timeout_s)
        self._device = _bounded("the GPU", device, timeout_s)
        self._closing: BoundedReader[str | None] = BoundedReader("closing NVML", device.close, str, timeout_s=timeout_s)

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason."""
        triton, device = await asyncio.gather(self._processes.read(), self._device.read())
        # What stubs hold of the host's memory says nothing of the device's.
        return replace(
            device,
            server_id=triton.server_id,
            live_instances=triton.live_instances,
            cpus=triton.cpus,
            server_threads=triton.server_threads,
        )

    async def close(self) -> None:
        """Let go of the GPU, unless a read of it hangs: then the end of the process does that."""
        if not self._device.is_busy:
            await self._closing.read()


class PluggedTelemetry:
    """Readings of a host, with those that a source of another package has in their place."""

    def __init__(self, own: CpuTelemetry | GpuTelemetry, name: str, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        source: Source = PLUGINS.call(name, PLUGINS.load(name))
        self._own = own
        self._source = _bounded(f"telemetry {name!r} of {PLUGINS.origin(name)}", _Checked(source), timeout_s)
        self._told = set[str]()

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason."""
        own, other = await asyncio.gather(self._own.read(), self._source.read())
        readings = {name: getattr(other, name) for name in _READINGS}
        self._told |= {name for name, reading in readings.items() if reading.value is not None}
        changed: dict[str, Any] = {name: readings[name] for name in self._told}
        return replace(own, **changed)

    async def close(self) -> None:
        """Let go of what the host's own telemetry holds."""
        await self._own.close()


class _Checked:
    """A source whose readings are what they should be, or it raises."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self) -> HostReading:
        found = self._source.read()
        for name in _READINGS:
            reading = getattr(found, name, None)
            if not (isinstance(reading, Reading) and (reading.value is None or math.isfinite(reading.value))):
                raise TypeError(f"read returned a {type(found).__name__} whose {name} is {reading!r:.60}")
        return found


def open_telemetry(
    device: Literal["cpu", "gpu"], *, grpc_port: int | None, gpu: int | str = 0, source: str | None = None
) -> CpuTelemetry | GpuTelemetry | PluggedTelemetry:
    """Return the telemetry of this host; nothing is read yet, and what is missing shows in the readings.

    Triton computes on the device, a GPU by its index in NVML's order or its UUID, and listens on the port; None: not on
    this host. What another package's ``source`` reads counts in place of the device's own.

    Raises:
        ConfigError: There is no source of that name, or it can't be used.
    """
    if source is not None and source not in PLUGINS.names():
        raise ConfigError(
            f"servers[].telemetry: no package here brings {source!r}; install it beside this command, or leave the key "
            f"out{PLUGINS.describe()}"
        )
    own = CpuTelemetry(grpc_port, Powercap()) if device == "cpu" else GpuTelemetry(NvmlDevice(gpu), grpc_port)
    return own if source is None else PluggedTelemetry(own, source)


def describe_cpu(cpuinfo: Path = CPUINFO) -> str:
    """Return the model of this host's CPU and how many this process may use."""
    model = platform.machine()
    with contextlib.suppress(OSError):
        for line in cpuinfo.read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                model = value.strip()
                break
    return f"{model}, {len(os.sched_getaffinity(0))} CPUs"


def describe_gpu(gpu: int | str) -> str:
    """Return the name of a GPU of this host, by its index in NVML's order or its UUID."""
    try:
        pynvml.nvmlInit()
    except NVMLError as exc:
        return f"unknown: {exc}"
    try:
        return str(pynvml.nvmlDeviceGetName(find_handle(gpu)))
    except NVMLError as exc:
        return f"unknown: {exc}"
    finally:
        with contextlib.suppress(NVMLError):
            pynvml.nvmlShutdown()


def _bounded(what: str, source: Source, timeout_s: float = READ_TIMEOUT_S) -> BoundedReader[HostReading]:
    return BoundedReader(what, source.read, HostReading.absent, timeout_s=timeout_s)
