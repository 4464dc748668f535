"""Load that rises and falls: do the instances follow, and what does that do to the p99?

Repetitions alternate between one fixed instance without a controller and the controller, so that what else happens on
the machine hits both. The p99 is measured by a fresh perf_analyzer once the instances have grown; the load that makes
them grow ends just before, and ``idle_s`` is longer than the gap.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.controller.daemon import run_daemon
from benchmarks.controller.results import CurvePoint, Repetition, Rising, TracePoint
from benchmarks.controller.testbed import Testbed, open_testbed
from benchmarks.controller.trace import back_at, find_load, grown_at, shift
from benchmarks.harness.command import Say
from benchmarks.harness.perf_analyzer import Latency, measure_latency, press
from orchestrator.config import ControllerSettings
from orchestrator.errors import PermanentError, SlimError
from orchestrator.planner.rates import Counters

WIDTH_INDEX = -1
"""The widest: the more a request computes, the less the client's own work on the same cores blurs."""
BATCH, CONCURRENCY = 64, 8
CURVE = tuple((batch, instances) for batch in (1, 64) for instances in (1, 2))
REPETITIONS = 3
IDLE_S = 10.0
RAMP_S, WINDOW_S = 3.0, 2.5
TRACE_INTERVAL_S = 0.1
SHRINK_TIMEOUT_S = IDLE_S + 10.0
GROW_TIMEOUT_S = 60.0
LEAD_S = 1.0
"""Of calm before the load, so that the controller has seen it and the picture shows it."""


async def run_rising(repository: Path, folder: Path, say: Say) -> Rising:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder) as testbed:
        for name in testbed.models:
            await testbed.set_instances(name, 1)
        model = testbed.models[WIDTH_INDEX]
        bench = _Bench(testbed, model, folder)
        curve = []
        for batch, instances in CURVE:
            await testbed.set_instances(model, instances)
            latency = await bench.measure(batch, WINDOW_S)
            say(f"fixed: {instances} instances of {model} at -b {batch}: p99 {latency.p99_s * 1e3:.1f} ms")
            curve.append(CurvePoint(batch, instances, latency))
        repetitions = []
        for number in range(REPETITIONS):
            repetition = await bench.repeat()
            say(f"repetition {number + 1} of {REPETITIONS}: {_describe(repetition)}")
            repetitions.append(repetition)
    return Rising(BATCH, CONCURRENCY, IDLE_S, tuple(repetitions), tuple(curve))


@dataclass(frozen=True, slots=True)
class _Bench:
    testbed: Testbed
    model: str
    folder: Path

    async def measure(self, batch: int, window_s: float) -> Latency:
        return await measure_latency(
            self.testbed.grpc_address,
            self.model,
            batch=batch,
            concurrency=CONCURRENCY,
            window_s=window_s,
            folder=self.folder,
        )

    async def repeat(self) -> Repetition:
        await self.testbed.set_instances(self.model, 1)
        await self._press(lambda: False, RAMP_S)
        fixed = await self.measure(BATCH, WINDOW_S)
        fleet = self.testbed.write_fleet(ControllerSettings(idle_s=IDLE_S))
        async with run_daemon(fleet, self.testbed.controller_address), self._traced() as points:
            await asyncio.sleep(LEAD_S)
            await self._press(lambda: points[-1].instances > 1, GROW_TIMEOUT_S)
            controlled = await self.measure(BATCH, WINDOW_S)
            instances = points[-1].instances
            await self._wait_calm(points)
        trace = tuple(points)
        began_s, ended_s = find_load(trace)
        grew_s, shrank_s = grown_at(trace), back_at(trace, ended_s)
        if grew_s is None:
            raise PermanentError(f"{self.model} has not got a second instance under load")
        return Repetition(
            fixed=fixed,
            controlled=controlled,
            instances=instances,
            grew_after_s=grew_s - began_s,
            shrank_after_s=None if shrank_s is None else shrank_s - ended_s,
            trace=shift(trace, began_s),
        )

    async def _press(self, is_enough: Callable[[], bool], timeout_s: float) -> None:
        await press(
            self.testbed.grpc_address,
            self.model,
            batch=BATCH,
            concurrency=CONCURRENCY,
            is_enough=is_enough,
            timeout_s=timeout_s,
        )

    async def _wait_calm(self, points: list[TracePoint]) -> None:
        ends_s = time.monotonic() + SHRINK_TIMEOUT_S
        while points[-1].instances > 1 and time.monotonic() < ends_s:
            await asyncio.sleep(TRACE_INTERVAL_S)
        await asyncio.sleep(1.0)  # of the calm after, for the picture

    @asynccontextmanager
    async def _traced(self) -> AsyncIterator[list[TracePoint]]:
        """Look at Triton, ten times a second, as long as the block runs."""
        points = [await self._look()]

        async def watch() -> None:
            while True:
                await asyncio.sleep(TRACE_INTERVAL_S)
                with suppress(SlimError):  # a look that fails leaves a gap in the trace
                    points.append(await self._look())

        task = asyncio.create_task(watch(), name="trace")
        try:
            yield points
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _look(self) -> TracePoint:
        counters = await self.testbed.control.counters()
        counted = next((found for name, found in counters.items() if name == self.model), Counters())
        instances = (await self.testbed.instances()).get(self.model, 0)
        return TracePoint(time.monotonic(), instances, counted.requests, counted.queue_s)


def _describe(repetition: Repetition) -> str:
    shrank_s = repetition.shrank_after_s
    back = "never" if shrank_s is None else f"after {shrank_s:.1f} s"
    return (
        f"p99 {repetition.fixed.p99_s * 1e3:.1f} ms with one instance, {repetition.controlled.p99_s * 1e3:.1f} ms with "
        f"{repetition.instances} under the controller; grew after {repetition.grew_after_s:.1f} s, back {back}"
    )
