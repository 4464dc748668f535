"""The parent's side of a guardian: start it, hear from it, and clear up after it if it was killed itself."""

import asyncio
import contextlib
import json
import socket
import subprocess
import sys

from orchestrator.embedded import guardian
from orchestrator.embedded.guardian import Task, kill_session
from orchestrator.embedded.private_directory import PrivateDirectory
from orchestrator.errors import EmbeddedServerError

GUARDIAN_MARGIN_S = 2.0  # beyond its own bounds, after which we no longer count on the guardian


class GuardedProcess:
    """One program, its children and its private directory, all gone after `stop` or when this process dies.

    Args:
        task: The program.
        directory: Its directory, which is ours to remove from now on.
    """

    def __init__(self, task: Task, directory: PrivateDirectory) -> None:
        self.exit_code: int | None = None  # None while running, and for ever when the guardian was killed
        self._task = task
        self._directory = directory
        self._pid: int | None = None
        self._guardian: subprocess.Popen[bytes] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._is_buried = False
        self._started = asyncio.Event()
        self._exited = asyncio.Event()

    @property
    def pid(self) -> int:
        """Process id of the program, also of its session."""
        if self._pid is None:
            raise EmbeddedServerError("the guarded process has not been started")
        return self._pid

    @property
    def guardian_pid(self) -> int:
        """Process id of the guardian."""
        if self._guardian is None:
            raise EmbeddedServerError("the guarded process has not been started")
        return self._guardian.pid

    @property
    def is_running(self) -> bool:
        """Whether the program has been started and neither it nor its guardian is known to be gone."""
        return self._pid is not None and not self._exited.is_set()

    async def start(self) -> None:
        """Start the guardian and, through it, the program; returns when the program has a process id.

        Raises:
            EmbeddedServerError: The guardian could not do it.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                descriptors = (theirs.fileno(), self._directory.descriptor)
                # -I and -S keep the user's environment and site-packages out: it must start fast and always.
                self._guardian = subprocess.Popen(
                    [sys.executable, "-I", "-S", guardian.__file__, *map(str, descriptors)],
                    pass_fds=descriptors,
                    start_new_session=True,
                    # It may outlive us by seconds, and must not keep a pipe open that someone reads us through.
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                )
                reader, self._writer = await asyncio.open_connection(sock=ours)
            except BaseException:
                ours.close()
                raise
        self._watcher = asyncio.create_task(self._watch(reader), name="guardian-watcher")
        self._writer.write(self._task.encode())
        await self._started.wait()
        if self._pid is None:
            raise EmbeddedServerError("the guardian of the embedded tritonserver died at start")

    async def wait_exited(self) -> None:
        """Wait until the program or its guardian is gone."""
        await self._exited.wait()

    async def stop(self) -> None:
        """End the program, its children and the guardian, and remove the directory. Idempotent."""
        process, writer, watcher = self._guardian, self._writer, self._watcher
        self._guardian = self._writer = self._watcher = None
        try:
            if writer is not None and not self._exited.is_set():
                writer.write(b'{"stop": true}\n')
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._stop_bound_s):
                        await self._exited.wait()
        finally:
            if writer is not None:
                writer.close()
            if watcher is not None:
                watcher.cancel()
            await asyncio.shield(asyncio.to_thread(self._bury, process))

    @property
    def _stop_bound_s(self) -> float:
        return self._task.grace_s + guardian.KILL_WAIT_S + GUARDIAN_MARGIN_S

    async def _watch(self, reader: asyncio.StreamReader) -> None:
        try:
            with contextlib.suppress(OSError):  # a killed guardian may reset the connection
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

    def _bury(self, process: subprocess.Popen[bytes] | None) -> None:
        if self._is_buried:
            return
        self._is_buried = True
        if process is not None:
            try:
                process.wait(timeout=self._stop_bound_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        if self._pid is not None and self.exit_code is None:  # the guardian was killed before it could do it
            kill_session(self._pid)
        self._directory.remove()
