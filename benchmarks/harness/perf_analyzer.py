"""perf_analyzer, whose latencies people know: run over gRPC, and the CSV that ``-f`` writes."""

from __future__ import annotations

import asyncio
import csv
import io
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.programs import find_program
from orchestrator.errors import PermanentError

WINDOWS = 3
"""perf_analyzer calls a measurement stable by its last three windows, and takes no fewer."""
TIMEOUT_S = 120.0
EXIT_TIMEOUT_S = 20.0
POLL_S = 0.05
_ENDLESS = ("-p", "500", "-r", "10000", "-s", "0.01")
"""Short windows, never so much alike that it calls them stable; asked to end, it first ends its window."""
_SERVER = "Inferences/Second"
_QUEUE, _P50, _P99 = "Server Queue", "p50 latency", "p99 latency"


@dataclass(frozen=True, slots=True)
class Latency:
    """One measurement of perf_analyzer.

    Attributes:
        requests_per_s: Answered requests a second; each carries ``batch`` items.
        queue_s: Mean wait for an instance, as Triton says.
        p50_s: As the client sees it.
        p99_s: As the client sees it.
    """

    requests_per_s: float
    queue_s: float
    p50_s: float
    p99_s: float


def window_options(window_s: float, report: Path) -> tuple[str, ...]:
    """Return the options for three windows, all of them counted, and a report in a file that is not there yet."""
    report.unlink(missing_ok=True)
    # What it calls unstable it measures again and again; here all windows count, so any spread is stable enough.
    return ("-p", f"{window_s * 1e3:.0f}", "-r", str(WINDOWS), "-s", "999", "-f", str(report))


async def measure_latency(
    address: str, model: str, *, batch: int, concurrency: int, window_s: float, folder: Path
) -> Latency:
    """Return what perf_analyzer measures in three windows of ``window_s``, all of them counted.

    It keeps so many requests of so many items under way to the gRPC endpoint ``host:port``, and reports to a folder.
    Raises ConfigError when perf_analyzer is not there, PermanentError when it fails.
    """
    report = folder / "perf_analyzer.csv"
    options = window_options(window_s, report)
    async with perf_analyzer(address, model, batch, concurrency, options) as process:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                output, _ = await process.communicate()
        except TimeoutError:
            raise PermanentError(f"perf_analyzer on {model} did not end within {TIMEOUT_S:g} s") from None
    if process.returncode or not report.exists():
        last = " ".join(output.decode(errors="replace").split())[-300:]
        raise PermanentError(f"perf_analyzer on {model} ended with status {process.returncode}: {last}")
    return parse_latency(report.read_text(), batch=batch)


async def press(
    address: str, model: str, *, batch: int, concurrency: int, is_enough: Callable[[], bool], timeout_s: float
) -> None:
    """Let perf_analyzer press until it is enough, or for ``timeout_s``; it measures nothing.

    It ends by itself when the model is reloaded under it, because its statistics then lack the version it began with.
    Raises ConfigError when perf_analyzer is not there, PermanentError when it does not end.
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

    Its arguments are those of ``measure_latency``, and more options of its own. Raises ConfigError when it is missing.
    """
    process = await asyncio.create_subprocess_exec(
        str(find_program("perf_analyzer")),
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


def parse_latency(text: str, *, batch: int) -> Latency:
    """Return the one measurement of a report; its times are microseconds, and it counts items a second.

    Raises PermanentError when it holds no measurement, more than one, or lacks a column.
    """
    rows = list(csv.DictReader(io.StringIO(text.strip())))
    if len(rows) != 1:
        raise PermanentError(f"perf_analyzer's report holds {len(rows)} measurements where one was asked for")
    try:
        items_per_s, queue_us, p50_us, p99_us = (float(rows[0][name]) for name in (_SERVER, _QUEUE, _P50, _P99))
    except (KeyError, ValueError, TypeError) as exc:
        raise PermanentError(f"perf_analyzer's report can't be read: {exc!r} in {','.join(rows[0])}") from exc
    return Latency(requests_per_s=items_per_s / batch, queue_s=queue_us / 1e6, p50_s=p50_us / 1e6, p99_s=p99_us / 1e6)
