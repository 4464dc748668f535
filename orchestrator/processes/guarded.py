"""The parent's side of a guardian: start it, hear from it, and clear up after it if it was killed itself.

A guarded program has a temporary directory that is removed even when everyone who knew of it was killed: its owner
holds a lock on it, which the kernel drops with the owner's last process. Whoever creates the next one first removes
those of this user that nobody holds any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from dataclasses import dataclass
from pathlib import Path

from orchestrator.errors import EmbeddedServerError
from orchestrator.processes.child import describe_exit_code
from orchestrator.processes.guardian import KILL_WAIT_S, Task, kill_session, load_leftovers

PREFIX = "slimsched-triton-"
SETTLE_S = 60.0  # a directory this young may not have been locked yet by the process that has just made it
_MARGIN_S = 2.0  # beyond its own bounds, after which we no longer count on the guardian
_SCRIPT = (
    "import sys; sys.path.append(sys.argv[1]); from orchestrator.processes import guardian; "
    "guardian.main(int(sys.argv[2]))"
)
_ROOT = str(Path(__file__).parents[2])


@dataclass(frozen=True, slots=True)
class PrivateDirectory:
    """A directory and the descriptor that holds its lock; a process that inherits that holds the directory too."""

    path: Path
    descriptor: int

    def remove(self) -> None:
        """Remove the directory with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # it was removed before
            os.close(self.descriptor)


def create_private_directory() -> PrivateDirectory:
    """Create a directory for its owner only, and remove abandoned ones."""
    remove_abandoned(Path(tempfile.gettempdir()), older_than_s=SETTLE_S)
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return PrivateDirectory(path, descriptor)


def remove_abandoned(parent: Path, *, older_than_s: float) -> None:
    """Remove this user's private directories that no process holds."""
    newest_s = time.time() - older_than_s
    for path in parent.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # someone else's, or someone else was quicker
            status = path.lstat()
            if status.st_uid != os.getuid() or status.st_mtime > newest_s:
                continue
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)


class GuardedProcess:
    """One run of a program. With its children and its directory it is gone after `stop`, and when this process dies.

    Attributes:
        exit_code: None while it runs, and for ever when its guardian was killed.
    """

    def __init__(self, task: Task, directory: PrivateDirectory) -> None:
        self.exit_code: int | None = None
        self._task = task
        self._directory = directory
        self._pid: int | None = None
        self._guardian: Process | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._started = asyncio.Event()
        self._exited = asyncio.Event()

    @property
    def pid(self) -> int:
        """Process id of the program, which is its session's too; raises EmbeddedServerError before `start`."""
        if self._pid is None:
            raise EmbeddedServerError("the guarded process has not been started")
        return self._pid

    @property
    def is_running(self) -> bool:
        """Whether the program has been started and neither it nor its guardian is known to be gone."""
        return self._pid is not None and not self._exited.is_set()

    async def start(self) -> None:
        """Start the guardian and, through it, the program, whose id is known then; raises EmbeddedServerError."""
        self._guardian = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", "-c", _SCRIPT, _ROOT, str(self._directory.descriptor)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,  # it may outlive us by seconds, and must not keep a pipe open that someone reads us through
            pass_fds=(self._directory.descriptor,),
            start_new_session=True,
        )
        assert self._guardian.stdin is not None
        assert self._guardian.stdout is not None
        self._watcher = asyncio.create_task(self._watch(self._guardian.stdout), name="guardian-watcher")
        self._guardian.stdin.write(self._task.encode())
        await self._started.wait()
        if self._pid is None:
            raise EmbeddedServerError("the guardian of the embedded tritonserver died at start")

    async def wait_exited(self) -> str:
        """Wait until the program or its guardian is gone, and return how the program ended."""
        await self._exited.wait()
        return describe_exit_code(self.exit_code)

    async def stop(self) -> None:
        """End the program, its children and the guardian, and remove the directory. Idempotent."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop())
        await asyncio.shield(self._stopping)  # goes on to its end when the caller is cancelled

    async def _stop(self) -> None:
        if self._guardian is not None and self._watcher is not None:
            assert self._guardian.stdin is not None
            self._guardian.stdin.close()
            try:
                async with asyncio.timeout(self._task.grace_s + KILL_WAIT_S + _MARGIN_S):
                    await self._guardian.wait()
            except TimeoutError:
                self._guardian.kill()
                await self._guardian.wait()
            await self._watcher
        await asyncio.to_thread(self._clear)

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                message = json.loads(line)
                self._pid = message.get("pid", self._pid)
                self.exit_code = message.get("exit_code")
                self._started.set()
                if self.exit_code is not None:
                    return
        finally:
            self._started.set()
            self._exited.set()

    def _clear(self) -> None:
        if self._pid is not None and self.exit_code is None:  # the guardian was killed before it could do it
            leftovers = load_leftovers(self._task.leftovers)
            kill_session(self._pid, leftovers)
            leftovers.remove()
        self._directory.remove()
