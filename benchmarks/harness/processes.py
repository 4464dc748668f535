"""What processes use and hold, from /proc."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Reading:
    """Processor time of some trees of processes at one moment, by the name they go by."""

    at_s: float
    cpu_s: Mapping[str, float]

    def shares_until(self, later: Reading) -> dict[str, float]:
        """Return how many cores each has used between the two."""
        return {name: (cpu_s - self.cpu_s[name]) / (later.at_s - self.at_s) for name, cpu_s in later.cpu_s.items()}


def read_cpu(roots: Mapping[str, int]) -> Reading:
    """Return what the trees under these process ids have used so far; one that has gone counts nothing."""
    parents, used_s = {}, {}
    for entry in _PROC.iterdir():
        if not entry.name.isdigit():
            continue
        try:
            # The name, in parentheses, may hold spaces; after it come state, parent, and as 12th to 15th the times.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        parents[int(entry.name)] = int(fields[1])
        used_s[int(entry.name)] = sum(map(int, fields[11:15])) / _TICKS_PER_S
    totals = dict.fromkeys(roots, 0.0)
    for pid, cpu_s in used_s.items():
        for name, root in roots.items():
            if _is_below(pid, root, parents):
                totals[name] += cpu_s
    return Reading(time.monotonic(), totals)


def _is_below(pid: int, root: int, parents: Mapping[int, int]) -> bool:
    while pid > 1 and pid != root:
        pid = parents.get(pid, 0)
    return pid == root


@dataclass(frozen=True, slots=True)
class Held:
    """What a process holds at one moment.

    Attributes:
        rss_bytes: Resident memory, files included.
        anonymous_bytes: Resident memory of no file (RssAnon): what the process itself has asked for.
        descriptors: Open files and sockets.
        threads: Threads of the kernel.
    """

    rss_bytes: int
    anonymous_bytes: int
    descriptors: int
    threads: int


def read_held(pid: int) -> Held:
    """Return what a process holds; raises OSError when it is gone."""
    folder = _PROC / str(pid)
    sizes = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
    return Held(
        rss_bytes=int(sizes["VmRSS"].split()[0]) * 1024,
        anonymous_bytes=int(sizes["RssAnon"].split()[0]) * 1024,
        descriptors=sum(1 for _ in (folder / "fd").iterdir()),
        threads=int(sizes["Threads"]),
    )


def list_children(pid: int) -> list[int]:
    """Return the process ids of the direct children of a process, in order."""
    return sorted(map(int, (_PROC / str(pid) / "task" / str(pid) / "children").read_text().split()))
