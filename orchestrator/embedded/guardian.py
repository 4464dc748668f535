"""A tiny process that owns one tritonserver, so that nothing outlives whoever started it.

A parent killed with SIGKILL cleans nothing up, and tritonserver's Python stubs are its grandchildren. So the parent
starts this guardian, and the guardian starts tritonserver:

- Between parent and guardian lies a socket. When it closes, the parent is gone (the kernel closes it, whatever
  killed the parent) and the server is stopped: SIGTERM, a bounded wait, SIGKILL for what is left.
- tritonserver runs in a session of its own: Ctrl-C in a terminal reaches the parent only, which then decides.
- The guardian is a child subreaper: stubs orphaned by a crashed server become its children, are found by their
  session, killed and reaped, and their shared memory regions are unlinked.
- When the guardian itself is killed the kernel sends tritonserver SIGTERM (PR_SET_PDEATHSIG), which ends it and
  its stubs in an orderly way; a parent still alive clears the rest with `kill_session`.

Protocol, one JSON object a line. Parent: a `Task`, later `{"stop": true}`. Guardian: `{"pid": n}` when the server
has been forked, `{"exit_code": n}` when it is gone with its stubs (negative: killed by that signal). Then it waits
for the socket to close, so that the parent can read the log, removes the private directory and exits.

Runs as `python -I -S guardian.py SOCKET DIRECTORY`, two inherited descriptors; the second is only held, as the
lock of the private directory. Only the standard library, and started in some 20 ms.
"""

import contextlib
import ctypes
import json
import os
import re
import select
import shutil
import signal
import socket
import sys
import time
from collections.abc import Set
from dataclasses import asdict, dataclass
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
SHM_REGION = re.compile(r"triton_\w+_shm_region_[0-9a-f-]{36}")
STUB_NAME = "triton_python_backend_stub"
KILL_WAIT_S = 5.0
PARENT_CHECK_S = 1.0
STOP_CHECK_S = 0.02


@dataclass(frozen=True, slots=True)
class Task:
    """What a guardian is to do.

    Attributes:
        command: Program and arguments.
        environment: The whole environment of the program.
        log_path: File that its output is appended to.
        cpus: CPUs that it may run on; None leaves them as they are.
        directory: Private directory, removed at the end.
        grace_s: Time between SIGTERM and SIGKILL.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    log_path: str
    cpus: tuple[int, ...] | None
    directory: str
    grace_s: float

    def encode(self) -> bytes:
        """Return the line that `decode_task` understands."""
        return json.dumps(asdict(self)).encode() + b"\n"


def decode_task(line: bytes) -> Task:
    """Return the task of a line made by `Task.encode`."""
    fields = json.loads(line)
    cpus = fields.pop("cpus")
    command = tuple(fields.pop("command"))
    return Task(command=command, cpus=None if cpus is None else tuple(cpus), **fields)


# --- processes of a session ---


def list_session(session_id: int) -> list[int]:
    """Return the process ids of a session that are still alive (zombies are not)."""
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit() and _read_session(entry) == session_id]


def _read_session(pid: str) -> int | None:
    try:
        stat = Path("/proc", pid, "stat").read_text()
    except OSError:
        return None  # gone between listing and reading
    state, _ppid, _pgrp, session = stat.rpartition(")")[2].split()[:4]
    return None if state in "ZX" else int(session)


def read_command_line(pid: int) -> list[str]:
    """Return the arguments of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def list_stubs(session_id: int) -> list[int]:
    """Return the Python stubs in a tritonserver's session."""
    return [pid for pid in list_session(session_id) if _is_stub(read_command_line(pid))]


def _is_stub(command_line: list[str]) -> bool:
    return bool(command_line) and command_line[0].endswith(STUB_NAME)


def mapped_regions(pid: int) -> set[str]:
    """Return the names of the shared memory regions of stubs that a tritonserver has mapped; empty when it is gone."""
    try:
        return set(SHM_REGION.findall(Path(f"/proc/{pid}/maps").read_text()))
    except OSError:
        return set()


def kill_session(session_id: int, *, wait_s: float = KILL_WAIT_S, regions: Set[str] = frozenset()) -> None:
    """Kill every process of a session, wait until all are gone, and unlink the stubs' shared memory regions.

    Args:
        session_id: Process id of the tritonserver that leads it.
        wait_s: How long to wait.
        regions: Those known besides the ones that stubs still alive name in their arguments.
    """
    regions = set(regions)
    deadline_s = time.monotonic() + wait_s
    while pids := list_session(session_id):
        regions |= mapped_regions(session_id)
        for pid in pids:
            # A stub's arguments name its region: only what is certainly ours gets unlinked.
            regions.update(arg for arg in read_command_line(pid) if SHM_REGION.fullmatch(arg))
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            break
        time.sleep(0.01)
    for region in regions:
        with contextlib.suppress(OSError):
            os.unlink(f"/dev/shm/{region}")


