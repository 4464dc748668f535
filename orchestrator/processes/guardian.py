"""A tiny process that owns one program, so that nothing outlives whoever started it.

A parent killed with SIGKILL cleans nothing up, and what its children have started are no children of its own. So the
parent starts this guardian, and the guardian starts the program:

- The guardian's standard input is a pipe from the parent. When it ends, the parent is gone (the kernel closes it,
  whatever killed the parent) or wants the program to stop: SIGTERM, a bounded wait, SIGKILL for what is left.
- The program runs in a session of its own: Ctrl-C in a terminal reaches the parent only, which then decides.
- The guardian is a child subreaper: what a crashed program has orphaned becomes its children, is found by its
  session, killed and reaped, and what it leaves behind outside of its directory is removed (``Leftovers``).
- When the guardian itself is killed the kernel sends the program SIGTERM (PR_SET_PDEATHSIG); a parent still alive
  clears the rest with `kill_session`.

Protocol, one JSON object a line. Standard input: a `Task`, then nothing, and at last its end. Standard output:
`{"pid": n}` when the program has been forked, `{"exit_code": n}` when it is gone with its session (negative: killed by
that signal). Then the guardian waits for the end of its input, so that the parent can read the log, removes the private
directory and exits.

Run as `python -I -S`, without the user's environment and packages, and up in some 20 ms: only the standard library.
"""

import contextlib
import ctypes
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import time
from dataclasses import asdict, dataclass

from orchestrator.processes.process_table import list_session

STDIN, STDOUT = 0, 1
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
KILL_WAIT_S = 5.0
PARENT_CHECK_S = 1.0
STOP_CHECK_S = 0.02


@dataclass(frozen=True, slots=True)
class Task:
    """What a guardian is to do.

    Attributes:
        environment: The whole environment of the program.
        log_path: File that its output is appended to.
        cpus: CPUs that it may run on; None leaves them as they are.
        directory: Private directory, removed at the end.
        grace_s: Time between SIGTERM and SIGKILL.
        leftovers: Module whose class of that name removes what such a program leaves behind; None: it leaves nothing.
    """

    command: tuple[str, ...]
    environment: dict[str, str]
    log_path: str
    cpus: tuple[int, ...] | None
    directory: str
    grace_s: float
    leftovers: str | None = None

    def encode(self) -> bytes:
        """Return the line that `decode_task` understands."""
        return json.dumps(asdict(self)).encode() + b"\n"


def decode_task(line: bytes) -> Task:
    """Return the task of a line made by `Task.encode`."""
    fields = json.loads(line)
    cpus = fields.pop("cpus")
    command = tuple(fields.pop("command"))
    return Task(command=command, cpus=None if cpus is None else tuple(cpus), **fields)


class Leftovers:
    """What a program may leave behind outside of its directory, and whom it may wait for in vain; here, nothing."""

    def note(self, pid: int) -> None:
        """Look at a process of the program that is about to go."""

    def sweep(self, pid: int) -> None:
        """Remove what children of the running program have left, and end those that never would; once a second."""

    def remove(self) -> None:
        """Remove what the noted processes have left, once they are gone."""


def load_leftovers(module: str | None) -> Leftovers:
    """Return what a task's module knows of leftovers."""
    if module is None:
        return Leftovers()
    leftovers: Leftovers = importlib.import_module(module).Leftovers()
    return leftovers


def kill_session(session_id: int, leftovers: Leftovers, *, wait_s: float = KILL_WAIT_S) -> None:
    """Kill every process of a session, whose id is its leader's, and wait until all are gone."""
    deadline_s = time.monotonic() + wait_s
    while pids := list_session(session_id):
        for pid in pids:
            leftovers.note(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline_s:
            return
        time.sleep(0.01)


def spawn(task: Task) -> int:
    """Start the program in a session of its own and return its process id, which is also the session's."""
    libc = ctypes.CDLL(None, use_errno=True)  # loaded before the fork: the child should only make system calls
    log = os.open(task.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())  # ours too: whatever goes wrong here is found where one will look
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
        # The program holds no copy of the parent's pipes, so that the parent notices when this process is gone.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != guardian:  # died before the line above had reached the kernel
            os._exit(1)
        if task.cpus is not None:
            os.sched_setaffinity(0, task.cpus)
        os.execve(task.command[0], task.command, task.environment)
    except OSError as exc:
        os.write(2, f"error: can't start {task.command[0]}: {exc}\n".encode())
    finally:
        os._exit(127)


def watch(pid: int, wake: socket.socket, grace_s: float, leftovers: Leftovers) -> int:
    """Wait until the program exits, stopping it when the parent wants that or is gone; return its exit code."""
    parent = os.getppid()
    kill_at_s: float | None = None  # None while nobody wants the program to stop
    sources: list[socket.socket | int] = [wake, STDIN]
    while True:
        codes = _reap_children()
        if pid in codes:
            return codes[pid]
        if kill_at_s is not None:
            # Noted all the while: a program stopped while it starts leaves what it has only just made.
            leftovers.note(pid)
            if time.monotonic() > kill_at_s:
                kill_session(pid, leftovers, wait_s=0.0)
        else:
            leftovers.sweep(pid)
        readable, _, _ = select.select(sources, [], [], PARENT_CHECK_S if kill_at_s is None else STOP_CHECK_S)
        signals = wake.recv(64) if wake in readable else b""
        # Cases: the end of the input; a signal to end; a parent that died while some other process still holds a copy
        # of its end.
        if kill_at_s is None and (
            STDIN in readable or set(signals) & {signal.SIGTERM, signal.SIGHUP} or os.getppid() != parent
        ):
            kill_at_s = time.monotonic() + grace_s
            sources = [wake]
            leftovers.note(pid)
            os.kill(pid, signal.SIGTERM)


def _reap_children() -> dict[int, int]:
    codes: dict[int, int] = {}
    with contextlib.suppress(ChildProcessError):
        while (reaped := os.waitpid(-1, os.WNOHANG))[0]:
            codes[reaped[0]] = os.waitstatus_to_exitcode(reaped[1])
    return codes


def _wake_on_signals() -> socket.socket:
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    signal.set_wakeup_fd(writer.detach(), warn_on_full_buffer=False)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return reader


def _report(message: dict[str, int]) -> None:
    with contextlib.suppress(OSError):  # nobody may be listening any more
        os.write(STDOUT, json.dumps(message).encode() + b"\n")


def main(directory_lock: int) -> None:
    """Do the task on standard input, holding the private directory, so that nobody takes it for abandoned."""
    os.chdir("/")
    os.set_inheritable(directory_lock, False)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    wake = _wake_on_signals()
    with open(STDIN, "rb", buffering=0, closefd=False) as tasks:
        line = tasks.readline()
    if not line.endswith(b"\n"):
        return  # the parent died before it had said what to do
    task = decode_task(line)
    try:
        leftovers = load_leftovers(task.leftovers)
        pid = spawn(task)
        _report({"pid": pid})
        exit_code = watch(pid, wake, task.grace_s, leftovers)
        kill_session(pid, leftovers)
        leftovers.remove()
        _report({"exit_code": exit_code})
        with contextlib.suppress(OSError):
            while os.read(STDIN, 64):
                pass
    finally:
        shutil.rmtree(task.directory, ignore_errors=True)
