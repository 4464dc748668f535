"""One tritonserver and its Python stubs: what they use, and which of the stubs live.

Cost is why this is not three lines of psutil. The parent of a process never changes while the parent lives, so each
read looks only at the processes that are new since the last one; `Process.children` reads all of /proc anew, and
/proc/PID/task/*/children, one file for each of Triton's threads, needs a kernel built for it. A stub's arguments never
change either. That a process id comes round again between two reads is not guarded against.

Not every stub that lives serves. WORKAROUND(Triton 2.51): when one stub of a model died with a request in hand, the
version it belonged to is never taken down: a reload brings new stubs, and the others of the old version stay for ever,
children of the server, under the same names, in memory and of no use. Names alone don't distinguish them, because a
count changed in place uses names again: after 1, 2, 1 and 2 instances both that serve are called ``_0_1``. But every
load and full reload starts an instance 0, and a change in place never does, for at least one instance stays. So the
newest instance 0 ever seen begins the generation that serves, and who is older does not count. Its siblings are started
side by side with it, some a moment earlier; of those a moment older, whoever has a namesake in the generation is none
of them. Proven on the binary in tests/telemetry/test_real_triton.py.

What is not seen: orphans from before the first look, once the instance 0 of the generation that serves is gone.

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
INSTANCE_NAME = re.compile(r"(?P<group>(?P<model>.+)_\d+)_(?P<index>\d+)")  # model, instance group, instance
SIBLING_S = 3.0
"""Longest time between the starts of one load's stubs; 0.7 s at most were measured on a busy host. A change of the same
model needs longer: its stubs must first have come up."""
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """What a server and its stubs use, all of one moment.

    Attributes:
        private_bytes: Resident memory that is no file's and nobody else's, orphans included. Libraries and shared
            memory regions, mapped by every stub alike, don't count: they would count once a stub.
        cpu_s: Processor time since the server's start, of stubs that have ended included.
        cpus: The number of CPUs that the server may run on.
        server_threads: The threads of the server itself.
        live_instances: Stubs alive that serve, by model name; a model without any is not in it. None when that is
            unknown: this server has had no stub yet (Triton's own onnxruntime backend never has one), or one stub's
            arguments are not understood.
        instance_bytes: Private memory of the largest of these, by model name; empty where there is none.
        overhead_bytes: Private memory of all but these; None while this server has had no stub.
    """

    private_bytes: int
    cpu_s: float
    cpus: int
    server_threads: int
    live_instances: Mapping[str, int] | None
    instance_bytes: Mapping[str, int]
    overhead_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _Stub:
    """A stub by its arguments; both names are None where they are not understood."""

    started_s: float
    model: str | None = None
    group: str | None = None
    index: int | None = None


class ServerTree:
    """A tritonserver and its children."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._seen: set[int] = set()
        self._children: dict[int, psutil.Process] = {}
        self._stubs: dict[int, _Stub] = {}  # of the children that are stubs, zombies included
        self._orphans: set[int] = set()
        self._generations_s: dict[str, float] = {}  # by group, when the newest instance 0 ever seen was started
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
        """Return what is used now; raises psutil.Error when the server has gone, or may not be looked at."""
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
        # For good, because the namesakes by which some are known may go.
        self._orphans |= {pid for pid in live if not self._is_serving(self._stubs[pid])}
        serving = {pid: own_bytes for pid, own_bytes in live.items() if pid not in self._orphans}
        overhead_bytes = private_bytes - sum(serving.values()) if self._has_had_stubs else None
        usage = TreeUsage(
            private_bytes,
            cpu_s,
            cpus,
            self._server.num_threads(),
            self._count(serving),
            self._measure(serving),
            overhead_bytes,
        )
        return usage, is_settled

    def _list_children(self) -> dict[int, psutil.Process]:
        pids = set(psutil.pids())
        if self._seen:
            new = [child for pid in pids - self._seen if (child := self._adopt(pid)) is not None]
        else:
            new = self._server.children()
        self._seen = pids
        self._children = {pid: child for pid, child in self._children.items() if pid in pids}
        self._stubs = {pid: stub for pid, stub in self._stubs.items() if pid in pids}
        self._orphans &= pids
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
        if pid not in self._stubs:
            arguments = child.cmdline()
            if not arguments or os.path.basename(arguments[0]) != STUB_NAME:
                return False
            self._enter(pid, _parse_stub(arguments, child.create_time()))
        return True

    def _enter(self, pid: int, stub: _Stub) -> None:
        self._stubs[pid] = stub
        self._has_had_stubs = True
        if stub.group is not None and stub.index == 0:
            self._generations_s[stub.group] = max(stub.started_s, self._generations_s.get(stub.group, 0.0))

    def _is_serving(self, stub: _Stub) -> bool:
        """Return whether a stub belongs to the version that serves; True as well where that is unknown."""
        began_s = self._generations_s.get(stub.group) if stub.group is not None else None
        if began_s is None or stub.started_s >= began_s:
            return True
        if stub.index == 0 or stub.started_s < began_s - SIBLING_S:
            return False
        return not any(
            (other.group, other.index) == (stub.group, stub.index)
            and stub.started_s < other.started_s <= began_s + SIBLING_S
            for other in self._stubs.values()
        )

    def _measure(self, serving: Mapping[int, int]) -> Mapping[str, int]:
        largest: dict[str, int] = {}
        for pid, own_bytes in serving.items():
            model = self._stubs[pid].model
            if model is not None:
                largest[model] = max(own_bytes, largest.get(model, 0))
        return largest

    def _count(self, serving: Iterable[int]) -> Mapping[str, int] | None:
        models = [self._stubs[pid].model for pid in serving]
        known = [model for model in models if model is not None]
        return dict(Counter(known)) if self._has_had_stubs and len(known) == len(models) else None


def _parse_stub(arguments: list[str], started_s: float) -> _Stub:
    if len(arguments) <= INSTANCE_ARGUMENT:
        return _Stub(started_s)
    match = INSTANCE_NAME.fullmatch(arguments[INSTANCE_ARGUMENT])
    return _Stub(started_s) if match is None else _Stub(started_s, match["model"], match["group"], int(match["index"]))


def _private_bytes(process: psutil.Process) -> int:
    memory = process.memory_info()  # of /proc/PID/statm; exact figures (smaps) cost milliseconds a process
    return max(0, int(memory.rss) - int(memory.shared))
