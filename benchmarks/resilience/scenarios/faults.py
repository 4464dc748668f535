"""Six ways for a Triton to fail, each done to a real one while a block runs, and undone at the end of the block."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.resilience.scenarios.testbed import FAMILY, ServerFixture
from orchestrator.triton.client import TritonClient

STOPPED_S, RUNS_S = 0.18, 0.02
"""Of a Triton that is slowed down: nine tenths of the time it stands still, so it is ten times slower."""
SURVIVES_S = 2.0
"""A Triton that is there so long after SIGCONT has survived it."""
WAITING = 8
"""Connections that fill an accept queue of length one, and more that wait in vain."""


@dataclass(frozen=True, slots=True)
class Fault:
    """Something that befalls a Triton.

    Attributes:
        detail: What is done.
        befall: Does it; yields what was done beside, in words, known at the end of the block, when Triton is ready.
    """

    detail: str
    befall: Callable[[ServerFixture], AbstractAsyncContextManager[list[str]]]


@asynccontextmanager
async def _death(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    os.kill(fixture.server.pid, signal.SIGKILL)
    yield []
    await fixture.server.stop()
    await fixture.start()


@asynccontextmanager
async def _hang(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    """A process that stands still, whose kernel goes on accepting and acknowledging.

    After five to ten seconds the Python-based backend of Triton 2.51 does not survive that (SIGSEGV as it goes on, its
    waits for the stubs having ended meanwhile); then it is started again, as whoever runs it would.
    """
    notes: list[str] = []
    fixture.signal(signal.SIGSTOP)
    yield notes
    fixture.signal(signal.SIGCONT)
    try:
        async with asyncio.timeout(SURVIVES_S):
            await fixture.server.wait_exited()
    except TimeoutError:
        return
    notes.append(", of which this Triton's Python backend dies, so it is started again")
    await fixture.server.stop()
    await fixture.start()


@asynccontextmanager
async def _full_queue(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    """Nobody accepts, and the queue of connections is full: packets that would open one are dropped."""
    os.kill(fixture.server.pid, signal.SIGKILL)
    await fixture.server.stop()
    host, _, port = fixture.address.rpartition(":")
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, int(port)))
        listener.listen(0)
        for _ in range(WAITING):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((host, int(port)))
        yield []
    await fixture.start()


@asynccontextmanager
async def _errors(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    """Every model is ready by Triton's word, and every call to it an error."""
    for pid in fixture.server.stub_pids():
        os.kill(pid, signal.SIGKILL)
    yield []
    async with TritonClient(fixture.address) as client:
        for model in _models(fixture):
            await client.unload_model(model.name)
            await client.load_model(model.name)


@asynccontextmanager
async def _slowness(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    """Ten times slower than it was."""
    ends = threading.Event()

    def slow_down() -> None:
        while not ends.is_set():
            fixture.signal(signal.SIGSTOP)
            ends.wait(STOPPED_S)
            fixture.signal(signal.SIGCONT)
            ends.wait(RUNS_S)

    thread = threading.Thread(target=slow_down, daemon=True)
    thread.start()
    try:
        yield []
    finally:
        ends.set()
        await asyncio.to_thread(thread.join)
        fixture.signal(signal.SIGCONT)


@asynccontextmanager
async def _wrong_answers(fixture: ServerFixture) -> AsyncIterator[list[str]]:
    """Each width computes what another one should: right in form, in time, and not what was asked for."""
    files = [model / "1" / "model.onnx" for model in _models(fixture)]
    contents = [path.read_bytes() for path in files]
    await _replace(fixture, dict(zip(files, [*contents[1:], contents[0]], strict=True)))
    yield []
    await _replace(fixture, dict(zip(files, contents, strict=True)))


FAULTS = {
    "death": Fault("kill -9 of tritonserver, started again at the same address", _death),
    "hang": Fault("SIGSTOP of tritonserver and its stubs, later SIGCONT", _hang),
    "full-queue": Fault(
        "tritonserver ended, in its place a listener that never accepts and whose queue is full", _full_queue
    ),
    "errors": Fault(
        "kill -9 of every stub of the Python-based backend: models stay ready, calls fail; later reloaded", _errors
    ),
    "slowness": Fault(f"stopped for {STOPPED_S * 1e3:g} ms of every {(STOPPED_S + RUNS_S) * 1e3:g}", _slowness),
    "wrong-answers": Fault(
        "each width's file replaced by another's and reloaded in place, without being absent", _wrong_answers
    ),
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
