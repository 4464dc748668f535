"""One run of a program of ours, which ends by itself when this process is gone.

How it notices is up to the program: by the end of its standard input (``has_lifeline``), or of a socket that it has
inherited; the kernel closes either, whatever has ended this process. A program that does no such thing, or whose own
children would stay, needs a guardian (see ``guarded``).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from orchestrator.errors import ServerUnavailableError
from orchestrator.files import open_private
from orchestrator.processes.readiness import Hearing

log = logging.getLogger(__name__)

_POLL_S = 0.05
_SLIMSCHED = "from orchestrator.cli import main; main()"


class ChildProcess:
    """One run of a program.

    Args:
        name: For people.
        stop_s: How long it may take to end after SIGTERM before it is killed.
        environment: The whole environment of the program; None: that of this process.
        log_path: File that its output is appended to; None: it goes where this process's own goes.
        pass_fds: Descriptors that the program inherits.
        has_lifeline: Whether its standard input stays open for as long as this process lives; else it is empty.
        is_ready: Asked again and again until it says that the program has started; None: once it runs.
        says_ready: Whether the program itself says so, see ``readiness``; ``is_ready`` is not asked then.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        stop_s: float,
        environment: Mapping[str, str] | None = None,
        log_path: Path | None = None,
        pass_fds: Sequence[int] = (),
        has_lifeline: bool = False,
        is_ready: Callable[[], Awaitable[bool]] | None = None,
        says_ready: bool = False,
    ) -> None:
        self._name = name
        self._command = command
        self._stop_s = stop_s
        self._environment = environment
        self._log_path = log_path
        self._pass_fds = pass_fds
        self._has_lifeline = has_lifeline
        self._is_ready = is_ready
        self._says_ready = says_ready
        self._process: Process | None = None
        self._log_offset = 0

    @classmethod
    def slimsched(cls, *arguments: str, environment: Mapping[str, str] | None = None, **more: Any) -> Self:
        """Return a run of a ``slimsched`` command that has ``--until-stdin-ends``, with this interpreter and its path.

        ``environment`` and ``more`` are as for any run; its name is that of the command.
        """
        command = (sys.executable, "-c", _SLIMSCHED, *arguments, "--until-stdin-ends")
        given = os.environ if environment is None else environment
        environment = {**given, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        return cls(arguments[0], command, environment=environment, has_lifeline=True, **more)

    @property
    def pid(self) -> int | None:
        """Process id; None before the program was started."""
        return None if self._process is None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the program was started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start the program; returns when it is ready.

        Raises:
            ServerUnavailableError: It ended instead; with the last line of its log.
            OSError: It could not be started at all.
        """
        environment, is_ready = self._environment, self._is_ready
        with contextlib.ExitStack() as stack:
            if self._says_ready:
                hearing = stack.enter_context(Hearing())
                environment = {**(os.environ if environment is None else environment), **hearing.environment}
                is_ready = hearing.is_heard
            log_path = self._log_path
            output = None if log_path is None else stack.enter_context(open(log_path, "ab", opener=open_private))
            self._log_offset = 0 if output is None else output.tell()
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=PIPE if self._has_lifeline else DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                pass_fds=self._pass_fds,
                start_new_session=True,  # Ctrl-C is for this process, which then ends its children in order
            )
            while is_ready is not None and not await is_ready():
                if (exit_code := self._process.returncode) is not None:
                    raise ServerUnavailableError(self._read_last_line() or describe_exit_code(exit_code))
                await asyncio.sleep(_POLL_S)

    async def wait_exited(self) -> str:
        """Wait until the program has ended; return how, and its last line when that was by itself."""
        assert self._process is not None, "it has been started"
        exit_code = await self._process.wait()
        last_line = self._read_last_line() if exit_code > 0 else ""
        return describe_exit_code(exit_code) + (f": {last_line}" if last_line else "")

    async def stop(self) -> None:
        """End the program: SIGTERM, a bounded wait, SIGKILL. Idempotent."""
        if self._process is None or not self.is_running:
            return
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._process.wait()
        except TimeoutError:
            log.error("%s did not end within %g s and is killed", self._name, self._stop_s)
            self.signal(signal.SIGKILL)
            await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, when it is there."""
        if self._process is not None and self.is_running:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _read_last_line(self) -> str:
        if self._log_path is None:
            return ""
        try:
            with self._log_path.open("rb") as output:
                output.seek(self._log_offset)
                lines = output.read().decode(errors="replace").strip().splitlines()
        except OSError:  # it was rotated away, which must not keep anybody from starting the program again
            return ""
        return lines[-1].removeprefix("Error: ") if lines else ""


async def is_listening(address: str) -> bool:
    """Return whether somebody accepts connections on ``host:port``."""
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        return False
    writer.close()
    return True


def describe_exit_code(exit_code: int | None) -> str:
    """Return how a process ended, to be read on from its name; None when nobody is left who could know."""
    if exit_code is None:
        return "lost its guardian process and was stopped"
    if exit_code < 0:
        return f"was killed by {signal.Signals(-exit_code).name}"
    return f"exited with status {exit_code}"
