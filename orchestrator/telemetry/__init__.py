"""Readings of hosts and devices; the only importer of pynvml and psutil, and of the powercap files."""

from orchestrator.telemetry.host import describe_cpu, describe_gpu, open_telemetry
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading, Reading, Telemetry

__all__ = [
    "HostReading",
    "Reading",
    "Telemetry",
    "TritonProcesses",
    "describe_cpu",
    "describe_gpu",
    "open_telemetry",
]
