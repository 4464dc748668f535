"""grpcio with ``round_robin``: ``python -m`` with ADDRESSES RATE MESSAGE, until standard input ends."""

from __future__ import annotations

import asyncio
import collections
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import grpc

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_S = 20.0
OPTIONS = [
    ("grpc.lb_policy_name", "round_robin"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 200),
]


async def main(addresses: str, rate_per_s: float, message: bytes) -> dict[str, Any]:
    """Return what became of the calls."""
    loop, is_over = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), is_over.set)
    errors: collections.Counter[str] = collections.Counter()
    latencies_s: list[float] = []
    channel: Any
    async with grpc.aio.insecure_channel(f"ipv4:{addresses}", OPTIONS) as channel, asyncio.TaskGroup() as calls:
        infer = channel.unary_unary(METHOD)

        async def ask(due_s: float) -> None:
            try:
                await infer(message, timeout=TIMEOUT_S)
            except grpc.RpcError as exc:
                failure: Any = exc
                errors[f"{failure.code().name}: {failure.details()}"] += 1
            else:
                latencies_s.append(loop.time() - due_s)

        begin_s = loop.time()
        for number in itertools.count():
            due_s = begin_s + number / rate_per_s
            await asyncio.sleep(due_s - loop.time())
            if is_over.is_set():
                break
            calls.create_task(ask(due_s))
    return {"answered": len(latencies_s), "longest_s": max(latencies_s, default=0.0), "errors": errors}


if __name__ == "__main__":
    addresses_, rate_, path_ = sys.argv[1:]
    print(json.dumps(asyncio.run(main(addresses_, float(rate_), Path(path_).read_bytes()))))
