"""Sends batches to one server and reads its counters: one request at a time, nothing else on the server.

The latency is that of the whole call, as the router observes it. When that is asked for, a visit goes on with what
shows under load alone: requests after a rest, whose answers are those of a server that had nothing to do, and bursts
after a rest, whose answers are as far apart as a batch takes of an instance. Load is like that; a server that is never
left alone runs warmer, and one that is asked by one caller at a time seems to be occupied while answers travel.

Blank items do: the time of a convolution does not depend on the pixels.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Protocol

from orchestrator.background import end_tasks
from orchestrator.errors import ConfigError
from orchestrator.profiling.sampling import Sampling, Visit, Window
from orchestrator.router.servers.connection import ServerClient
from orchestrator.snapshot import ServedModel
from orchestrator.telemetry import Reading, Telemetry
from orchestrator.triton.infer_wire import Tensors
from orchestrator.triton.trial_items import blank_batch

INTEGRATED = "nvml-power-integrated"
APART_S = 1e-3
"""From one request of a burst to the next at its start: what comes to an idle Triton at once may be run as one batch,
and then the burst says how long a larger batch takes."""
POLL_S = 0.1
"""Between readings of a power that is integrated: a sensor renews its value some 10 times a second."""

Clock = Callable[[], float]


class ProfiledServer(ServerClient, Protocol):
    """A server that batches are sent to; TritonClient is the real one."""

    async def version(self) -> str:
        """Return the version of its Triton; raises SlimError."""


async def visit_cell(
    server: ProfiledServer,
    model: ServedModel,
    items: int,
    sampling: Sampling,
    *,
    telemetry: Telemetry | None,
    clock: Clock,
) -> Visit:
    """Return the latencies of some requests in a row, with the energy of the time they took.

    Without ``telemetry`` no counter is read; ``clock`` is monotonic, in seconds.

    Raises:
        ConfigError: when the model's input leaves open what a blank item is.
        SlimError: when the server fails.
    """
    batch = blank_batch(model, items)
    if batch is None:
        raise ConfigError(f"model {model.name}: inputs {model.inputs} have no fixed shape; it can't be profiled")
    for _ in range(sampling.warm_up_requests):
        await server.infer_batch(model, batch)
    least_s = sampling.energy_window_s if telemetry is not None else 0.0
    latencies_s: list[float] = []

    async def send() -> None:
        began_s = now_s = clock()
        while not latencies_s or (
            now_s - began_s < sampling.visit_limit_s
            and (len(latencies_s) < sampling.visit_requests or now_s - began_s < least_s)
        ):
            await _send_one(server, model, batch, latencies_s, clock)
            now_s = clock()

    window = None
    if telemetry is None:
        await send()
    else:
        window = await _measure_window(telemetry, send, clock)
    rested_s: list[float] = []
    busy_s: list[float] = []
    began_s = clock()
    while clock() - began_s < sampling.bursts_s:
        await asyncio.sleep(sampling.rest_s)
        await _send_one(server, model, batch, rested_s, clock)
        await asyncio.sleep(sampling.rest_s)
        busy_s.append(await _send_burst(server, model, batch, sampling.burst_requests, clock))
    return Visit(tuple(latencies_s), window, tuple(rested_s), tuple(busy_s))


async def _send_burst(server: ProfiledServer, model: ServedModel, batch: Tensors, requests: int, clock: Clock) -> float:
    """Return what each of some requests took of an instance while one more was under way than there are instances.

    That is the time from the answer of the last that found an instance free to the last answer of all, shared.
    """
    left = model.instances + requests
    answered_s: list[float] = []

    async def send() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            await server.infer_batch(model, batch)
            answered_s.append(clock())

    async with asyncio.TaskGroup() as group:
        for _ in range(model.instances + 1):
            group.create_task(send())
            await asyncio.sleep(APART_S)
    return (answered_s[-1] - answered_s[model.instances - 1]) * model.instances / requests


async def idle_window(telemetry: Telemetry, duration_s: float, *, clock: Clock) -> Window:
    """Return the energy of some time in which we send nothing."""
    return await _measure_window(telemetry, lambda: asyncio.sleep(duration_s), clock)


async def _send_one(
    server: ProfiledServer, model: ServedModel, batch: Tensors, latencies_s: list[float], clock: Clock
) -> None:
    began_s = clock()
    await server.infer_batch(model, batch)
    latencies_s.append(clock() - began_s)


async def _measure_window(telemetry: Telemetry, work: Callable[[], Awaitable[None]], clock: Clock) -> Window:
    before = (await telemetry.read()).energy_j
    began_s = clock()
    polling = asyncio.create_task(_poll(telemetry)) if before.source == INTEGRATED else None
    try:
        await work()
    finally:
        if polling is not None:
            await end_tasks(polling)
    after = (await telemetry.read()).energy_j
    return _window(before, after, clock() - began_s)


async def _poll(telemetry: Telemetry) -> None:
    while True:
        await asyncio.sleep(POLL_S)
        await telemetry.read()


def _window(before: Reading, after: Reading, duration_s: float) -> Window:
    if before.value is None or after.value is None:
        return Window(None, duration_s, "none", before.reason or after.reason)
    if before.source != after.source:
        return Window(None, duration_s, "none", f"the counter changed from {before.source} to {after.source}")
    return Window(max(0.0, after.value - before.value), duration_s, after.source)
