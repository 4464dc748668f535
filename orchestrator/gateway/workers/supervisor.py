"""A gateway of several processes: one supervisor, and workers that answer.

The supervisor accepts connections and hands them out (``handoff``), starts workers and starts those again that die,
keeps what must be one truth for all of them (``inventory``, readiness), and adds up what they count. It answers no
request itself, so there is little in it that could fail; when it is killed nevertheless, its workers see their channels
close, answer what they have and end.

SO_REUSEPORT alone would need none of this. It was refused: the kernel spreads connections by a hash, drops those that
wait in the queue of a worker that ends, and lets a second gateway take part of the traffic without a word.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self

from orchestrator.config import GatewaySettings
from orchestrator.errors import ServerUnavailableError, SlimError
from orchestrator.gateway.fleet_statistics import FleetInventory, answers_to_workers
from orchestrator.gateway.metrics.endpoint import MetricsEndpoint
from orchestrator.gateway.metrics.gateway_metrics import MEASURES, WORKER_RESTARTS, WORKERS
from orchestrator.gateway.metrics.snapshot import MetricSnapshot
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.ports import Server
from orchestrator.gateway.workers.channel import Channel
from orchestrator.gateway.workers.listening import BACKLOG, bind
from orchestrator.gateway.workers.socket_handoff import Kind, SocketHandoff
from orchestrator.processes.back_off import count_short_runs, restart_pause_s
from orchestrator.processes.exit_codes import describe_exit_code
from orchestrator.snapshot import ServerName

log = logging.getLogger(__name__)

GRPC, HTTP = "grpc", "http"
_TALLY_S = 1.0
_STOP_MARGIN_S = 5.0  # beyond drain_s, before a worker that does not end is killed
_RETRY_ACCEPT_S = 0.5

Hello = Mapping[str, Any]
Command = Callable[[int, int], Sequence[str]]


class Worker:
    """The supervisor's record of one worker.

    Attributes:
        served: families it can answer.
        tally: what it has counted, as far as it has told.
        failure: why it ended, when it said so.
    """

    def __init__(
        self, number: int, process: asyncio.subprocess.Process, channel: Channel, handoff: SocketHandoff
    ) -> None:
        self.number = number
        self.process = process
        self.channel = channel
        self.handoff = handoff
        self.is_up = False
        self.served: frozenset[str] = frozenset()
        self.tally = MetricSnapshot()
        self.failure: str | None = None

    async def read_tally(self) -> MetricSnapshot:
        """Return what it has counted; what it last told when it does not answer."""
        with contextlib.suppress(SlimError):
            self.tally = MetricSnapshot.decode(await self.channel.ask("tally", timeout_s=_TALLY_S))
        return self.tally


class Supervisor:
    """Listens, and keeps the workers, while the context is open; leaving it drains.

    Args:
        settings: its section of fleet.yaml.
        servers: to read statistics and the index from, by name; closed by the supervisor.
        timeout_s: for a server to say what it serves.
        discovery_period_s: how often they are asked.
        hello: what a new worker is told first, by its number.
        command: returns how a worker is started, given the descriptors of its channel and of its door.
        environment: of a worker.

    Attributes:
        metrics: its endpoint; None when not offered.
        restarts: workers started again.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        servers: Mapping[ServerName, Server],
        *,
        timeout_s: float,
        discovery_period_s: float,
        hello: Callable[[int], Hello],
        command: Command,
        environment: Mapping[str, str],
    ) -> None:
        self._settings = settings
        self._discovery_period_s = discovery_period_s
        self._stop_s = settings.drain_s + _STOP_MARGIN_S
        self._hello = hello
        self._command = command
        self._environment = dict(environment)
        self._model_index = ModelIndex(servers, timeout_s=timeout_s)
        self._inventory = FleetInventory(self._model_index, self.is_served)
        self._workers: dict[int, Worker] = {}
        self._retired = MetricSnapshot()
        self._is_stopping = False
        self._stopped = asyncio.Event()
        self._changed = asyncio.Event()
        self._bound: dict[Kind, socket.socket] = {}
        self._listeners: dict[Kind, socket.socket] = {}
        self._left: list[tuple[Kind, socket.socket]] = []
        self._keepers: list[asyncio.Task[None]] = []
        self._watchers: list[asyncio.Task[None]] = []
        self.metrics = None if settings.metrics is None else MetricsEndpoint(settings.metrics, self.read_tally)
        self.restarts = 0

    def reconfigure(self, opened: Mapping[ServerName, Server], closed: Iterable[ServerName]) -> None:
        """Read other servers from now on; the workers are told by whoever made them."""
        self._model_index.reconfigure(opened, closed)

    # --- life ---

    async def __aenter__(self) -> Self:
        """Listen, and wait until all workers answer.

        Raises:
            ConfigError: an address can't be listened on.
            SlimError: a worker could not start; none is left then.
        """
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._model_index.close)
            stack.callback(self._close_sockets)
            self._bind()
            await self._model_index.refresh()
            if self.metrics is not None:
                stack.push_async_callback(self.metrics.stop, 0.0)
                await self.metrics.start()
            stack.push_async_callback(self._stop_workers)
            self._keepers = [asyncio.create_task(self._keep(number)) for number in range(self._settings.workers)]
            await self._wait_up()
            for kind, bound in self._bound.items():  # not before: until then a client is to find another gateway
                bound.listen(BACKLOG)
                self._listeners[kind] = bound
            self._resume()
            stack.pop_all()
        self._watchers = [
            asyncio.create_task(self._model_index.watch(self._discovery_period_s)),
            asyncio.create_task(self._inventory.watch(self._settings.statistics_period_s)),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Hand out what waits to be accepted, listen no more, and let every worker drain."""
        for name, listener in self._listeners.items():
            while self._accept(name, listener):
                pass
        self._close_sockets()
        try:
            await self._stop_workers()
        finally:
            for task in self._watchers:
                task.cancel()
            await asyncio.gather(*self._watchers, return_exceptions=True)
            if self.metrics is not None:
                await self.metrics.stop(0.0)
            await self._model_index.close()

    @property
    def addresses(self) -> list[tuple[str, str]]:
        """What is offered, and where."""
        metrics = self.metrics.address if self.metrics is not None else None
        offered = (("gRPC", self._settings.grpc), ("HTTP", self._settings.http), ("metrics", metrics))
        return [(what, address) for what, address in offered if address is not None]

    def hang_up(self) -> None:
        """Let the workers read their files again; those that start have just read them."""
        for worker in self._workers.values():
            if worker.is_up:
                _signal(worker, signal.SIGHUP)

    def kill(self) -> None:
        """End all workers at once."""
        for worker in self._workers.values():
            _signal(worker, signal.SIGKILL)

    def _bind(self) -> None:
        for kind, address in ((GRPC, self._settings.grpc), (HTTP, self._settings.http)):
            if address is not None:
                self._bound[kind] = bind(address, key=f"gateway.{kind}")

    def _close_sockets(self) -> None:
        self._pause()
        self._listeners.clear()
        for bound in self._bound.values():
            bound.close()

    async def _wait_up(self) -> None:
        while not all(n in self._workers and self._workers[n].is_up for n in range(self._settings.workers)):
            self._changed.clear()
            change = asyncio.create_task(self._changed.wait())
            done, _ = await asyncio.wait({change, *self._keepers}, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            for task in done - {change}:
                task.result()  # raises why

    async def _stop_workers(self) -> None:
        self._is_stopping = True
        self._stopped.set()
        for worker in self._workers.values():
            _signal(worker, signal.SIGTERM)
        if not self._keepers:
            return
        _, late = await asyncio.wait(self._keepers, timeout=self._stop_s)
        if late:
            log.error("%d workers did not end within %g s and are killed", len(late), self._stop_s)
            self.kill()
        await asyncio.gather(*self._keepers, return_exceptions=True)

    # --- workers ---

    async def _keep(self, number: int) -> None:
        """Start a worker, and again whenever it dies, until stopped.

        Raises:
            SlimError: it died before it had ever answered.
        """
        loop = asyncio.get_running_loop()
        short_lives, was_up = 0, False
        while not self._is_stopping:
            began_s = loop.time()
            worker = await self._start(number)
            how = await self._live(worker)
            if self._is_stopping:
                return
            was_up = was_up or worker.is_up
            if not was_up:
                raise ServerUnavailableError(worker.failure or f"worker {number} {how} while it started")
            short_lives = count_short_runs(short_lives, loop.time() - began_s)
            pause_s = restart_pause_s(short_lives)
            self.restarts += 1
            log.error("worker %d (process %d) %s; again in %g s", number, worker.process.pid, how, pause_s)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopped.wait()

    async def _start(self, number: int) -> Worker:
        ours, theirs = socket.socketpair()
        our_handoff, their_handoff = socket.socketpair(type=socket.SOCK_SEQPACKET)
        with theirs, their_handoff:
            process = await asyncio.create_subprocess_exec(
                *self._command(theirs.fileno(), their_handoff.fileno()),
                env=self._environment,
                pass_fds=(theirs.fileno(), their_handoff.fileno()),
                process_group=0,  # Ctrl-C is for the supervisor, which then drains
            )
        # A worker that ends before it has read this is noticed by its exit.
        ours.sendall(json.dumps(dict(self._hello(number))).encode() + b"\n")
        answers = {
            **answers_to_workers(self._inventory),
            "up": lambda body: self._note(number, is_up=True),
            "served": lambda body: self._note(number, served=frozenset(body)),
            "tally": lambda body: self._note(number, tally=MetricSnapshot.decode(body)),
            "failed": lambda body: self._note(number, failure=body),
        }
        worker = Worker(number, process, await Channel.over(ours, answers), SocketHandoff(our_handoff, self._resume))
        self._workers[number] = worker
        if self._is_stopping:  # it was decided while this one started
            _signal(worker, signal.SIGTERM)
        return worker

    async def _live(self, worker: Worker) -> str:
        """Return how a worker ended, once it has, after clearing up behind it."""
        listening = asyncio.create_task(worker.channel.run())
        try:
            code = await worker.process.wait()
            await asyncio.wait({listening}, timeout=1.0)  # for its last words
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            del self._workers[worker.number]
            self._retired.add(worker.tally, MEASURES, with_gauges=False)
            self._left += worker.handoff.close()
            self._tell_served()
            self._resume()
        return describe_exit_code(code)

    async def _note(self, number: int, **facts: Any) -> None:
        worker = self._workers.get(number)
        if worker is None:
            return
        for name, value in facts.items():
            setattr(worker, name, value)
        if "is_up" in facts:
            log.info("worker %d (process %d) takes requests", number, worker.process.pid)
            self._resume()
            self._changed.set()
        if facts.keys() & {"is_up", "served"}:
            self._tell_served()

    # --- one truth ---

    def is_served(self, family: str) -> bool:
        """Return whether every worker that takes requests can answer a family."""
        up = [worker for worker in self._workers.values() if worker.is_up]
        return bool(up) and all(family in worker.served for worker in up)

    def _tell_served(self) -> None:
        served = [name for name in self._model_index.families if self.is_served(name)]
        for worker in self._workers.values():
            worker.channel.tell("served", served)

    async def read_tally(self) -> MetricSnapshot:
        """Return what all workers have counted, those that are gone included."""
        total = MetricSnapshot()
        total.add(self._retired, MEASURES)
        workers = [worker for worker in self._workers.values() if worker.is_up]
        for tally in await asyncio.gather(*(worker.read_tally() for worker in workers)):
            total.add(tally, MEASURES)
        total.values |= {WORKERS.name: {(): [float(len(workers))]}, WORKER_RESTARTS.name: {(): [float(self.restarts)]}}
        return total

    # --- connections ---

    def _accept(self, kind: Kind, listener: socket.socket) -> bool:
        """Accept and hand out one connection; False when none waits."""
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            return False
        except OSError as exc:  # no more descriptors, most likely
            log.error("can't accept a connection (%s); again in %g s", exc.strerror, _RETRY_ACCEPT_S)
            self._pause()
            asyncio.get_running_loop().call_later(_RETRY_ACCEPT_S, self._resume)
            return False
        connection.setblocking(False)
        if not self._hand_out(kind, connection):
            self._left.append((kind, connection))
            self._pause()
        return True

    def _hand_out(self, kind: Kind, connection: socket.socket) -> bool:
        workers = [worker for worker in self._workers.values() if worker.is_up]
        workers.sort(key=lambda worker: (worker.handoff.count(kind), worker.handoff.total, worker.number))
        return any(worker.handoff.give(kind, connection) for worker in workers)

    def _resume(self) -> None:
        """Hand out what was left over, then accept again."""
        while self._left:
            if not self._hand_out(*self._left[0]):
                return
            del self._left[0]
        if any(worker.is_up for worker in self._workers.values()):
            for kind, listener in self._listeners.items():
                asyncio.get_running_loop().add_reader(listener, self._accept, kind, listener)

    def _pause(self) -> None:
        for listener in self._listeners.values():
            asyncio.get_running_loop().remove_reader(listener)


def _signal(worker: Worker, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        worker.process.send_signal(number)
