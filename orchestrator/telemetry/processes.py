"""Triton as the operating system sees it: the process behind a local port, its stubs, their memory and CPU time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import psutil

from orchestrator.telemetry.listener import find_server
from orchestrator.telemetry.memory_limit import read_memory_total
from orchestrator.telemetry.meter import RateMeter
from orchestrator.telemetry.reading import Reading
from orchestrator.telemetry.server_tree import ServerTree, TreeUsage

SOURCE = "psutil"
# Looking for the server takes some 10 ms here and far more on a busy host; one that is down is not worth that often.
SEARCH_INTERVAL_S = 2.0


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """Triton's processes at one moment.

    Attributes:
        memory_used_bytes: Private memory of Triton and its stubs.
        memory_total_bytes: Memory of the host, or what Triton's control group allows if that is less.
        utilisation_ratio: How busy Triton and its stubs kept the CPUs that it may run on since the read before, 0..1.
        server_id: ``pid:create_time`` of Triton; None when it can't be seen.
        live_instances: Stubs alive that serve, as in ``TreeUsage``; None also when Triton can't be seen.
        cpus: The number of CPUs that Triton may run on; None when it can't be seen.
        instance_bytes: Private memory by model, as in ``TreeUsage``; empty also when Triton can't be seen.
        overhead_bytes: Private memory of all else, as in ``TreeUsage``; None also when Triton can't be seen.
    """

    memory_used_bytes: Reading
    memory_total_bytes: Reading
    utilisation_ratio: Reading
    server_id: str | None = None
    live_instances: Mapping[str, int] | None = None
    cpus: int | None = None
    instance_bytes: Mapping[str, int] = field(default_factory=dict)
    overhead_bytes: int | None = None

    @classmethod
    def absent(cls, reason: str, *, memory_total_bytes: Reading | None = None) -> ProcessReading:
        """Return a reading without Triton; the host's memory may still be known."""
        nothing = Reading.absent(reason)
        return cls(nothing, memory_total_bytes or nothing, nothing)


class TritonProcesses:
    """The tritonserver that listens on a port of this host, followed over its restarts.

    Args:
        port: Any port that it listens on; None when Triton isn't on this host.
        clock: A monotonic clock, in seconds.
        search_interval_s: The time between two searches for a server that was not found.
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

    def read(self) -> ProcessReading:
        """Return what can be seen; what can't is absent with its reason."""
        tree = self._follow()
        total = read_memory_total(None if tree is None else tree.pid)
        if tree is None:
            return ProcessReading.absent(self._reason, memory_total_bytes=total)
        try:
            usage = tree.read()
        except psutil.NoSuchProcess:
            return ProcessReading.absent(f"Triton (pid {tree.pid}) has just ended", memory_total_bytes=total)
        except (psutil.Error, OSError) as exc:
            return ProcessReading.absent(f"Triton (pid {tree.pid}) can't be read: {exc}", memory_total_bytes=total)
        return ProcessReading(
            memory_used_bytes=Reading(usage.private_bytes, SOURCE),
            memory_total_bytes=total,
            utilisation_ratio=self._utilisation(usage),
            server_id=tree.server_id,
            live_instances=usage.live_instances,
            cpus=usage.cpus,
            instance_bytes=usage.instance_bytes,
            overhead_bytes=usage.overhead_bytes,
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
