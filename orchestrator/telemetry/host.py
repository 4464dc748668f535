"""The telemetry of one host: of a GPU through NVML, of CPUs through processes and powercap; and what both are called.

Each source is read on its own and under a time limit, so a driver that hangs takes only its own readings along.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

import pynvml
from pynvml import NVMLError

from orchestrator.telemetry.bounded import BoundedReader
from orchestrator.telemetry.nvml import NvmlDevice, find_handle
from orchestrator.telemetry.powercap import Powercap
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading

READ_TIMEOUT_S = 2.0
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


def open_telemetry(
    device: Literal["cpu", "gpu"], *, grpc_port: int | None, gpu: int | str = 0
) -> CpuTelemetry | GpuTelemetry:
    """Return the telemetry of this host; nothing is read yet, and what is missing shows in the readings.

    Triton computes on the device, a GPU by its index in NVML's order or its UUID, and listens on the port; None: not on
    this host.
    """
    if device == "cpu":
        return CpuTelemetry(grpc_port, Powercap())
    return GpuTelemetry(NvmlDevice(gpu), grpc_port)


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
