"""Load: perf_analyzer, whose latencies people know, and closed loops that account for every single answer."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.controller.perf_report import parse_latency
from benchmarks.controller.results import Latency
from orchestrator.errors import ConfigError, PermanentError, SlimError
from orchestrator.triton.client import TritonClient

INPUT, OUTPUT, ITEM_SHAPE = "pixels", "logits", (1, 28, 28)
FAILURES_KEPT = 5
FAILURE_PAUSE_S = 0.05
"""After a failure, so that a dead server is not asked thousands of times a second."""
WINDOWS = 3
"""perf_analyzer calls a measurement stable by its last three windows, and takes no fewer."""
PERF_TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 20.0
POLL_S = 0.05
_ENDLESS = ("-p", "500", "-r", "10000", "-s", "0.01")
"""Short windows, never so much alike that it calls them stable; asked to end, it first ends its window."""
DRAIN_S = 30.0
"""At the end of a load, for what is under way."""


@dataclass(slots=True)
class Answers:
    """What became of the requests of a load.

    Attributes:
        answered: with success.
        failed: with an error.
        examples: messages of the first few failures.
    """

    answered: int = 0
    failed: int = 0
    examples: list[str] = field(default_factory=list)

    def note_failure(self, reason: str) -> None:
        """Count a failure."""
        self.failed += 1
        if len(self.examples) < FAILURES_KEPT:
            self.examples.append(reason)


@dataclass(frozen=True, slots=True)
class Stream:
    """Closed loops to one model.

    Attributes:
        model: that is asked.
        loops: each sends its next request when its last was answered.
        batch: items in a request.
        pause_s: between an answer and the next request.
    """

    model: str
    loops: int
    batch: int = 1
    pause_s: float = 0.0


@asynccontextmanager
async def closed_loops(address: str, streams: Sequence[Stream]) -> AsyncIterator[Answers]:
    """Send as long as the block runs; what is under way at its end is waited for and counted too."""
    answers, stop = Answers(), asyncio.Event()
    client = TritonClient(address)
    loops = [stream for stream in streams for _ in range(stream.loops)]
    tasks = [asyncio.create_task(_send(client, stream, answers, stop), name="load") for stream in loops]
    try:
        yield answers
    finally:
        stop.set()
        # No TaskGroup: a request that is never answered must end up in the count, not hold the run up for ever.
        done, pending = await asyncio.wait(tasks, timeout=DRAIN_S)
        for task in pending:
            task.cancel()
            answers.note_failure(f"not answered within {DRAIN_S:g} s")
        await asyncio.gather(*pending, return_exceptions=True)
        await client.close()
        for task in done:
            task.result()


async def _send(client: TritonClient, stream: Stream, answers: Answers, stop: asyncio.Event) -> None:
    items = np.random.default_rng(0).random((stream.batch, *ITEM_SHAPE), np.float32)
    while not stop.is_set():
        try:
            await client.infer(stream.model, {INPUT: items}, (OUTPUT,))
            answers.answered += 1
            await asyncio.sleep(stream.pause_s)
        except SlimError as exc:
            answers.note_failure(str(exc))
            await asyncio.sleep(FAILURE_PAUSE_S)


async def measure_latency(
    address: str, model: str, *, batch: int, concurrency: int, window_s: float, folder: Path
) -> Latency:
    """Return what perf_analyzer measures in three windows, all of them counted.

    Args:
        address: of Triton's gRPC endpoint.
        model: that is asked.
        batch: items in a request.
        concurrency: requests under way at any time.
        window_s: length of a window.
        folder: for its report.

    Raises:
        ConfigError: when perf_analyzer is not there.
        PermanentError: when it fails.
    """
    report = folder / "perf_analyzer.csv"
    report.unlink(missing_ok=True)
    # What it calls unstable it measures again and again; here all windows count, so any spread is stable enough.
    windows = ("-p", f"{window_s * 1e3:.0f}", "-r", str(WINDOWS), "-s", "999", "-f", str(report))
    async with perf_analyzer(address, model, batch, concurrency, windows) as process:
        try:
            async with asyncio.timeout(PERF_TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise PermanentError(f"perf_analyzer on {model} did not end within {PERF_TIMEOUT_S:g} s") from None
    if process.returncode or not report.exists():
        last = " ".join(output.decode(errors="replace").split())[-300:]
        raise PermanentError(f"perf_analyzer on {model} ended with status {process.returncode}: {last}")
    return parse_latency(report.read_text(), batch=batch)


async def press(
    address: str, model: str, *, batch: int, concurrency: int, is_enough: Callable[[], bool], timeout_s: float
) -> None:
    """Let perf_analyzer press until it is enough, or for ``timeout_s``; it measures nothing.

    It ends by itself when the model is reloaded under it, because its statistics then lack the version it began with.

    Raises:
        ConfigError: when perf_analyzer is not there.
        PermanentError: when it does not end.
    """
    async with perf_analyzer(address, model, batch, concurrency, _ENDLESS) as process:
        # Its output is read, or it would stand still on a full pipe.
        reading = asyncio.create_task(process.communicate(), name="perf_analyzer's output")
        ends_s = time.monotonic() + timeout_s
        while not is_enough() and not reading.done() and time.monotonic() < ends_s:
            await asyncio.sleep(POLL_S)
        _signal_group(process, signal.SIGINT)  # it then ends once its window has, and what is under way is answered
        try:
            async with asyncio.timeout(EXIT_TIMEOUT_S):
                await reading
        except TimeoutError:
            raise PermanentError(f"perf_analyzer on {model} does not end when asked to") from None


@asynccontextmanager
async def perf_analyzer(
    address: str, model: str, batch: int, concurrency: int, options: Sequence[str]
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run perf_analyzer over gRPC; it is gone at the end of the block.

    Args:
        address: that is asked.
        model: likewise.
        batch: items in a request.
        concurrency: requests under way at any time.
        options: more of its own.

    Raises:
        ConfigError: when perf_analyzer is not there.
    """
    program = Path(sys.executable).with_name("perf_analyzer")
    if not program.exists():
        raise ConfigError(f"no perf_analyzer beside {sys.executable}; install the extra 'bench'")
    process = await asyncio.create_subprocess_exec(
        str(program),
        *("-m", model, "-u", address, "-i", "grpc"),
        *("-b", str(batch), "--concurrency-range", str(concurrency)),
        *options,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        _signal_group(process, signal.SIGKILL)
        await process.wait()


def _signal_group(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    """Signal perf_analyzer: what we started is a script around the program, which would outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
