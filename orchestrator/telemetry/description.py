"""What a device calls itself, for reports: never raises, and says so when it can't be told."""

from __future__ import annotations

import contextlib
import os
import platform
from pathlib import Path

import pynvml
from pynvml import NVMLError

CPUINFO = Path("/proc/cpuinfo")


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


def describe_gpu(index: int) -> str:
    """Return the name of a GPU of this host, in NVML's order."""
    try:
        pynvml.nvmlInit()
    except NVMLError as exc:
        return f"unknown: {exc}"
    try:
        return str(pynvml.nvmlDeviceGetName(pynvml.nvmlDeviceGetHandleByIndex(index)))
    except NVMLError as exc:
        return f"unknown: {exc}"
    finally:
        with contextlib.suppress(NVMLError):
            pynvml.nvmlShutdown()
