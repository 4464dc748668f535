"""What hosts and devices tell of themselves; the only importer of pynvml and psutil, and of the powercap files."""

from orchestrator.telemetry.description import describe_cpu, describe_gpu
from orchestrator.telemetry.host import CpuTelemetry, Device, GpuTelemetry, open_telemetry
from orchestrator.telemetry.nvml import NvmlDevice
from orchestrator.telemetry.powercap import Powercap
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading, Reading

__all__ = [
    "CpuTelemetry",
    "Device",
    "GpuTelemetry",
    "HostReading",
    "NvmlDevice",
    "Powercap",
    "Reading",
    "TritonProcesses",
    "describe_cpu",
    "describe_gpu",
    "open_telemetry",
]
