"""How much memory a process may have: the host's, or less where a control group limits it."""

from __future__ import annotations

import contextlib
from pathlib import Path

import psutil

from orchestrator.telemetry.reading import Reading

PROC = Path("/proc")
CGROUP_ROOT = Path("/sys/fs/cgroup")


def read_memory_total(pid: int | None, *, proc: Path = PROC, cgroup_root: Path = CGROUP_ROOT) -> Reading:
    """Return the bytes that a process may use; None as ``pid`` asks for the calling process.

    The source is ``cgroup`` when a control group allows less than the host has.
    """
    try:
        host_bytes = int(psutil.virtual_memory().total)
    except (psutil.Error, OSError, RuntimeError, ValueError) as exc:
        return Reading.absent(f"the host's memory can't be read: {exc}")
    limits = [_read_limit_bytes(path) for path in _list_limit_files(pid, proc, cgroup_root)]
    limit_bytes = min((limit for limit in limits if limit is not None), default=host_bytes)
    return Reading(limit_bytes, "cgroup") if limit_bytes < host_bytes else Reading(host_bytes, "psutil")


def _list_limit_files(pid: int | None, proc: Path, root: Path) -> list[Path]:
    """Every group from the process's own up to the root: the tightest limit on the way is the one that holds.

    Inside a container the path may be the host's and not exist here; then the root is the container's own group.
    """
    files = []
    with contextlib.suppress(OSError):  # the process has gone, or there are no control groups
        for line in (proc / ("self" if pid is None else str(pid)) / "cgroup").read_text().splitlines():
            hierarchy, controllers, group = line.split(":", 2)
            if hierarchy == "0":
                mounts, name = [root, root / "unified"], "memory.max"
            elif "memory" in controllers.split(","):
                mounts, name = [root / "memory"], "memory.limit_in_bytes"
            else:
                continue
            own = Path(group.lstrip("/"))
            files += [mount / path / name for mount in mounts for path in (own, *own.parents)]
    return files


def _read_limit_bytes(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None  # no such group here, or "max"
