"""What hosts and devices tell of themselves; the only importer of pynvml and psutil, and of the powercap files."""

from orchestrator.telemetry.description import describe_cpu, describe_gpu
from orchestrator.telemetry.host import open_telemetry
from orchestrator.telemetry.processes import TritonProcesses
from orchestrator.telemetry.reading import HostReading, Reading

__all__ = [
    "HostReading",
    "Reading",
    "TritonProcesses",
    "describe_cpu",
    "describe_gpu",
    "open_telemetry",
]
