"""Six ways for a Triton to fail, each done to a real one and undone again."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from benchmarks.resilience.testbed import FAMILY, ServerFixture
from orchestrator.triton.client import TritonClient

STOPPED_S, RUNS_S = 0.18, 0.02
"""Of a Triton that is slowed down: nine tenths of the time it stands still, so it is ten times slower."""
SURVIVES_S = 2.0
"""A Triton that is there so long after SIGCONT has survived it."""
WAITING = 8
"""Connections that fill an accept queue of length one, and more that wait in vain."""


class Fault(Protocol):
    """Something that befalls a Triton."""

    detail: str

    async def strike(self, fixture: ServerFixture) -> None:
        """Make it so."""
        ...

    async def mend(self, fixture: ServerFixture) -> None:
        """Take the cause away; when this returns the Triton is ready."""
        ...


@dataclass
class Death:
    """kill -9."""

    detail: str = "kill -9 of tritonserver, started again at the same address"

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        os.kill(fixture.server.pid, signal.SIGKILL)

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        await fixture.server.stop()
        await fixture.start()


@dataclass
class Hang:
    """A process that stands still, whose kernel goes on accepting and acknowledging.

    After five to ten seconds the Python-based backend of Triton 2.51 does not survive that (SIGSEGV as it goes on, its
    waits for the stubs having ended meanwhile); then it is started again, as whoever runs it would.
    """

    detail: str = "SIGSTOP of tritonserver and its stubs, later SIGCONT"

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        fixture.signal(signal.SIGSTOP)

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        fixture.signal(signal.SIGCONT)
        try:
            async with asyncio.timeout(SURVIVES_S):
                await fixture.server.wait_exited()
        except TimeoutError:
            return
        self.detail += ", of which this Triton's Python backend dies, so it is started again"
        await fixture.server.stop()
        await fixture.start()


@dataclass
class FullQueue:
    """Nobody accepts, and the queue of connections is full: packets that would open one are dropped."""

    detail: str = "tritonserver ended, in its place a listener that never accepts and whose queue is full"
    _sockets: list[socket.socket] = field(default_factory=list)

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        os.kill(fixture.server.pid, signal.SIGKILL)
        await fixture.server.stop()
        host, _, port = fixture.address.rpartition(":")
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(0)
        self._sockets.append(listener)
        for _ in range(WAITING):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex((host, int(port)))
            self._sockets.append(waiting)

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        for each in self._sockets:
            each.close()
        self._sockets.clear()
        await fixture.start()


@dataclass
class Errors:
    """Every model is ready by Triton's word, and every call to it an error."""

    detail: str = "kill -9 of every stub of the Python-based backend: models stay ready, calls fail; later reloaded"

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        for pid in fixture.server.stub_pids():
            os.kill(pid, signal.SIGKILL)

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        async with TritonClient(fixture.address) as client:
            for model in _models(fixture):
                await client.unload_model(model.name)
                await client.load_model(model.name)


@dataclass
class Slowness:
    """Ten times slower than it was."""

    detail: str = f"stopped for {STOPPED_S * 1e3:g} ms of every {(STOPPED_S + RUNS_S) * 1e3:g}"
    _ends: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        self._thread = threading.Thread(target=self._slow_down, args=(fixture,), daemon=True)
        self._thread.start()

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        self._ends.set()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)
        fixture.signal(signal.SIGCONT)

    def _slow_down(self, fixture: ServerFixture) -> None:
        while not self._ends.is_set():
            fixture.signal(signal.SIGSTOP)
            self._ends.wait(STOPPED_S)
            fixture.signal(signal.SIGCONT)
            self._ends.wait(RUNS_S)


@dataclass
class WrongAnswers:
    """Each width computes what another one should: right in form, in time, and not what was asked for."""

    detail: str = "each width's file replaced by another's and reloaded in place, without being absent"

    async def strike(self, fixture: ServerFixture) -> None:
        """See Fault."""
        files = [model / "1" / "model.onnx" for model in _models(fixture)]
        contents = [path.read_bytes() for path in files]
        await _replace(fixture, dict(zip(files, [*contents[1:], contents[0]], strict=True)))

    async def mend(self, fixture: ServerFixture) -> None:
        """See Fault."""
        files = [model / "1" / "model.onnx" for model in _models(fixture)]
        contents = [path.read_bytes() for path in files]
        await _replace(fixture, dict(zip(files, [contents[-1], *contents[:-1]], strict=True)))


FAULTS: dict[str, Callable[[], Fault]] = {
    "death": Death,
    "hang": Hang,
    "full-queue": FullQueue,
    "errors": Errors,
    "slowness": Slowness,
    "wrong-answers": WrongAnswers,
}


def _models(fixture: ServerFixture) -> list[Path]:
    return sorted(fixture.repository.glob(f"{FAMILY}_w*"))


async def _replace(fixture: ServerFixture, contents: dict[Path, bytes]) -> None:
    """Write the files and have Triton take them, all models at once."""
    for path, content in contents.items():
        new = path.with_suffix(".new")
        new.write_bytes(content)
        shutil.move(new, path)
    async with TritonClient(fixture.address) as client:
        await asyncio.gather(*(client.load_model(model.name) for model in _models(fixture)))
