"""A run: one Triton, everything that may stand before it, and each load sent each way in every round."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.harness.command import Say
from benchmarks.harness.perf_analyzer import TIMEOUT_S, parse_latency, perf_analyzer, window_options
from benchmarks.harness.processes import Reading, read_cpu
from benchmarks.harness.programs import run_envoy, run_gateway
from benchmarks.overhead.cells import Load, Sample, Way
from benchmarks.overhead.rows import LOADS
from orchestrator.config import FleetSettings, GatewaySettings, ServerSettings, render_fleet
from orchestrator.embedded.flags import LOOPBACK
from orchestrator.embedded.server import EmbeddedOptions, EmbeddedServer, choose_free_ports
from orchestrator.errors import PermanentError

LOOPS_S = 1.5
WINDOW_S = 0.6
STARTS_S = 1.0
"""Until perf_analyzer has asked for the model and is in its first window."""
WATCHED_S = 1.0
"""For which processor time is counted, within its windows."""
FAMILY = "fashion"


@dataclass(frozen=True, slots=True)
class Testbed:
    """What runs, and where.

    Attributes:
        folder: A folder for files of the run.
        fleet: The fleet.yaml of router and gateway.
        pids: Process ids of Triton, Envoy and the gateway.
        addresses: The addresses that perf_analyzer asks, by way.
    """

    folder: Path
    fleet: Path
    pids: Mapping[str, int]
    addresses: Mapping[Way, str]


async def run_all(repository: Path, folder: Path, rounds: int, say: Say) -> tuple[Sample, ...]:
    """Return the samples of a whole run."""
    widths = sorted({load.width for load in LOADS})
    grpc, http, metrics, envoy_port, gateway_port = choose_free_ports(5)
    models = tuple(f"{FAMILY}_w{width:03d}" for width in widths)
    options = EmbeddedOptions(models=models, grpc_port=grpc, http_port=http, metrics_port=metrics)
    async with EmbeddedServer(repository.resolve(), options) as triton:
        fleet = _write_fleet(folder, f"{LOOPBACK}:{grpc}", triton.metrics_url, f"{LOOPBACK}:{gateway_port}")
        async with (
            run_envoy(envoy_port, [(LOOPBACK, grpc)], folder) as envoy_pid,
            run_gateway(fleet, gateway_port) as gateway_pid,
        ):
            testbed = Testbed(
                folder,
                fleet,
                {"triton": triton.pid, Way.ENVOY: envoy_pid, Way.GATEWAY: gateway_pid},
                {
                    Way.DIRECT: f"{LOOPBACK}:{grpc}",
                    Way.ENVOY: f"{LOOPBACK}:{envoy_port}",
                    Way.GATEWAY: f"{LOOPBACK}:{gateway_port}",
                },
            )
            return tuple([sample async for sample in _rounds(testbed, rounds, say)])


def _write_fleet(folder: Path, grpc: str, metrics: str, gateway: str) -> Path:
    path = folder / "fleet.yaml"
    server = ServerSettings(name="s0", grpc=grpc, metrics=metrics)
    settings = FleetSettings(
        servers=(server,),
        gateway=GatewaySettings(grpc=gateway, http=None, metrics=None),
    )
    path.write_text(render_fleet(settings))
    return path


async def _rounds(testbed: Testbed, rounds: int, say: Say) -> AsyncIterator[Sample]:
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for load in LOADS:
            # The other way round in every second round, so that what drifts favours nobody.
            for way in load.ways if number % 2 == 0 else reversed(load.ways):
                sample = await (_loops if way in (Way.RAW, Way.ROUTER) else _perf)(testbed, way, load)
                say(f"  {way}, {load.title}: {sample.answers_per_s:.0f}/s, p50 {sample.p50_s * 1e3:.2f} ms")
                yield sample


async def _loops(testbed: Testbed, way: Way, load: Load) -> Sample:
    command = (way, str(testbed.fleet), str(load.width), str(load.concurrency), str(LOOPS_S))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "benchmarks.overhead.loops", *command),
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await process.stdout.readline()
            before = read_cpu({"triton": testbed.pids["triton"]})
            line = await process.stdout.readline()
            after = read_cpu({"triton": testbed.pids["triton"]})
            await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if not line:
        raise PermanentError(f"the loops of {way} ended with status {process.returncode}; their error is above")
    found = json.loads(line)
    triton = before.shares_until(after)["triton"] / found["answers_per_s"]
    return Sample(way, load.concurrency, load.width, triton_cpu_s=triton, proxy_cpu_s=None, **found)


async def _perf(testbed: Testbed, way: Way, load: Load) -> Sample:
    for _ in range(2):
        text, sample = await _try_perf(testbed, way, load)
        if sample is not None:
            return sample
    raise PermanentError(f"perf_analyzer through {way} has measured nothing, twice: {text}")


async def _try_perf(testbed: Testbed, way: Way, load: Load) -> tuple[str, Sample | None]:
    """Return the end of what perf_analyzer said, and what it measured: now and then, nothing, with status 0.

    Raises PermanentError when it fails.
    """
    model = FAMILY if way is Way.GATEWAY else f"{FAMILY}_w{load.width:03d}"
    report = testbed.folder / "perf_analyzer.csv"
    options = [*window_options(WINDOW_S, report)]
    if way is Way.GATEWAY:
        options += ["--request-parameter", f"slim_width:{load.width}:int"]
    async with perf_analyzer(testbed.addresses[way], model, 1, load.concurrency, options) as process:
        output = asyncio.create_task(process.communicate(), name="perf_analyzer's output")
        try:
            before, after = await _watch({**testbed.pids, "client": process.pid})
            async with asyncio.timeout(TIMEOUT_S):
                text, _ = await output
        except TimeoutError:
            raise PermanentError(f"perf_analyzer did not end within {TIMEOUT_S:g} s") from None
        finally:
            output.cancel()
    last = " ".join(text.decode(errors="replace").split())[-300:]
    if process.returncode:
        raise PermanentError(f"perf_analyzer through {way} ended with status {process.returncode}: {last}")
    if not report.exists():
        return last, None
    latency = parse_latency(report.read_text(), batch=1)
    shares = before.shares_until(after)
    rate = latency.requests_per_s
    return last, Sample(
        way,
        load.concurrency,
        load.width,
        answers_per_s=rate,
        p50_s=latency.p50_s,
        p99_s=latency.p99_s,
        triton_cpu_s=shares["triton"] / rate,
        proxy_cpu_s=None if way is Way.DIRECT else shares[way] / rate,
        client_cpu_s=shares["client"] / rate,
    )


async def _watch(pids: Mapping[str, int]) -> tuple[Reading, Reading]:
    await asyncio.sleep(STARTS_S)
    before = read_cpu(pids)
    await asyncio.sleep(WATCHED_S - (time.monotonic() - before.at_s))
    return before, read_cpu(pids)
