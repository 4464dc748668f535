"""Runs senders against one target and brings their records together."""

from __future__ import annotations

import asyncio
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import ServerUnavailableError
from orchestrator.loadgen.plan import Load, arrivals_s
from orchestrator.loadgen.records import Records, Summary, join_records, load_records, summarize
from orchestrator.loadgen.sample import LabelledSample
from orchestrator.loadgen.sender import RECORDS, SenderPlan, write_plan
from orchestrator.loadgen.target import Target

_START_S, _READ_S = 60.0, 120.0
_LEAD_S = 0.2
"""From when all senders are ready to when they begin."""


@dataclass(frozen=True, slots=True)
class Run:
    """What one run gave.

    Attributes:
        records: Of all requests.
        senders_cores: Processor time of the senders over the time of the load: what they took from what is measured.
        is_cut: Whether it was interrupted before all was sent.
    """

    records: Records
    senders_cores: float
    is_cut: bool = False


async def run_load(
    target: Target,
    load: Load,
    images: NDArray[np.float32],
    labels: NDArray[np.int64],
    *,
    senders: int = 1,
    wait_s: float = 5.0,
    progress: Callable[[float], None] = lambda seconds: None,
) -> Run:
    """Send a load and return what came of it; requests are dealt out to the senders in turn.

    When the task is cancelled the senders stop and what they have recorded is returned; ``progress`` is told now and
    then how many seconds have passed.

    Raises:
        ServerUnavailableError: A sender could not begin, or ended without records.
    """
    due_s = arrivals_s(load)
    with tempfile.TemporaryDirectory(prefix="loadgen-") as base:
        folders = [Path(base) / str(number) for number in range(senders)]
        for number, folder in enumerate(folders):
            folder.mkdir()
            plan = SenderPlan(
                target.kind,
                target.address,
                target.model,
                target.input_name,
                target.output_name,
                load.deadline_s,
                target.is_gateway,
                wait_s,
                load.seed * senders + number,
                load.parameters,
            )
            write_plan(folder, plan, due_s[number::senders], images, labels)
        processes = [await _start(folder) for folder in folders]
        try:
            is_cut = await _run_senders(processes, load.seconds, progress)
            parts = [load_records(folder / RECORDS) for folder in folders]
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    records = join_records(parts)
    return Run(records, records.cpu_s / load.seconds, is_cut)


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one run; ``senders_cores`` and ``is_cut`` as of ``Run``."""

    summary: Summary
    senders_cores: float
    is_cut: bool


async def measure(
    target: Target, load: Load, sample: LabelledSample, *, senders: int, progress: Callable[[float], None]
) -> Measured:
    """Send a load and return its figures, of what was due after the warm-up; raises as ``run_load``."""
    run = await run_load(target, load, sample.images, sample.labels, senders=senders, progress=progress)
    counted = run.records if load.is_burst else run.records.after(load.warm_up_s)
    return Measured(summarize(counted, load.deadline_s), run.senders_cores, run.is_cut)


async def _start(folder: Path) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "orchestrator.loadgen.sender", str(folder)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def _run_senders(
    processes: Sequence[asyncio.subprocess.Process], seconds: float, progress: Callable[[float], None]
) -> bool:
    """Let all begin together and wait for their end; return whether they were interrupted."""
    for process in processes:
        assert process.stdout is not None
        async with asyncio.timeout(_START_S):
            said = await process.stdout.readline()
        if not said:
            assert process.stderr is not None
            problem = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
            raise ServerUnavailableError(f"a sender could not begin: {problem[-1] if problem else 'it said nothing'}")
    begins_s = time.monotonic() + _LEAD_S
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(f"{begins_s}\n".encode())
    ends = asyncio.gather(*(process.wait() for process in processes))
    try:
        while (passed_s := time.monotonic() - begins_s) < seconds and not ends.done():
            await asyncio.wait([ends], timeout=min(1.0, seconds - passed_s))
            progress(min(seconds, time.monotonic() - begins_s))
        await asyncio.wait_for(asyncio.shield(ends), _READ_S)
    except asyncio.CancelledError:
        for process in processes:
            if process.returncode is None:
                process.send_signal(signal.SIGINT)
        await asyncio.wait_for(asyncio.shield(ends), _READ_S)
        return True
    return False
