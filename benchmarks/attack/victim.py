"""Somebody who did nothing wrong: inferences over gRPC and health probes over HTTP at a steady rate, and how they end.

``python -m`` with GRPC HTTP SECONDS prints what it met as JSON. Each request is sent when its time has come, whatever
became of those before it. A probe has a connection of its own, as a balancer's would.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass, field

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

INFERENCES_PER_S, PROBES_PER_S = 50, 10
DEADLINE_S, PROBE_TIMEOUT_S = 1.0, 5.0


@dataclass(slots=True)
class Met:
    """What became of one kind of request.

    Attributes:
        latencies_s: Of those that were answered.
        errors: Why the others were not, and how often.
    """

    latencies_s: list[float] = field(default_factory=list)
    errors: dict[str, int] = field(default_factory=dict)


async def meet(ask: Callable[[], Awaitable[None]], per_s: int, seconds: float) -> Met:
    """Ask so often a second."""
    loop, met = asyncio.get_running_loop(), Met()
    begin_s = loop.time()

    async def one(due_s: float) -> None:
        await asyncio.sleep(due_s - loop.time())
        try:
            await ask()
        except Exception as exc:  # whatever a client makes of it is a failure to its user
            reason = " ".join(f"{type(exc).__name__} {exc}".split())[:120]
            met.errors[reason] = met.errors.get(reason, 0) + 1
        else:
            met.latencies_s.append(loop.time() - due_s)

    await asyncio.gather(*(one(begin_s + number / per_s) for number in range(int(per_s * seconds))))
    return met


async def run(grpc: str, http: str, seconds: float) -> dict[str, Met]:
    """Return what inferences and probes met."""
    tensor = InferInput("pixels", [1, 1, 28, 28], "FP32")
    tensor.set_data_from_numpy(np.zeros((1, 1, 28, 28), np.float32))
    host, _, port = http.rpartition(":")

    async def probe() -> None:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(host, int(port))
            try:
                writer.write(b"GET /v2/health/ready HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n")
                line = await reader.readline()
            finally:
                writer.close()
        if b" 200 " not in line:
            raise ConnectionError(f"answered {line!r}")

    async with InferenceServerClient(grpc) as client:

        async def infer() -> None:
            await client.infer("fashion", [tensor], client_timeout=DEADLINE_S)

        await client.infer("fashion", [tensor])
        inferences, probes = await asyncio.gather(
            meet(infer, INFERENCES_PER_S, seconds), meet(probe, PROBES_PER_S, seconds)
        )
    return {"inferences": inferences, "probes": probes}


if __name__ == "__main__":
    grpc_, http_, seconds_ = sys.argv[1:]
    found = asyncio.run(run(grpc_, http_, float(seconds_)))
    print(json.dumps({name: asdict(met) for name, met in found.items()}))
