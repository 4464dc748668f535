"""A worker's side of a gateway of several processes."""

from __future__ import annotations

import asyncio
import json
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable
from typing import Any

from orchestrator.gateway.protocol.messages import parse_request
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.workers.channel import Channel
from orchestrator.gateway.workers.socket_handoff import Receiver

_SERVED_PERIOD_S = 0.05
"""How late the others learn at the most of families that have come or gone here."""
_QUERY_S = 10.0
"""How long the supervisor may take, which asks the servers for their statistics."""
_METRICS_PERIOD_S = 1.0
"""How many seconds of counting are lost at the most when a worker is killed."""


def read_init_message(channel_end: socket.socket) -> dict[str, Any] | None:
    """Return what the supervisor sends first, and make the socket ready for a channel; None when it is gone."""
    line = b""
    while not line.endswith(b"\n"):
        byte = channel_end.recv(1)  # byte by byte, because what follows is for the channel
        if not byte:
            return None
        line += byte
    channel_end.setblocking(False)
    message: dict[str, Any] = json.loads(line)["body"]
    return message


class WorkerTeam:
    """The supervisor, and through it the other workers, as one worker knows them; ``join`` comes first.

    The channel is used from after the init message; ``on_alone`` is called when the supervisor is gone.
    """

    def __init__(self, channel_end: socket.socket, handoff_end: socket.socket, on_alone: Callable[[], None]) -> None:
        self._channel_end = channel_end
        self._handoff_end = handoff_end
        self._on_alone = on_alone
        self._served: frozenset[str] | None = None  # unknown before the supervisor says so
        self._channel: Channel
        self._gateway: Gateway | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def join(self) -> None:
        """Begin to listen to the supervisor."""
        self._channel = await Channel.over(
            self._channel_end, {"served": self._hear_served, "metrics": self._read_metrics}
        )
        self._tasks.append(asyncio.create_task(self._listen()))

    def serve(self, gateway: Gateway) -> None:
        """Take connections for a gateway that is open, until ``leave``."""
        self._gateway = gateway
        offered = {kind: t for kind, t in (("grpc", gateway.grpc), ("http", gateway.http)) if t is not None}
        self._tasks.append(asyncio.create_task(Receiver(self._handoff_end, offered).run()))
        self._tasks.append(asyncio.create_task(self._report(gateway)))
        self._channel.tell("served", sorted(gateway.served))
        self._channel.tell("up")

    async def leave(self, failure: str | None = None) -> None:
        """Report what was counted, or why this worker could not start, and end."""
        if self._gateway is not None:
            self._channel.tell("metrics", self._gateway.snapshot_metrics().encode())
        if failure is not None:
            self._channel.tell("failed", failure)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def query_fleet(self, method: str, message: bytes) -> bytes:
        """Return what the supervisor answers to a call about the whole fleet, which it knows."""
        parse_request(method, message)  # bytes that are none are refused here, where they came from
        return b64decode(await self._channel.ask(method, b64encode(message).decode(), timeout_s=_QUERY_S))

    def is_served(self, family: str) -> bool:
        """Return whether all workers can answer a family."""
        return self._served is None or family in self._served

    async def _listen(self) -> None:
        await self._channel.run()
        self._on_alone()

    async def _report(self, gateway: Gateway) -> None:
        loop = asyncio.get_running_loop()
        served, metrics_at_s = gateway.served, loop.time()
        while True:
            await asyncio.sleep(_SERVED_PERIOD_S)
            if served != gateway.served:
                served = gateway.served
                self._channel.tell("served", sorted(served))
            if loop.time() >= metrics_at_s:
                metrics_at_s = loop.time() + _METRICS_PERIOD_S
                self._channel.tell("metrics", gateway.snapshot_metrics().encode())

    async def _hear_served(self, body: Any) -> None:
        self._served = frozenset(body)

    async def _read_metrics(self, body: Any) -> Any:
        return [] if self._gateway is None else self._gateway.snapshot_metrics().encode()