def remove_python_environments() -> None:
    """Remove the empty /tmp/python_env_* of this user that killed tritonservers have left behind.

    The Python backend makes one a server and only an orderly exit removes it. Nothing tells whose one is, so this
    waits until no tritonserver lives at all.
    """
    for entry in os.listdir("/proc"):
        if entry.isdigit() and _read_session(entry) is not None and _read_name(entry) == "tritonserver":
            return
    for path in Path("/tmp").glob("python_env_??????"):
        with contextlib.suppress(OSError):  # not empty, or just gone
            if path.stat().st_uid == os.getuid():
                path.rmdir()


def _read_name(pid: str) -> str:
    try:
        return Path("/proc", pid, "comm").read_text().strip()
    except OSError:
        return ""


# --- the guardian ---


def spawn(task: Task) -> int:
    """Start the program in a session of its own and return its process id, which is also the session's."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child should only make system calls
    log = os.open(task.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())  # ours too: whatever goes wrong here is told where one will look
    executing, started = os.pipe()  # closed in the child by a successful exec, and by its end
    guardian = os.getpid()
    pid = os.fork()
    if pid:
        os.close(log)
        os.close(started)
        os.read(executing, 1)  # until then the child is neither in its session nor bound to its CPUs
        os.close(executing)
        return pid
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # died before the line above could tell the kernel
            os._exit(1)
        if task.cpus is not None:
            os.sched_setaffinity(0, task.cpus)
        os.execve(task.command[0], task.command, task.environment)
    except OSError as exc:
        os.write(2, f"error: can't start {task.command[0]}: {exc}\n".encode())
    finally:
        os._exit(127)


def _reap_children() -> dict[int, int]:
    codes: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
            codes[reaped[0]] = os.waitstatus_to_exitcode(reaped[1])
    return codes


def watch(pid: int, channel: socket.socket, wake: socket.socket, grace_s: float) -> tuple[int, set[str]]:
    """Wait until the server exits, stopping it when the parent asks or is gone.

    Returns:
        Its exit code, and the shared memory regions it had while it was stopping: a server that is told to stop while
        it loads leaves those of the stubs that have just started.
    """
    parent = os.getppid()
    regions: set[str] = set()
    kill_at_s: float | None = None  # None while nobody wants the server to stop
    while True:
        codes = _reap_children()
        if pid in codes:
            return codes[pid], regions
        now_s = time.monotonic()
        if kill_at_s is not None and now_s > kill_at_s:
            kill_session(pid, wait_s=0.0)
        sources = [wake] if kill_at_s is not None else [wake, channel]
        if kill_at_s is not None:
            regions |= mapped_regions(pid)
        wait_s = PARENT_CHECK_S if kill_at_s is None else STOP_CHECK_S
        readable, _, _ = select.select(sources, [], [], wait_s)
        signals = wake.recv(64) if wake in readable else b""
        # Cases: a stop line or EOF on the channel; a signal to end; a parent that died while some other process
        # still holds a copy of its socket.
        if kill_at_s is None and (
            channel in readable or set(signals) & {signal.SIGTERM, signal.SIGHUP} or os.getppid() != parent
        ):
            kill_at_s = time.monotonic() + grace_s
            regions |= mapped_regions(pid)
            os.kill(pid, signal.SIGTERM)


def _wake_on_signals() -> socket.socket:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reader


def _send(channel: socket.socket, message: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        channel.sendall(json.dumps(message).encode() + b"\n")


def main(descriptor: int, directory_lock: int) -> None:
    """Do the task that arrives on an inherited socket."""
    os.set_inheritable(directory_lock, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on_signals()
    channel = socket.socket(fileno=descriptor)
    # The server must not hold a copy: the parent would not notice that this process is gone.
    channel.set_inheritable(False)
    # Unbuffered: a stop that was sent right behind the task must stay in the socket for `watch`.
    line = channel.makefile("rb", buffering=0).readline()
    if not line.endswith(b"\n"):
        return  # the parent died before it had said what to do
    task = decode_task(line)
    try:
        pid = spawn(task)
        _send(channel, {"pid": pid})
        exit_code, regions = watch(pid, channel, wake, task.grace_s)
        kill_session(pid, regions=regions)
        remove_python_environments()
        _send(channel, {"exit_code": exit_code})
        with contextlib.suppress(OSError):
            while channel.recv(64):
                pass
    finally:
        shutil.rmtree(task.directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
