"""The telemetry of one host: of a GPU through NVML, of CPUs through processes and powercap.

Each source is read on its own and under a time limit, so a driver that hangs takes only its own readings along.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from orchestrator.telemetry.bounded import BoundedReader
from orchestrator.telemetry.nvml import NvmlDevice
from orchestrator.telemetry.powercap import ROOT, Powercap
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading

READ_TIMEOUT_S = 2.0


class Device(Protocol):
    """A GPU, read by blocking calls."""

    def read(self) -> HostReading:
        """Return what the device tells."""
        ...

    def close(self) -> None:
        """Let go of it; called from whatever thread, never during a read."""
        ...


class CpuTelemetry:
    """Readings of a host whose Triton computes on CPUs; its port is None when it isn't on this host."""

    def __init__(self, port: int | None, *, powercap_root: Path = ROOT, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._processes = _bound_processes(port, timeout_s)
        self._powercap = BoundedReader(
            "powercap", Powercap(powercap_root).read, HostReading.absent, timeout_s=timeout_s
        )

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason."""
        triton, powercap = await asyncio.gather(self._processes.read(), self._powercap.read())
        return replace(triton, power_w=powercap.power_w, energy_j=powercap.energy_j)

    async def close(self) -> None:
        """Nothing is held between reads."""


class GpuTelemetry:
    """Readings of a host whose Triton computes on a GPU, which is closed with this; its port as for CPUs."""

    def __init__(self, device: Device, port: int | None, *, timeout_s: float = READ_TIMEOUT_S) -> None:
        self._processes = _bound_processes(port, timeout_s)
        self._device: BoundedReader[HostReading] = BoundedReader(
            "the GPU", device.read, HostReading.absent, timeout_s=timeout_s
        )
        self._closing: BoundedReader[str] = BoundedReader(
            "closing NVML", partial(_close, device), str, timeout_s=timeout_s
        )

    async def read(self) -> HostReading:
        """Return what can be read now; what can't is absent with its reason."""
        triton, device = await asyncio.gather(self._processes.read(), self._device.read())
        # What stubs hold of the host's memory says nothing of the device's.
        return replace(device, server_id=triton.server_id, live_instances=triton.live_instances, cpus=triton.cpus)

    async def close(self) -> None:
        """Let go of the GPU, unless a read of it hangs: then the end of the process does that."""
        if not self._device.is_busy:
            await self._closing.read()


def open_telemetry(
    device: Literal["cpu", "gpu"], *, grpc_port: int | None, gpu_index: int = 0
) -> CpuTelemetry | GpuTelemetry:
    """Return the telemetry of this host; nothing is read yet, and what is missing shows in the readings.

    Args:
        device: The kind of device that Triton computes on.
        grpc_port: The port that Triton listens on; None when it isn't on this host.
        gpu_index: The index of the GPU in NVML's order; unused for ``cpu``.
    """
    if device == "cpu":
        return CpuTelemetry(grpc_port)
    return GpuTelemetry(NvmlDevice(gpu_index), grpc_port)


def _close(device: Device) -> str:
    device.close()
    return ""


def _bound_processes(port: int | None, timeout_s: float) -> BoundedReader[HostReading]:
    return BoundedReader("Triton's processes", TritonProcesses(port).read, HostReading.absent, timeout_s=timeout_s)
