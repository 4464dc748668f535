"""Mixed load for long: does anything grow? The gateway is a supervisor and two workers, so that both kinds are watched.

Memory is what the processes themselves hold (RssAnon), read every two seconds. The first minutes are left out:
caches, pools and the allocator's arenas fill. Descriptors, threads and asyncio tasks are counts and need no
statistics: they are read before the load, when everything has been used once, and again when it has ended and its
connections are closed; what is there more has leaked.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.harness.command import Say
from benchmarks.harness.processes import Held, list_children, read_held
from benchmarks.harness.programs import last_lines, run_python
from benchmarks.resilience.results import Rest, Soak, SoakProcess
from benchmarks.resilience.scenarios.testbed import Testbed, open_testbed
from benchmarks.resilience.scenarios.watching import read_metrics
from orchestrator.errors import PermanentError

WORKERS = 2
SUPERVISOR = "supervisor"
SLOWDOWN = 1.0
EXTRA_MODEL = "plain"
SAMPLE_S = 2.0
FIRST_USE_S = 20.0
"""Of load before the first reading at rest: every kind of client has come some times."""
REST_S = 15.0
"""After a load, until connections are closed and what was counted is reported; workers report once a second."""
MARGIN_S = 90.0
_CLIENTS = "benchmarks.resilience.clients.mixed_load"


async def run_soak(repository: Path, folder: Path, say: Say, *, minutes: float) -> Soak:
    """Return the raw numbers; see the module."""
    async with open_testbed(repository, folder, slowdown=SLOWDOWN, workers=WORKERS, extra_model=EXTRA_MODEL) as testbed:
        pids = {SUPERVISOR: testbed.gateway_pid}
        pids |= {f"worker {number}": pid for number, pid in enumerate(list_children(testbed.gateway_pid), start=1)}
        await _load(testbed, FIRST_USE_S, seed=1)
        await asyncio.sleep(REST_S)
        before = await _rest(testbed, pids)
        say(f"at rest before: {before}")
        samples: dict[str, list[tuple[float, Held]]] = {name: [] for name in pids}
        tasks: list[tuple[float, float]] = []
        began_s = time.monotonic()
        sampling = asyncio.create_task(_sample(testbed, pids, samples, tasks, began_s, say))
        try:
            ended = await _load(testbed, minutes * 60, seed=2)
        finally:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        took_s = time.monotonic() - began_s
        await asyncio.sleep(REST_S)
        after = await _rest(testbed, pids)
        say(f"at rest after: {after}")
        return Soak(
            took_s=took_s,
            processes=tuple(_process(name, found) for name, found in samples.items()),
            tasks=tuple((round(at_s, 1), int(count)) for at_s, count in tasks),
            before=before,
            after=after,
            ended=ended["ended"],
            skipped=ended["skipped"],
            unexpected=ended["unexpected"],
            examples=tuple(ended["examples"]),
        )


async def _load(testbed: Testbed, seconds: float, *, seed: int) -> dict[str, Any]:
    log = testbed.folder / "clients.log"
    arguments = (testbed.grpc, testbed.http, str(seconds), str(seed))
    async with run_python(_CLIENTS, *arguments, log=log) as process:
        async with asyncio.timeout(seconds + MARGIN_S):
            output, _ = await process.communicate()
    if process.returncode:
        raise PermanentError(
            f"the clients ended with status {process.returncode}: {last_lines(testbed.folder / 'clients.log')}"
        )
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found


async def _rest(testbed: Testbed, pids: dict[str, int]) -> Rest:
    held = {name: read_held(pid) for name, pid in pids.items()}
    metrics = await asyncio.to_thread(read_metrics, testbed.metrics)
    return Rest(
        rss_bytes={name: each.anonymous_bytes for name, each in held.items()},
        descriptors={name: each.descriptors for name, each in held.items()},
        threads={name: each.threads for name, each in held.items()},
        tasks=int(metrics["slim_gateway_tasks"]),
        in_flight=int(metrics["slim_gateway_in_flight"]),
        requests=int(metrics.get("slim_gateway_requests_total", 0)),
    )


async def _sample(
    testbed: Testbed,
    pids: dict[str, int],
    samples: dict[str, list[tuple[float, Held]]],
    tasks: list[tuple[float, float]],
    began_s: float,
    say: Say,
) -> None:
    said_s = 0.0
    while True:
        at_s = time.monotonic() - began_s
        for name, pid in pids.items():
            samples[name].append((at_s, read_held(pid)))
        metrics = await asyncio.to_thread(read_metrics, testbed.metrics)
        tasks.append((at_s, metrics["slim_gateway_tasks"]))
        if at_s >= said_s:
            said_s += 60
            sizes = ", ".join(f"{name} {found[-1][1].anonymous_bytes / 2**20:.1f}" for name, found in samples.items())
            say(f"{at_s:.0f} s: MiB {sizes}; {metrics.get('slim_gateway_requests_total', 0):.0f} requests")
        await asyncio.sleep(SAMPLE_S)


def _process(name: str, found: list[tuple[float, Held]]) -> SoakProcess:
    return SoakProcess(
        name=name,
        at_s=tuple(round(at_s, 1) for at_s, _ in found),
        rss_kib=tuple(held.anonymous_bytes // 1024 for _, held in found),
        descriptors=tuple(held.descriptors for _, held in found),
        threads=tuple(held.threads for _, held in found),
    )
