"""A worker of a gateway of several processes: one run of it as its supervisor keeps it, and its own side of that.

Between them are a channel, which the worker finds closed when its supervisor is gone, and a socket handoff.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import socket
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import TypeAdapter, ValidationError

from orchestrator.background import end_tasks
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.peers.leases import Keeper, NoKeeperError
from orchestrator.gateway.protocol.messages import parse_request
from orchestrator.gateway.server import Gateway
from orchestrator.gateway.workers.channel import Answers, Channel
from orchestrator.gateway.workers.socket_handoff import ConnectionDistributor, Receiver, SocketHandoff
from orchestrator.ownership import GatewayName
from orchestrator.processes.child import ChildProcess
from orchestrator.router import FleetOverview

log = logging.getLogger(__name__)

_METRICS_S = 1.0
_KEEPER_S = 0.5
_LAST_WORDS_S = 1.0
BEAT_S = 0.2
"""How often a worker shows that its event loop turns."""
_SERVED_PERIOD_S = 0.05
"""How late the others learn at the most of families that have come or gone here."""
_QUERY_S = 10.0
"""How long the supervisor may take, which asks the servers for their statistics."""
_METRICS_PERIOD_S = 1.0
"""How many seconds of counting are lost at the most when a worker is killed."""
_OVERVIEW = TypeAdapter(FleetOverview)


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """How a worker is started.

    Attributes:
        command: Returns program and arguments, given the descriptors of its channel and of its socket handoff.
        environment: The whole environment of a worker.
        init_message: Returns what is sent to a worker first, by its number.
    """

    command: Callable[[int, int], Sequence[str]]
    environment: Mapping[str, str]
    init_message: Callable[[int], Mapping[str, Any]]


class WorkerRun(ChildProcess):
    """One run of a worker; it has started when it says that it takes requests.

    Args:
        number: The worker's, from 0.
        launch: How it is started.
        stop_s: How long it may take to end, in seconds, before it is killed.
        answers: What it can ask the supervisor, by name.
        distributor: What gives it its connections.
        on_change: Called when it begins or ends to take requests, and when it can answer other families.
        peers: The sockets on which it is to listen for other gateways, which outlive it.

    Attributes:
        is_up: Whether it takes requests.
        served: Families it can answer.
        metrics: What it has counted, as far as it has reported.
        heard_s: When its event loop last showed that it turns, on the clock of this process's.
    """

    def __init__(
        self,
        number: int,
        launch: WorkerLaunch,
        *,
        stop_s: float,
        answers: Answers,
        distributor: ConnectionDistributor,
        on_change: Callable[[WorkerRun], None],
        peers: Sequence[socket.socket] = (),
    ) -> None:
        self.number = number
        self.is_up = False
        self.served: frozenset[str] = frozenset()
        self.metrics = MetricSnapshot()
        self.heard_s = math.inf
        peers_fds = [one.fileno() for one in peers]
        self._init_message = {**launch.init_message(number), "peers": peers_fds}
        self._distributor = distributor
        self._on_change = on_change
        self._answers: Answers = {
            **answers,
            "up": self._hear_up,
            "served": self._hear_served,
            "metrics": self._hear_metrics,
            "beat": self._hear_beat,
            "failed": self._hear_failure,
        }
        self._channel_end, self._their_channel_end = socket.socketpair()
        handoff_end, self._their_handoff_end = socket.socketpair(type=socket.SOCK_SEQPACKET)
        self._handoff = SocketHandoff(handoff_end, distributor.resume)
        self._listening: asyncio.Task[None] | None = None
        self._failure: str | None = None
        descriptors = (self._their_channel_end.fileno(), self._their_handoff_end.fileno())
        super().__init__(
            f"worker {number}",
            launch.command(*descriptors),
            stop_s=stop_s,
            environment=launch.environment,
            pass_fds=(*descriptors, *peers_fds),
            is_ready=self._has_come_up,
        )

    async def start(self) -> None:
        """Return when the worker takes requests; raises ServerUnavailableError, with its reason, when it ended."""
        try:
            with self._their_channel_end, self._their_handoff_end:
                self._channel = await Channel.over(self._channel_end, self._answers)
                self._listening = asyncio.create_task(self._channel.run())
                self._channel.notify("init", self._init_message)
                await super().start()
        except ServerUnavailableError as exc:
            await self.stop()  # for its last words
            raise ServerUnavailableError(self._failure or f"worker {self.number} {exc} while it started") from None

    async def wait_exited(self) -> str:
        """Return how the worker ended, once it has, and which process it was."""
        return f"(process {self.pid}) {await super().wait_exited()}"

    async def stop(self) -> None:
        """End the worker, hear its last words, and take back the connections that it has not begun with."""
        await super().stop()
        if self._listening is None:
            return
        listening, self._listening = self._listening, None
        await asyncio.wait({listening}, timeout=_LAST_WORDS_S)
        await end_tasks(listening)
        self.is_up = False
        self._on_change(self)
        self._distributor.remove(self.number, self._handoff)

    def notify_served(self, families: Sequence[str]) -> None:
        """Let the worker know which families all workers can answer."""
        self._channel.notify("served", families)

    def say_unready(self) -> None:
        """Let the worker say that it is not ready, and serve on."""
        self._channel.notify("unready")

    async def read_metrics(self) -> MetricSnapshot:
        """Return what the worker has counted; what it last reported when it does not answer."""
        with contextlib.suppress(SlimError):
            await self._hear_metrics(await self._channel.ask("metrics", timeout_s=_METRICS_S))
        return self.metrics

    async def read_overview(self) -> FleetOverview | None:
        """Return what the worker's router knows of the fleet; None when it does not answer."""
        try:
            return _OVERVIEW.validate_python(await self._channel.ask("overview", timeout_s=_METRICS_S))
        except (SlimError, ValidationError):  # the latter of one that is just ending
            return None

    async def _has_come_up(self) -> bool:
        return self.is_up

    async def _hear_up(self, body: None) -> None:
        log.info("worker %d (process %d) takes requests", self.number, self.pid)
        self.is_up = True
        await self._hear_beat(None)
        self._on_change(self)
        self._distributor.add(self.number, self._handoff)

    async def _hear_served(self, body: Sequence[str]) -> None:
        self.served = frozenset(body)
        self._on_change(self)

    async def _hear_metrics(self, body: Any) -> None:
        self.metrics = MetricSnapshot.decode(body)

    async def _hear_beat(self, body: None) -> None:
        self.heard_s = asyncio.get_running_loop().time()

    async def _hear_failure(self, body: str) -> None:
        self._failure = body


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


