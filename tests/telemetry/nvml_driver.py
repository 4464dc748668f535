"""Reads a GPU at each line of its input, in a process of its own so that it can have an NVML of its own.

    python -m tests.telemetry.nvml_driver

A line is ``open INDEX_OR_UUID TIMEOUT_S``, before all else; ``read SECONDS``: the clock goes on by so much, then one
JSON object is written; or ``close``.
"""

import asyncio
import json
import sys
import threading
from dataclasses import asdict

from orchestrator.telemetry.host import GpuTelemetry
from orchestrator.telemetry.nvml import NvmlDevice


class Clock:
    """Stands still until it is set."""

    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


async def main() -> None:
    clock = Clock()
    telemetry = GpuTelemetry(NvmlDevice(0), None)
    for line in sys.stdin:
        verb, *arguments = line.split()
        answer: dict[str, object] = {}
        if verb == "open":
            await telemetry.close()
            gpu = int(arguments[0]) if arguments[0].isdecimal() else arguments[0]
            telemetry = GpuTelemetry(NvmlDevice(gpu, clock=clock), None, timeout_s=float(arguments[1]))
        elif verb == "close":
            await telemetry.close()
        else:
            clock.now_s += float(arguments[0])
            reading = asdict(await telemetry.read())
            answer = reading | {"threads": [thread.name for thread in threading.enumerate()]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
