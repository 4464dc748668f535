"""Triton as the operating system sees it: the process behind a local port, its stubs, their memory and CPU time.

How much memory it may have is the host's, or less where a control group limits it.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psutil

from orchestrator.telemetry.reading import HostReading, RateMeter, Reading
from orchestrator.telemetry.server_tree import ServerTree, TreeUsage

SOURCE = "psutil"
# `docker-proxy` and the like listen in place of a Triton inside a container; taken for Triton they would show a
# server whose stubs have all died. So only what is called so is one.
SERVER_NAME = "tritonserver"
# Looking for the server takes some 10 ms here and far more on a busy host; one that is down is not worth that often.
SEARCH_INTERVAL_S = 2.0
PROC = Path("/proc")
CGROUP_ROOT = Path("/sys/fs/cgroup")


class TritonProcesses:
    """The tritonserver that listens on a port of this host, followed over its restarts; without a port it isn't here.

    Two searches for a server that was not found are ``search_interval_s`` apart.
    """

    def __init__(
        self,
        port: int | None,
        *,
        clock: Callable[[], float] = time.monotonic,
        search_interval_s: float = SEARCH_INTERVAL_S,
    ) -> None:
        self._port = port
        self._clock = clock
        self._search_interval_s = search_interval_s
        self._searched_at_s: float | None = None
        self._reason = ""
        self._tree: ServerTree | None = None
        self._meter = RateMeter()

    def read(self) -> HostReading:
        """Return what processes show; what can't be seen is absent with its reason, power and energy always."""
        tree = self._follow()
        total = read_memory_total(None if tree is None else tree.pid)
        if tree is None:
            return replace(HostReading.absent(self._reason), memory_total_bytes=total)
        try:
            usage = tree.read()
        except psutil.NoSuchProcess:
            return replace(HostReading.absent(f"Triton (pid {tree.pid}) has just ended"), memory_total_bytes=total)
        except (psutil.Error, OSError) as exc:
            reason = f"Triton (pid {tree.pid}) can't be read: {exc}"
            return replace(HostReading.absent(reason), memory_total_bytes=total)
        nothing = Reading.absent("processes tell no power")
        return HostReading(
            memory_used_bytes=Reading(usage.private_bytes, SOURCE),
            memory_total_bytes=total,
            utilisation_ratio=self._utilisation(usage),
            power_w=nothing,
            energy_j=nothing,
            server_id=tree.server_id,
            live_instances=usage.live_instances,
            cpus=usage.cpus,
            instance_bytes=usage.instance_bytes,
            overhead_bytes=usage.overhead_bytes,
            server_threads=usage.server_threads,
        )

    def _utilisation(self, usage: TreeUsage) -> Reading:
        rate = self._meter.update(usage.cpu_s, self._clock())
        if rate is None:
            return Reading.absent("CPU utilisation is known from the second read of a server on")
        return Reading(min(1.0, rate / usage.cpus), SOURCE)

    def _follow(self) -> ServerTree | None:
        """Return the server, found anew when the one we know has gone."""
        if self._port is None:
            self._reason = "Triton isn't on this host"
            return None
        if self._tree is not None and self._tree.is_alive():
            return self._tree
        now_s = self._clock()
        is_early = self._searched_at_s is not None and now_s - self._searched_at_s < self._search_interval_s
        if self._tree is None and is_early:
            return None
        self._tree, self._searched_at_s = None, now_s
        found = find_server(self._port)
        if isinstance(found, str):
            self._reason = found
            return None
        try:
            self._tree = ServerTree(found)
        except psutil.Error as exc:
            self._reason = f"the process on port {self._port} can't be read: {exc}"
            return None
        self._meter = RateMeter()
        return self._tree


def find_server(port: int) -> psutil.Process | str:
    """Return the tritonserver that listens on a port, or the reason why there is none to be seen.

    Costs milliseconds and more: every open file of every process is looked at.
    """
    try:
        connections = psutil.net_connections("tcp")
    except (psutil.Error, OSError) as exc:
        return f"the listening ports of this host can't be read: {exc}"
    listening = [each for each in connections if each.status == psutil.CONN_LISTEN]
    pids = {each.pid for each in listening if each.laddr and each.laddr.port == port}
    if not pids:
        return f"nobody listens on port {port} of this host"
    others = []
    for pid in pids - {None}:
        try:
            process = psutil.Process(pid)
            name = process.name()
        except psutil.Error:
            continue
        if name == SERVER_NAME:
            return process
        others.append(f"{name} (pid {pid})")
    if others:
        return f"port {port} of this host belongs to {', '.join(sorted(others))}, not to {SERVER_NAME}"
    return (
        f"who listens on port {port} can't be seen: another user's process or another container's; "
        "run as Triton's user, or as root, and in its process namespace"
    )


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

    Inside a container the path may be the host's and not exist here; then the root is the container's own group. Of a
    process in another container of the same pod, the limit is read through its own file system.
    """
    files = []
    with contextlib.suppress(OSError):  # the process has gone, or there are no control groups
        own_proc = proc / ("self" if pid is None else str(pid))
        for line in (own_proc / "cgroup").read_text().splitlines():
            hierarchy, controllers, group = line.split(":", 2)
            if hierarchy == "0" and group.startswith("/.."):
                # A container beside this one: its group can't be named from here, and is the root of what it sees.
                files.append(own_proc / "root" / root.relative_to("/") / "memory.max")
                continue
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
