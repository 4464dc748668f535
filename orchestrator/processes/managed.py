"""A process that is kept running: started, watched, and started again when it ends, until it is stopped."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from orchestrator.errors import SlimError

log = logging.getLogger(__name__)

STEADY_S = 10.0
"""What ran for so long was not ended by how it was started."""
_FIRST_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 30.0


class State(StrEnum):
    """Where a managed process stands."""

    STARTING = "starting"
    RUNNING = "running"
    WAITING = "died; again soon"
    ENDED = "ended"


class ProcessRun(Protocol):
    """One run of a program, from its start to its end; ``ChildProcess`` is one."""

    @property
    def pid(self) -> int | None:
        """Process id; None before there is a process."""

    async def start(self) -> None:
        """Return when the program is ready; raises SlimError or OSError, and `stop` is called then too."""

    async def wait_exited(self) -> str:
        """Wait until the program has ended, and return how."""

    async def stop(self) -> None:
        """End the program and clear up what it left behind; idempotent, and bounded in time."""

    def signal(self, number: signal.Signals) -> None:
        """Send the program a signal, when it is there."""


def count_short_runs(short_runs: int, ran_s: float) -> int:
    """Return how many runs in a row were short, after one more that took so many seconds."""
    return 0 if ran_s >= STEADY_S else short_runs + 1


def restart_pause_s(short_runs: int) -> float:
    """Return the pause after so many short runs in a row: none after a steady one, then 0.25, 0.5, 1, … 30 s."""
    return 0.0 if short_runs == 0 else min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2.0 ** min(short_runs - 1, 10))


def _word_restart(pause_s: float) -> str:
    return f"started again in {pause_s:g} s" if pause_s else "started again"


class ManagedProcess:
    """A process that is kept running.

    Args:
        make_run: Returns the next run.
        address: Where it answers, for people.
        word_restart: Says in a log that it is started again, after so many seconds.

    Attributes:
        restarts: How often it was started again.
    """

    def __init__(
        self,
        name: str,
        make_run: Callable[[], ProcessRun],
        *,
        address: str = "",
        word_restart: Callable[[float], str] = _word_restart,
    ) -> None:
        self.name = name
        self.address = address
        self.state = State.STARTING
        self.restarts = 0
        self._make_run = make_run
        self._word_restart = word_restart
        self._run: ProcessRun | None = None
        self._supervision: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Process id; None while it does not run."""
        return None if self._run is None or self.state is not State.RUNNING else self._run.pid

    async def start(self) -> None:
        """Start it, and keep it running from now on; raises SlimError, and leaves nothing, when it does not start."""
        await self._start_run()
        self._supervision = asyncio.create_task(self._supervise())

    async def stop(self) -> None:
        """End it for good, in whatever state it is."""
        if self._supervision is not None:
            self._supervision.cancel()
            await asyncio.gather(self._supervision, return_exceptions=True)
        if self._run is not None:
            await self._run.stop()
        self.state = State.ENDED

    def kill(self) -> None:
        """End its run at once; does not keep it from being started again."""
        if self._run is not None:
            self._run.signal(signal.SIGKILL)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal, when it runs."""
        if self._run is not None and self.state is State.RUNNING:
            self._run.signal(number)

    async def _start_run(self) -> None:
        self._run = self._make_run()
        self.state = State.STARTING
        try:
            await self._run.start()
        except BaseException:
            await self._run.stop()
            raise
        self.state = State.RUNNING

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        short_runs, started_s = 0, loop.time()
        while True:
            if self.state is State.RUNNING:
                assert self._run is not None
                ending = await self._run.wait_exited()
                await self._run.stop()  # for what it has left behind
            short_runs = count_short_runs(short_runs, loop.time() - started_s)
            pause_s = restart_pause_s(short_runs)
            self.state = State.WAITING
            self.restarts += 1
            log.error("%s %s; %s", self.name, ending, self._word_restart(pause_s))
            await asyncio.sleep(pause_s)
            started_s = loop.time()
            try:
                await self._start_run()
                log.info("%s runs again", self.name)
            except (SlimError, OSError) as exc:  # OSError: no more processes or descriptors, most likely
                ending = f"did not start: {exc}"
