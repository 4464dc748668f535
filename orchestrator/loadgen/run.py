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

from orchestrator.errors import ConfigError, ServerUnavailableError
from orchestrator.loadgen.clients import Asked
from orchestrator.loadgen.judge import TOP_1
from orchestrator.loadgen.plan import Load, Times, arrivals_s
from orchestrator.loadgen.records import Records, Summary, join_records, load_records, summarize
from orchestrator.loadgen.sample import Sample
from orchestrator.loadgen.sender import RECORDS, SenderPlan, write_plan
from orchestrator.loadgen.target import Target

_START_S, _READ_S = 180.0, 120.0  # a router in a sender may have to compile its decisions first
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


@dataclass(frozen=True, slots=True)
class Part:
    """What one family gets of a load.

    Attributes:
        due_s: When its requests are due, ascending, from the beginning of the load on.
    """

    target: Target
    sample: Sample
    due_s: Times


async def run_load(
    target: Target,
    load: Load,
    sample: Sample,
    *,
    senders: int = 1,
    wait_s: float = 5.0,
    progress: Callable[[float], None] = lambda seconds: None,
) -> Run:
    """Send a load to one target and return what came of it; see ``run_parts``."""
    part = Part(target, sample, arrivals_s(load))
    return (await run_parts([part], load, senders=senders, wait_s=wait_s, progress=progress))[0]


async def run_parts(
    parts: Sequence[Part],
    load: Load,
    *,
    senders: int = 1,
    wait_s: float = 5.0,
    progress: Callable[[float], None] = lambda seconds: None,
) -> list[Run]:
    """Send all parts of a load at once and return what came of each; its requests are dealt out to its senders in turn.

    When the task is cancelled the senders stop and what they have recorded is returned; ``progress`` is told now and
    then how many seconds have passed.

    Raises:
        ServerUnavailableError: A sender could not begin.
        ConfigError: A sender ended without records, as when answers can't be judged.
    """
    with tempfile.TemporaryDirectory(prefix="loadgen-") as base:
        folders = [[Path(base) / f"{at}-{number}" for number in range(senders)] for at in range(len(parts))]
        for part, own in zip(parts, folders, strict=True):
            for number, folder in enumerate(own):
                folder.mkdir()
                plan = _plan_of(part, load, load.seed * senders + number, wait_s)
                write_plan(folder, plan, part.due_s[number::senders], part.sample)
        processes = [await _start(folder) for own in folders for folder in own]
        try:
            is_cut = await _run_senders(processes, load.seconds, progress)
            for process in processes:
                if process.returncode:
                    raise ConfigError(f"a sender ended early: {await _last_words(process)}")
            found = [join_records([load_records(folder / RECORDS) for folder in own]) for own in folders]
        finally:
            for process in processes:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
    return [Run(records, records.cpu_s / load.seconds, is_cut) for records in found]


def _plan_of(part: Part, load: Load, seed: int, wait_s: float) -> SenderPlan:
    target, sample = part.target, part.sample
    return SenderPlan(
        target.kind,
        target.address,
        Asked(
            target.model,
            [(spec.name, spec.datatype) for spec in target.inputs],
            _wanted(target, sample),
            target.is_batching,
        ),
        load.deadline_s,
        target.is_gateway,
        wait_s,
        seed,
        sample.metric,
        sample.output,
        load.parameters,
    )


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of one run; ``senders_cores`` and ``is_cut`` as of ``Run``."""

    summary: Summary
    senders_cores: float
    is_cut: bool


async def measure(
    target: Target, load: Load, sample: Sample, *, senders: int, progress: Callable[[float], None]
) -> Measured:
    """Send a load and return its figures, of what was due after the warm-up; raises as ``run_load``."""
    return _measured(await run_load(target, load, sample, senders=senders, progress=progress), load)


async def measure_parts(
    parts: Sequence[Part], load: Load, *, senders: int, progress: Callable[[float], None]
) -> list[Measured]:
    """Send all parts of a load at once and return the figures of each, likewise; raises as ``run_parts``."""
    runs = await run_parts(parts, load, senders=senders, progress=progress)
    return [_measured(run, load) for run in runs]


def _measured(run: Run, load: Load) -> Measured:
    return Measured(summarize(counted(run, load), load.deadline_s), run.senders_cores, run.is_cut)


def counted(run: Run, load: Load) -> Records:
    """Return what counts of a run: what was due after the warm-up, of a burst all."""
    return run.records if load.is_burst else run.records.after(load.warm_up_s)


def _wanted(target: Target, sample: Sample) -> tuple[str, ...]:
    """Return the outputs that answers are to have: top-1 takes one, other metrics, and other callers, take all."""
    if sample.output is not None and sample.output not in target.outputs:
        raise ConfigError(f"--output {sample.output}: there are only {', '.join(target.outputs)}; give one of them")
    if sample.metric != TOP_1:
        return target.outputs
    if sample.output is None and len(target.outputs) > 1:
        raise ConfigError(
            f"{target.model} has the outputs {', '.join(target.outputs)}; give the one of scores as --output"
        )
    return (sample.output or target.outputs[0],)


async def _last_words(process: asyncio.subprocess.Process) -> str:
    assert process.stderr is not None
    said = (await process.stderr.read()).decode(errors="replace").strip().splitlines()
    return said[-1] if said else "it said nothing"


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
        try:
            said = await asyncio.wait_for(process.stdout.readline(), _START_S)
        except TimeoutError as exc:
            raise ServerUnavailableError(f"a sender was not ready within {_START_S:g} s; is the machine busy?") from exc
        if not said:
            raise ServerUnavailableError(f"a sender could not begin: {await _last_words(process)}")
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
