"""One tritonserver and its Python stubs: what they use, and which of the stubs live.

Cost is why this is not three lines of psutil. The parent of a process never changes while the parent lives, so each
read looks only at the processes that are new since the last one; `Process.children` reads all of /proc anew, and
/proc/PID/task/*/children, one file for each of Triton's threads, needs a kernel built for it. A stub's arguments never
change either. That a process id comes round again between two reads is not guarded against.

CPU time is that of the server, of the children it has reaped and of those it has not: a stub that ends moves from
the last to the second of these, so the sum never falls, and the tail of a stub's life is not lost.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import psutil

STUB_NAME = "triton_python_backend_stub"
KERNEL_NAME = STUB_NAME[:15]  # the kernel keeps so much of a name
INSTANCE_ARGUMENT = 8  # of the stub's, counted from the program; the order is the stub's own, of no documentation
INSTANCE_NAME = re.compile(r"(?P<model>.+)_\d+_\d+")  # model, instance group, instance
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a server and its stubs use, all of one moment.

    Attributes:
        private_bytes: resident memory that is no file's and nobody else's. Libraries and shared memory regions, mapped
            by every stub alike, don't count: they would count once a stub.
        cpu_s: processor time since the server's start, of stubs that have ended included.
        cpus: on how many the server may run.
        live_instances: stubs alive, by model name; a model without any is not in it. None when that can't be told:
            this server has had no stub yet (Triton's own onnxruntime backend never has one), or one stub's arguments
            are not understood.
        instance_bytes: private memory of the largest live stub, by model name; empty where there is none.
    """

    private_bytes: int
    cpu_s: float
    cpus: int
    live_instances: Mapping[str, int] | None
    instance_bytes: Mapping[str, int]


class ServerTree:
    """A tritonserver and its children.

    Args:
        server: the process of tritonserver.
    """

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._seen: set[int] = set()
        self._children: dict[int, psutil.Process] = {}
        self._models: dict[int, str | None] = {}  # of the children that are stubs; None where not understood
        self._has_had_stubs = False
        self.server_id = f"{server.pid}:{server.create_time():.2f}"

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._server.pid

    def is_alive(self) -> bool:
        """Whether the server runs, and is still the one that it was."""
        try:
            return self._server.is_running() and self._server.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            return False

    def read(self) -> TreeUsage:
        """Return what is used now.

        Raises:
            psutil.Error: the server has gone, or may not be looked at.
        """
        for _ in range(ATTEMPTS - 1):
            usage, is_settled = self._sample()
            if is_settled:
                return usage
        return self._sample()[0]

    def _sample(self) -> tuple[TreeUsage, bool]:
        """Return what is used, and whether no child was reaped meanwhile: its time would count twice or not at all."""
        before = self._server.cpu_times()
        private_bytes = _private_bytes(self._server)
        if private_bytes == 0:  # a process on its way out has no memory any more, but is still listed
            raise psutil.NoSuchProcess(self._server.pid)
        cpu_s, has_vanished = 0.0, False
        live: dict[int, int] = {}
        for pid, child in self._list_children().items():
            try:
                with child.oneshot():
                    times = child.cpu_times()
                    own_bytes = _private_bytes(child)
                    is_live_stub = self._is_live_stub(pid, child)
            except psutil.NoSuchProcess:
                has_vanished = True
                continue
            cpu_s += times.user + times.system  # a zombie's too: it is not the server's until reaped
            if is_live_stub:
                live[pid] = own_bytes
                private_bytes += own_bytes
        after = self._server.cpu_times()
        cpu_s += after.user + after.system + after.children_user + after.children_system
        is_settled = not has_vanished and (before.children_user, before.children_system) == (
            after.children_user,
            after.children_system,
        )
        cpus = len(self._server.cpu_affinity() or ()) or psutil.cpu_count() or 1
        return TreeUsage(private_bytes, cpu_s, cpus, self._count(live), self._measure(live)), is_settled

    def _list_children(self) -> dict[int, psutil.Process]:
        pids = set(psutil.pids())
        if self._seen:
            new = [child for pid in pids - self._seen if (child := self._adopt(pid)) is not None]
        else:
            new = self._server.children()
        self._seen = pids
        self._children = {pid: child for pid, child in self._children.items() if pid in pids}
        self._models = {pid: model for pid, model in self._models.items() if pid in pids}
        self._children.update((child.pid, child) for child in new)
        return self._children

    def _adopt(self, pid: int) -> psutil.Process | None:
        try:
            process = psutil.Process(pid)
            return process if process.ppid() == self._server.pid else None
        except psutil.Error:
            return None

    def _is_live_stub(self, pid: int, child: psutil.Process) -> bool:
        """A child that is no stub is asked again next time: between fork and exec it is a copy of the server."""
        if child.status() == psutil.STATUS_ZOMBIE:
            # Its arguments are gone but its name is not: a controller that comes late still learns of dead stubs.
            self._has_had_stubs |= child.name().startswith(KERNEL_NAME)
            return False
        if pid not in self._models:
            arguments = child.cmdline()
            if not arguments or os.path.basename(arguments[0]) != STUB_NAME:
                return False
            self._models[pid] = _parse_model(arguments)
            self._has_had_stubs = True
        return True

    def _measure(self, live: Mapping[int, int]) -> Mapping[str, int]:
        largest: dict[str, int] = {}
        for pid, own_bytes in live.items():
            model = self._models[pid]
            if model is not None:
                largest[model] = max(own_bytes, largest.get(model, 0))
        return largest

    def _count(self, live: Iterable[int]) -> Mapping[str, int] | None:
        models = [self._models[pid] for pid in live]
        known = [model for model in models if model is not None]
        return dict(Counter(known)) if self._has_had_stubs and len(known) == len(models) else None


def _parse_model(arguments: list[str]) -> str | None:
    if len(arguments) <= INSTANCE_ARGUMENT:
        return None
    match = INSTANCE_NAME.fullmatch(arguments[INSTANCE_ARGUMENT])
    return None if match is None else match["model"]


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()  # of /proc/PID/statm; exact figures (smaps) cost milliseconds a process
    return max(0, int(memory.rss) - int(memory.shared))
