"""A memory budget that admits only some widths: is it ever exceeded, and does one see what was refused?

First each width's size is measured. The budget then has room for two widths and most of a third. The load lies on the
two that are resident; half-way a third is demanded, which is refused while both are busy and granted, in place of one
of them, once the load on that one has ended. So the budget is tried by loads, growth and an exchange of widths.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.controller.daemon import Daemon, run_daemon
from benchmarks.controller.load import Stream, closed_loops
from benchmarks.controller.results import Budget, RefusalSeen
from benchmarks.controller.status import refusal_series
from benchmarks.controller.testbed import Testbed, open_testbed
from benchmarks.harness.command import Say
from orchestrator.config import ControllerSettings, LimitSettings
from orchestrator.errors import SlimError
from orchestrator.telemetry import TritonProcesses

MIB = 2**20
ROOM = 2.6
"""Instances of the largest width that the budget has room for."""
WATCHED_S = 60.0
DEMAND_AT_S, CALM_AT_S = 20.0, 30.0
IDLE_S = 10.0
SAMPLE_INTERVAL_S = 0.05
PAGE_INTERVAL_S = 0.5
LOOPS = 4
PAUSE_S = 0.005
"""Between requests of a loop: the sampler and the daemon are to be heard too."""
SETTLE_S = 1.0


async def run_budget(repository: Path, folder: Path, say: Say) -> Budget:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder) as testbed:
        sizes = await _measure_sizes(testbed)
    async with open_testbed(repository, folder) as testbed:
        base_bytes, _ = await testbed.measure_memory()
        instance_bytes = max(sizes)
        budget_bytes = int(base_bytes + ROOM * instance_bytes)
        say(
            f"an instance takes up to {instance_bytes / MIB:.1f} MiB; budget {budget_bytes / MIB:.1f} MiB, of which "
            f"{base_bytes / MIB:.1f} are Triton's own"
        )
        settings = ControllerSettings(idle_s=IDLE_S, unmeasured_instance_mib=instance_bytes / MIB)
        fleet = testbed.write_fleet(settings, LimitSettings(memory_budget_mib=budget_bytes / MIB))
        watch = _Watch(testbed)
        sampling = asyncio.create_task(watch.sample(), name="memory sampler")
        try:
            async with run_daemon(fleet, testbed.controller_address) as daemon:
                answers = await _load(testbed, daemon, watch, say)
        finally:
            watch.stop.set()
            await sampling
    return Budget(
        base_bytes=base_bytes,
        instance_bytes=instance_bytes,
        budget_bytes=budget_bytes,
        peak_bytes=max(used for _, used in watch.readings),
        readings=len(watch.readings),
        sample_s=(watch.readings[-1][0] - watch.readings[0][0]) / max(1, len(watch.readings) - 1),
        peaks_bytes=watch.peaks(),
        resident=tuple(dict.fromkeys(watch.resident)),
        pages=watch.pages,
        refusals=tuple(RefusalSeen(*key, pages) for key, pages in sorted(watch.refusals.items())),
        metric_lines=tuple(sorted(watch.series)),
        answered=answers[0],
        failed=answers[1],
        failure_examples=answers[2],
    )


async def _measure_sizes(testbed: Testbed) -> list[int]:
    """Load one width after the other and return by how much each raised the memory in use."""
    sizes = []
    for model in testbed.models:
        before, _ = await testbed.measure_memory()
        await testbed.set_instances(model, 1)
        await asyncio.sleep(SETTLE_S)
        after, _ = await testbed.measure_memory()
        sizes.append(after - before)
    return sizes


async def _load(testbed: Testbed, daemon: Daemon, watch: _Watch, say: Say) -> tuple[int, int, tuple[str, ...]]:
    """Run the minute; return answered and failed requests and examples of failures."""
    narrow, wide = await _wait_resident(testbed)
    say(f"resident: {narrow}, {wide}")
    began_s = time.monotonic()
    async with AsyncExitStack() as both:
        steady = await both.enter_async_context(closed_loops(testbed.grpc_address, [Stream(narrow, LOOPS, 1, PAUSE_S)]))
        async with closed_loops(testbed.grpc_address, [Stream(wide, LOOPS, 1, PAUSE_S)]) as passing:
            await watch.poll(daemon, until_s=began_s + DEMAND_AT_S)
            await daemon.demand(100, WATCHED_S)
            await watch.poll(daemon, until_s=began_s + CALM_AT_S)
        say(f"100 % is demanded since {CALM_AT_S - DEMAND_AT_S:g} s; load on {wide} ends")
        await watch.poll(daemon, until_s=began_s + WATCHED_S)
    return (
        steady.answered + passing.answered,
        steady.failed + passing.failed,
        (*steady.examples, *passing.examples),
    )


async def _wait_resident(testbed: Testbed) -> tuple[str, str]:
    """Return the two widths that the budget admits, once they serve."""
    async with asyncio.timeout(30):
        while len(ready := await testbed.instances()) < int(ROOM):
            await asyncio.sleep(0.1)
    narrow, wide = sorted(ready)[:2]
    return narrow, wide


@dataclass(slots=True)
class _Watch:
    testbed: Testbed
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    readings: list[tuple[float, int]] = field(default_factory=list)
    resident: list[tuple[str, ...]] = field(default_factory=list)
    pages: int = 0
    refusals: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    series: set[str] = field(default_factory=set)

    async def sample(self) -> None:
        """Read the memory until stopped, from before the daemon's start; a source of its own, in its own thread."""
        processes = TritonProcesses(self.testbed.ports[0], search_interval_s=0.0)
        while not self.stop.is_set():
            used = (await asyncio.to_thread(processes.read)).memory_used_bytes.value
            if used is not None:
                self.readings.append((time.monotonic(), int(used)))
            await asyncio.sleep(SAMPLE_INTERVAL_S)

    async def poll(self, daemon: Daemon, *, until_s: float) -> None:
        """Look at the daemon's pages and at Triton's index until a time."""
        while time.monotonic() < until_s:
            view = await daemon.view()
            self.pages += 1
            self.refusals.update(set(view.refusals))
            self.series.update(refusal_series(await daemon.metrics()))
            with suppress(SlimError):  # a look that fails is none
                self.resident.append(tuple(sorted(await self.testbed.instances())))
            await asyncio.sleep(PAGE_INTERVAL_S)

    def peaks(self) -> tuple[int, ...]:
        """Return the largest reading of each second."""
        began_s = self.readings[0][0]
        peaks: dict[int, int] = {}
        for at_s, used in self.readings:
            second = int(at_s - began_s)
            peaks[second] = max(used, peaks.get(second, 0))
        return tuple(peaks[second] for second in sorted(peaks))
