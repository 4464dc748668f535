"""One run of a worker, as its supervisor keeps it: the process, the channel to it, and what it has told."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.workers.channel import Answers, Channel
from orchestrator.gateway.workers.distributor import ConnectionDistributor
from orchestrator.gateway.workers.socket_handoff import SocketHandoff
from orchestrator.processes.child import ChildProcess

log = logging.getLogger(__name__)

_METRICS_S = 1.0
_LAST_WORDS_S = 1.0


@dataclass(frozen=True, slots=True)
class WorkerLaunch:
    """How a worker is started.

    Attributes:
        command: Returns program and arguments, given the descriptors of its channel and of its socket handoff.
        environment: The whole environment of a worker.
        init_message: Returns what a worker is told first, by its number.
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
        distributor: Where it gets its connections from.
        on_change: Called when it begins or ends to take requests, and when it can answer other families.

    Attributes:
        is_up: Whether it takes requests.
        served: Families it can answer.
        metrics: What it has counted, as far as it has told.
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
    ) -> None:
        self.number = number
        self.is_up = False
        self.served: frozenset[str] = frozenset()
        self.metrics = MetricSnapshot()
        self._init_message = dict(launch.init_message(number))
        self._distributor = distributor
        self._on_change = on_change
        self._answers: Answers = {
            **answers,
            "up": self._hear_up,
            "served": self._hear_served,
            "metrics": self._hear_metrics,
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
            pass_fds=descriptors,
            is_ready=self._has_come_up,
        )

    async def start(self) -> None:
        """Return when the worker takes requests.

        Raises:
            ServerUnavailableError: It ended instead; with its reason, when it told one.
        """
        try:
            with self._their_channel_end, self._their_handoff_end:
                self._channel = await Channel.over(self._channel_end, self._answers)
                self._listening = asyncio.create_task(self._channel.run())
                self._channel.tell("init", self._init_message)
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
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        self.is_up = False
        self._on_change(self)
        self._distributor.remove(self.number, self._handoff)

    def tell_served(self, families: Sequence[str]) -> None:
        """Tell the worker which families all workers can answer."""
        self._channel.tell("served", families)

    async def read_metrics(self) -> MetricSnapshot:
        """Return what the worker has counted; what it last told when it does not answer."""
        with contextlib.suppress(SlimError):
            await self._hear_metrics(await self._channel.ask("metrics", timeout_s=_METRICS_S))
        return self.metrics

    async def _has_come_up(self) -> bool:
        return self.is_up

    async def _hear_up(self, body: None) -> None:
        log.info("worker %d (process %d) takes requests", self.number, self.pid)
        self.is_up = True
        self._on_change(self)
        self._distributor.add(self.number, self._handoff)

    async def _hear_served(self, body: Sequence[str]) -> None:
        self.served = frozenset(body)
        self._on_change(self)

    async def _hear_metrics(self, body: Any) -> None:
        self.metrics = MetricSnapshot.decode(body)

    async def _hear_failure(self, body: str) -> None:
        self._failure = body