class _SupervisorKeeper:
    """Asks the supervisor about the driver of one server; a keeper as ``peers.leases`` knows them."""

    def __init__(self, channel: Channel, server: str) -> None:
        self._channel = channel
        self._server = server

    async def claim(self, gateway: GatewayName) -> int | None:
        term: int | None = await self._ask(gateway, "claim")
        return term

    async def renew(self, gateway: GatewayName, term: int) -> bool:
        return await self._ask(gateway, "renew", term) is not None

    async def release(self, gateway: GatewayName, term: int, successor: GatewayName | None) -> None:
        await self._ask(gateway, "release", term, successor)

    async def _ask(self, *body: object) -> Any:
        try:
            return await self._channel.ask("holder", [self._server, *body], timeout_s=_KEEPER_S)
        except ServerUnavailableError as exc:
            if exc.executed:  # no answer yet
                raise
            raise NoKeeperError(str(exc)) from exc


@dataclass(slots=True, eq=False)
class WorkerTeam:
    """The supervisor, and through it the other workers, as one worker knows them; ``join`` comes first.

    The channel is used from after the init message; ``on_alone`` is called when the supervisor is gone.

    Attributes:
        number: Which of the workers this one is, from 0.
        directory: Where sockets between the workers are.
    """

    channel_end: socket.socket
    handoff_end: socket.socket
    on_alone: Callable[[], object]
    number: int = 0
    directory: str = ""
    _served: frozenset[str] | None = None  # unknown before the supervisor says so
    _channel: Channel = field(init=False, repr=False)
    _gateway: Gateway | None = None
    _listening: asyncio.Task[None] | None = None

    async def join(self) -> None:
        """Begin to listen to the supervisor."""
        self._channel = await Channel.over(
            self.channel_end,
            {
                "served": self._hear_served,
                "metrics": self._read_metrics,
                "overview": self._read_overview,
                "unready": self._hear_unready,
            },
        )
        self._listening = asyncio.create_task(self._listen())

    def serve(self, gateway: Gateway) -> None:
        """Take connections for a gateway that is open, until ``leave``."""
        self._gateway = gateway
        offered = {kind: t for kind, t in (("grpc", gateway.grpc), ("http", gateway.http)) if t is not None}
        gateway.background.start("taking connections", Receiver(self.handoff_end, offered).run)
        gateway.background.start("reporting", partial(self._report, gateway))
        self._channel.notify("served", sorted(gateway.served))
        self._channel.notify("up")

    async def leave(self, failure: str | None = None) -> None:
        """Report what was counted, or why this worker could not start, and end."""
        if self._gateway is not None:
            self._channel.notify("metrics", self._gateway.snapshot_metrics().encode())
        if failure is not None:
            self._channel.notify("failed", failure)
        if self._listening is not None:
            await end_tasks(self._listening)
        await self._channel.close()

    async def query_fleet(self, method: str, message: bytes) -> bytes:
        """Return what the supervisor answers to a call about the whole fleet, which it knows."""
        parse_request(method, message)  # bytes that are none are refused here, where they came from
        return b64decode(await self._channel.ask(method, b64encode(message).decode(), timeout_s=_QUERY_S))

    def keeper(self, server: str) -> Keeper:
        """Return what keeps the record of the worker that drives the server at an address: the supervisor."""
        return _SupervisorKeeper(self._channel, server)

    def is_served(self, family: str) -> bool:
        """Return whether all workers can answer a family."""
        return self._served is None or family in self._served

    async def _listen(self) -> None:
        await self._channel.run()
        self.on_alone()

    async def _report(self, gateway: Gateway) -> None:
        loop = asyncio.get_running_loop()
        served, metrics_at_s, beat_at_s = gateway.served, loop.time(), loop.time()
        while True:
            await asyncio.sleep(_SERVED_PERIOD_S)
            if loop.time() >= beat_at_s:
                beat_at_s = loop.time() + BEAT_S
                self._channel.notify("beat")
            if served != gateway.served:
                served = gateway.served
                self._channel.notify("served", sorted(served))
            if loop.time() >= metrics_at_s:
                metrics_at_s = loop.time() + _METRICS_PERIOD_S
                self._channel.notify("metrics", gateway.snapshot_metrics().encode())

    async def _hear_served(self, body: Any) -> None:
        self._served = frozenset(body)

    async def _hear_unready(self, body: None) -> None:
        if self._gateway is not None:
            self._gateway.say_unready()

    async def _read_metrics(self, body: Any) -> Any:
        return [] if self._gateway is None else self._gateway.snapshot_metrics().encode()

    async def _read_overview(self, body: Any) -> Any:
        return (
            None if self._gateway is None else _OVERVIEW.dump_python(await self._gateway.read_overview(), mode="json")
        )
