"""How long processes of this host have waited for a core, by the kernel's pressure stall information (PSI).

    /proc/pressure/cpu     some avg10=11.95 avg60=12.47 avg300=12.29 total=12507252265

``total`` are microseconds since boot in which at least one process could run and had no core. It tells apart what looks
alike from a router: a server is slow and its host's count grows, so others take its cores; it grows on the gateway's
host; or it grows nowhere, and callers are late by themselves. Kernels without PSI, and containers that hide it, have no
such file.
"""

from __future__ import annotations

from pathlib import Path

PRESSURE = Path("/proc/pressure/cpu")
_US_PER_S = 1e6


def read_cpu_waiting_s(path: Path = PRESSURE) -> float | None:
    """Return the seconds so far in which a process waited for a core; None where the kernel does not say."""
    try:
        some, _, total_us = path.read_text().partition("\n")[0].rpartition(" total=")
        return float(int(total_us)) / _US_PER_S if some.startswith("some ") else None
    except (OSError, ValueError):
        return None
