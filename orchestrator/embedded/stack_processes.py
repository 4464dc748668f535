"""What ``slimsched up`` keeps running: embedded Tritons in here, controllers and the gateway as processes of their own.

Each part is started, watched, and started again when it dies, after pauses that grow while its lives are short. Nothing
outlives this process: a Triton has its guardian, and the others end when their standard input does.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, describe_exit_code
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.processes.back_off import count_short_lives, restart_pause_s

log = logging.getLogger(__name__)

_POLL_S = 0.05
_SCRIPT = "from orchestrator.cli import main; main()"


class State(StrEnum):
    """Where a part stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "died; again soon"
    ENDED = "ended"


class Runnable(Protocol):
    """One life of a part."""

    @property
    def pid(self) -> int | None:
        """Of its process; None before it has one."""
        ...

    async def start(self) -> None:
        """Return when it answers; raises SlimError, and nothing of it is left then."""
        ...

    async def wait_exited(self) -> str:
        """Return how it ended, once it has."""
        ...

    async def stop(self) -> None:
        """End it; idempotent, and bounded in time."""
        ...

    def kill(self) -> None:
        """End it at once."""
        ...

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it is there."""
        ...


class Part:
    """Something that is kept running.

    Args:
        name: for people.
        address: where it answers, for people.
        make: returns its next life.

    Attributes:
        state: where it stands.
        restarts: times it was started again.
    """

    def __init__(self, name: str, address: str, make: Callable[[], Runnable]) -> None:
        self.name = name
        self.address = address
        self.state = State.STARTING
        self.restarts = 0
        self._make = make
        self._life: Runnable | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of its process; None while it has none."""
        return None if self._life is None or self.state is not State.RUNNING else self._life.pid

    async def start(self) -> None:
        """Start it and keep it from now on.

        Raises:
            SlimError: when its first life does not begin.
        """
        await self._begin()
        self._keeper = asyncio.create_task(self._keep())

    async def stop(self) -> None:
        """End it for good."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._life is not None:
            await self._life.stop()
        self.state = State.ENDED

    def kill(self) -> None:
        """End it at once."""
        if self._life is not None:
            self._life.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it runs."""
        if self._life is not None and self.state is State.RUNNING:
            self._life.signal(number)

    async def _begin(self) -> None:
        self._life = self._make()
        self.state = State.STARTING
        try:
            await self._life.start()
        except BaseException:
            await self._life.stop()
            raise
        self.state = State.RUNNING

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        short_lives, began_s = 0, loop.time()
        while True:
            if self.state is State.RUNNING:
                assert self._life is not None
                how = await self._life.wait_exited()
                await self._life.stop()  # what it leaves behind
            short_lives = count_short_lives(short_lives, loop.time() - began_s)
            pause_s = restart_pause_s(short_lives)
            self.state = State.WAITING
            self.restarts += 1
            log.error("%s %s; started again%s", self.name, how, f" in {pause_s:g} s" if pause_s else "")
            await asyncio.sleep(pause_s)
            began_s = loop.time()
            try:
                await self._begin()
                log.info("%s runs again", self.name)
            except SlimError as exc:
                how = f"did not start: {exc}"


class EmbeddedTriton:
    """One life of an embedded Triton."""

    def __init__(self, repository: Path, options: EmbeddedOptions) -> None:
        self._server = EmbeddedServer(repository, options)

    @property
    def pid(self) -> int | None:
        """Of tritonserver."""
        return self._server.pid if self._server.is_running else None

    async def start(self) -> None:
        """Return when its models are loaded."""
        await self._server.__aenter__()  # ended by stop

    async def wait_exited(self) -> str:
        """Return how it ended; who reads it knows its name already."""
        return (await self._server.wait_exited()).removeprefix("tritonserver ")

    async def stop(self) -> None:
        """End it and its stubs."""
        await self._server.stop()

    def kill(self) -> None:
        """Nothing to do: its guardian notices that this process ends, and ends it."""

    def signal(self, number: signal.Signals) -> None:
        """Nothing to do: Triton reads no fleet file."""


class Command:
    """One life of a ``slimsched`` command.

    Args:
        arguments: of it.
        log_path: of what it says.
        address: that it answers at once it runs, ``host:port``; None: it runs when it was started.
        stop_s: how long it may take to end before it is killed.
    """

    def __init__(self, arguments: Sequence[str], *, log_path: Path, address: str | None, stop_s: float) -> None:
        self._arguments = arguments
        self._log_path = log_path
        self._address = address
        self._stop_s = stop_s
        self._process: asyncio.subprocess.Process | None = None
        self._log_offset = 0

    @property
    def pid(self) -> int | None:
        """Of its process."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Return when it answers.

        Raises:
            ServerUnavailableError: it ended instead; with its last line.
        """
        with self._log_path.open("ab") as said:
            self._log_offset = said.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", _SCRIPT, *self._arguments, "--until-stdin-ends"),
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=said,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                process_group=0,  # Ctrl-C is for this process, which then ends its parts in order
            )
        while self._address is not None and not await _listens(self._address):
            if self._process.returncode is not None:
                raise ServerUnavailableError(self._last_line() or await self.wait_exited())
            await asyncio.sleep(_POLL_S)

    async def wait_exited(self) -> str:
        """Return how it ended, and its last line when it was by itself."""
        assert self._process is not None
        code = await self._process.wait()
        how = describe_exit_code(code)
        return f"{how}: {self._last_line()}" if code > 0 else how

    async def stop(self) -> None:
        """Tell it to stop; killed when it does not."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(self._stop_s):
                await self._process.wait()
        except TimeoutError:
            log.error("%s did not end within %g s and is killed", self._arguments[0], self._stop_s)
            self.kill()
            await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _last_line(self) -> str:
        with self._log_path.open("rb") as said:
            said.seek(self._log_offset)
            lines = said.read().decode(errors="replace").strip().splitlines()
        return lines[-1].removeprefix("Error: ") if lines else ""


async def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except OSError:
        return False
    writer.close()
    return True
