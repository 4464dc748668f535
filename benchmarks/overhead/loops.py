"""Closed loops in a process of their own: ``python -m benchmarks.overhead.loops WAY FLEET WIDTH LOOPS S``.

Prints a line when the measured time begins and one with the numbers when it ends, so that whoever has started it can
look at Triton's processor time at the same moments. On asyncio's own event loop, as an application has it.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np

from benchmarks.controller.load import INPUT, ITEM_SHAPE, OUTPUT
from benchmarks.overhead.cells import Way
from benchmarks.overhead.raw_client import RawClient
from orchestrator.config import load_fleet
from orchestrator.router import Router
from orchestrator.snapshot import Width

WARM_UP_S = 0.5
BEGUN = "begun"
Infer = Callable[[Any], Awaitable[object]]


async def run(way: Way, fleet_path: Path, width: Width, loops: int, measured_s: float) -> None:
    """Send as fast as answers come, and print what was measured."""
    fleet = load_fleet(fleet_path)
    async with AsyncExitStack() as stack:
        infer: Infer
        if way is Way.RAW:
            client = RawClient(fleet.servers[0].grpc, f"fashion_w{width:03d}", INPUT, OUTPUT)
            stack.push_async_callback(client.close)
            infer = client.infer
        else:
            router = await stack.enter_async_context(Router.from_fleet(fleet))

            async def infer(batch: Any) -> object:
                return await router.infer(batch, width=width)

        latencies_s: list[float] = []
        stop = asyncio.Event()
        async with asyncio.TaskGroup() as tasks:
            for number in range(loops):
                tasks.create_task(_loop(infer, number, latencies_s, stop))
            await asyncio.sleep(WARM_UP_S)
            latencies_s.clear()
            print(BEGUN, flush=True)
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await asyncio.sleep(measured_s)
            took_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
            found = latencies_s.copy()
            stop.set()
    cuts = quantiles(found, n=100)
    print(
        json.dumps(
            {
                "answers_per_s": len(found) / took_s,
                "p50_s": cuts[49],
                "p99_s": cuts[98],
                "client_cpu_s": cpu_s / len(found),
            }
        ),
        flush=True,
    )


async def _loop(infer: Infer, seed: int, latencies_s: list[float], stop: asyncio.Event) -> None:
    batch = np.random.default_rng(seed).random((1, *ITEM_SHAPE), np.float32)
    while not stop.is_set():
        began_s = time.perf_counter()
        await infer(batch)
        latencies_s.append(time.perf_counter() - began_s)


if __name__ == "__main__":
    way_, fleet_, width_, loops_, seconds_ = sys.argv[1:]
    asyncio.run(run(Way(way_), Path(fleet_), Width(int(width_)), int(loops_), float(seconds_)))
