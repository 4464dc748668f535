"""Closed loops that keep a gateway busy at one width: ``python -m`` with GRPC WIDTH ITEMS LOOPS SECONDS.

Prints how many requests a second were answered, in the second half of the time.
"""

from __future__ import annotations

import asyncio
import json
import sys

import numpy as np
from tritonclient.grpc import InferInput
from tritonclient.grpc.aio import InferenceServerClient

from benchmarks.resilience.clients.sender import FAMILY, INPUT

ITEM_SHAPE = (1, 28, 28)


async def run(address: str, width: int, items: int, loops: int, seconds: float) -> float:
    """Return the answers a second."""
    batch = np.random.default_rng(0).random((items, *ITEM_SHAPE), np.float32)
    tensor = InferInput(INPUT, list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch)
    loop = asyncio.get_running_loop()
    ends_s = loop.time() + seconds
    ended_s: list[float] = []

    async with InferenceServerClient(address) as client:

        async def ask() -> None:
            while loop.time() < ends_s:
                await client.infer(FAMILY, [tensor], parameters={"slim_width": width, "slim_deadline_ms": 60_000})
                ended_s.append(loop.time())

        await asyncio.gather(*(ask() for _ in range(loops)))
    counted = [at_s for at_s in ended_s if ends_s - seconds / 2 <= at_s < ends_s]
    return len(counted) / (seconds / 2)


if __name__ == "__main__":
    address_, width_, items_, loops_, seconds_ = sys.argv[1:]
    answers_per_s = asyncio.run(run(address_, int(width_), int(items_), int(loops_), float(seconds_)))
    print(json.dumps({"answers_per_s": answers_per_s}))
