"""A process that stands for a rack: Tritons that answer at once, their controllers' records, and callers of gateways.

``python -m tests.gateway.peers.beside PLAN`` prints each batch and each call as a line of JSON, with the machine's
monotonic clock, until it is ended. PLAN is JSON: ``tritons`` and ``keepers`` are addresses to listen at, ``gateways``
those to call over gRPC.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import grpc
from prometheus_client import CollectorRegistry

from orchestrator.controller.status.endpoint import ControllerEndpoint, Heartbeat
from orchestrator.controller.status.holder import HolderKeeper
from orchestrator.snapshot import ServerName
from tests.gateway.calls import RawCalls, item_request
from tests.gateway.test_one_connection import Handler, open_triton

PAUSE_S = 0.01


def tell(**what: object) -> None:
    """Print what has happened now."""
    print(json.dumps({"at_s": time.monotonic(), **what}), flush=True)


class TellingHandler(Handler):
    """A Triton that tells who sends it a batch."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def note(self, method: str, peer: str) -> None:
        super().note(method, peer)
        if method == "ModelInfer":
            tell(server=self._name, sender=peer.split(":")[1])


def open_keeper(address: str) -> ControllerEndpoint:
    """Return a controller's endpoint, of which only the record of the driver is real."""
    return ControllerEndpoint(
        address,
        server=ServerName("any"),
        registry=CollectorRegistry(),
        report=lambda: None,
        heartbeat=Heartbeat(1.0, lambda: 0.0),
        models=tuple,
        demand=lambda model, hold_s: None,
        keeper=HolderKeeper(time.monotonic, first_term=1, headers={}),
        loop=asyncio.get_running_loop(),
    )


async def call(gateway: str) -> None:
    """Ask one gateway again and again."""
    async with grpc.aio.insecure_channel(gateway) as channel:
        calls = RawCalls(channel)
        while True:
            try:
                await calls.infer(item_request())
                tell(caller_of=gateway, end="OK")
            except grpc.aio.AioRpcError as exc:
                tell(caller_of=gateway, end=f"{exc.code().name}: {exc.details()}")
            await asyncio.sleep(PAUSE_S)


async def run(plan: dict[str, Any]) -> None:
    """Be all of it until the process is ended."""
    async with AsyncExitStack() as stack:
        for address in plan["tritons"]:
            await stack.enter_async_context(open_triton(TellingHandler(address), address))
        for address in plan["keepers"]:
            stack.enter_context(open_keeper(address))
        await asyncio.gather(*(call(gateway) for gateway in plan["gateways"] for _ in range(2)))


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
