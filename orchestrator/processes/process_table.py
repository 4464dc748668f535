"""Processes as ``/proc`` shows them.

Ids are reused, so a process that is remembered for longer than its parent waits for it is named by its id and its start
time: what survived a crash or a reboot must never make us signal a stranger. Zombies count as gone everywhere.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

POLL_S = 0.05
_SESSION, _START_TICKS = 3, 19  # fields of /proc/PID/stat, counted from the state
_WAIT_CALL = {"x86_64": "61", "aarch64": "260"}.get(os.uname().machine)
"""The number of the system call wait4; None where it is not known here."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process that can't be mistaken for a later one with the same id; ``start_ticks`` are clock ticks since boot."""

    pid: int
    start_ticks: int

    def is_alive(self) -> bool:
        """Return whether exactly this process still runs."""
        return read_identity(self.pid) == self

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until the process is gone; return whether it is."""
        deadline_s = time.monotonic() + timeout_s
        while self.is_alive():
            if time.monotonic() > deadline_s:
                return False
            time.sleep(POLL_S)
        return True

    def end(self, grace_s: float) -> None:
        """End the process by SIGTERM, then by SIGKILL, and wait for it after either."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self.is_alive():
                os.kill(self.pid, number)
                self.wait_gone(grace_s)


def read_identity(pid: int) -> ProcessIdentity | None:
    """Return the identity of a running process; None when there is none of this id."""
    fields = _read_stat(str(pid))
    return None if fields is None else ProcessIdentity(pid, int(fields[_START_TICKS]))


def list_session(session_id: int) -> list[int]:
    """Return the ids of a session's processes."""
    found = ((pid, _read_stat(str(pid))) for pid in list_processes())
    return [pid for pid, fields in found if fields is not None and int(fields[_SESSION]) == session_id]


def list_processes() -> list[int]:
    """Return the ids of all processes, zombies too."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def list_awaited(pid: int) -> set[int]:
    """Return the ids of the children for whose end a thread of a process waits, as far as the kernel shows it."""
    found = set()
    with contextlib.suppress(OSError):  # it is gone
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError):  # it is gone, or not shown
                call = Path(f"/proc/{pid}/task/{thread}/syscall").read_text().split()
                if call[0] == _WAIT_CALL:
                    found.add(int(call[1], 16))
    return found


def is_stopped(pid: int) -> bool:
    """Return whether a process is stopped by a signal, and does nothing until another one lets it go on."""
    stat = _read_stat(str(pid))
    return stat is not None and stat[0] == "T"


def read_command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def _read_stat(pid: str) -> list[str] | None:
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except OSError:
        return None  # gone between listing and reading
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else fields
