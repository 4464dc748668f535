"""A small client of one or several gateways: typed options in, outputs and what was decided out.

Any KServe client can ask a gateway, and nothing here can't be done by hand with tritonclient: set the ``slim_``
parameters, read them from the answer, wait for as long as a refusal says (``grpc-retry-pushback-ms``), and ask another
gateway when one can't be reached. This does it in one place, over the project's own gRPC channel.

A request is repeated when it was refused because of load, when no gateway has begun with it, and, unless its caller
says that it must not run twice, when the gateway that has it is gone. Its deadline runs on meanwhile, and is told to
the next one as what is left of it. What is late is not repeated.

A process that stands still takes calls all the same, because its kernel does. So of several gateways one that is slow
to answer is asked whether it lives, and one that does not say so is gone, until it does. To send each request twice
instead, after a while, would double the load just when there is too much.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import math
import os
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from numpy.typing import NDArray

from orchestrator.errors import CapacityError, ConfigError, ConnectionLostError, DeadlineError, TransientError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import Metadata, RpcError
from orchestrator.triton.errors import translate_status
from orchestrator.triton.infer_wire import InferRequests, decode_outputs, encode_parameters
from orchestrator.triton.messages import SERVICE, pb

T = TypeVar("T")
P = ParamSpec("P")
Array = NDArray[Any]

_INFER: Final = f"/{SERVICE}/ModelInfer"
_LIVE: Final = f"/{SERVICE}/ServerLive"
_REFUSED: Final = os.strerror(errno.ECONNREFUSED)
_PAUSE_S: Final = 0.1
"""Before gateways are asked again of which none could be reached."""
_LEAST_QUIET_S, _MOST_QUIET_S = 0.05, 0.5
"""How long a gateway may say nothing before it is asked whether it lives, and then again; a busy one takes a while."""


@dataclass(frozen=True, slots=True)
class Decided:
    """An answer; what is said of the decision is None for models that are no family.

    Attributes:
        outputs: By name, with the batch dimension; they may not be written to.
        width: The width that ran it, in percent.
        batch: The items that ran together.
        queue_s: Seconds in the router's queue.
        expected_accuracy: Of that width, on the family's own scale.
        energy_j: The expected joules of its part of the batch; None when unknown, too.
        decision_id: What ``slimsched why`` takes.
    """

    outputs: Mapping[str, Array]
    server: str | None = None
    width: int | None = None
    batch: int | None = None
    queue_s: float | None = None
    expected_accuracy: float | None = None
    energy_j: float | None = None
    decision_id: str | None = None
    policy: str | None = None


class _Gateway:
    """One gateway, at ``host:port``, and whether it lives.

    That is asked over a connection of its own, where no large request is on its way.
    """

    def __init__(self, address: str, tls: ssl.SSLContext | None, metadata: Metadata) -> None:
        self.channel = GrpcChannel(address, tls=tls)
        self.metadata = metadata
        self._life = GrpcChannel(address, tls=tls)
        self._heard_s = -math.inf
        self._question: asyncio.Task[bool] | None = None

    @property
    def is_doubted(self) -> bool:
        """Whether it has still to say that it lives."""
        return self._question is not None and not self._question.done()

    def doubt(self) -> asyncio.Task[bool]:
        """Ask whether it lives, unless it was asked and has not answered; returns what becomes the answer."""
        if self._question is None or self._question.done():
            self._question = asyncio.create_task(self._ask_for_life(), name="does it live")
        return self._question

    async def watch(self, quiet_s: float, waits: asyncio.Timeout) -> None:
        """End what waits for its answer once it has said nothing for ``quiet_s``, and to a question for as long."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(quiet_s)
            if loop.time() - self._heard_s >= quiet_s:
                question = self.doubt()
                await asyncio.wait((question,), timeout=quiet_s)
                if not question.done() or not question.result():
                    waits.reschedule(loop.time())
                    return

    async def close(self) -> None:
        """Let go of the connections."""
        if self._question is not None:
            self._question.cancel()
        await asyncio.gather(*(channel.close(drain_s=0.0) for channel in (self.channel, self._life)))

    async def _ask_for_life(self) -> bool:
        try:
            await self._life.call(_LIVE, b"", self.metadata)
        except RpcError as exc:
            # One that drains refuses connections, and still answers what it has; of one that has ended, calls end too.
            if exc.status == "UNAVAILABLE" and not exc.detail.endswith(_REFUSED):
                self.channel.set_aside()  # or the next call would wait for what was sent to be acknowledged
                return False
        self._heard_s = asyncio.get_running_loop().time()
        return True


class AsyncClient:
    """Asks gateways, each at ``host:port`` of its gRPC; an async context manager, to be used from one event loop.

    Args:
        token: The caller's token, where the gateways ask for one.
        tls: How to talk TLS, for these gateways alone, because it is told to speak HTTP/2; None: plain.
        attempts: How often a request may be sent, over all gateways.
        timeout_s: The longest that a request may take, its repetitions included.

    Example:
        async with AsyncClient("gateway-1:8081", "gateway-2:8081") as client:
            answer = await client.infer("fashion", {"pixels": pixels}, deadline_ms=50, min_accuracy=0.91)
    """

    def __init__(
        self,
        *gateways: str,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        attempts: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        if not gateways:
            raise ValueError("no gateway; give the address of one as host:port")
        for address in gateways:
            if not address.rpartition(":")[2].isdecimal():
                raise ValueError(f"gateway {address!r} has no port; give its address as host:port")
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}, so that nothing would be sent; give 1 or more")
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        metadata = () if token is None else (("authorization", f"Bearer {token}"),)
        self._gateways = [_Gateway(address, tls, metadata) for address in gateways]
        self._attempts = attempts
        self._timeout_s = timeout_s
        self._requests = InferRequests()
        self._turn = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Let go of the connections; answers that are awaited don't come any more."""
        await asyncio.gather(*(gateway.close() for gateway in self._gateways))

    async def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        *,
        deadline_ms: float | None = None,
        min_accuracy: float | None = None,
        width: int | None = None,
        priority: int = 0,
        max_joules: float | None = None,
        preference: str | None = None,
        idempotent: bool = True,
    ) -> Decided:
        """Return the answer to a batch of items; the options are those of docs/gateway.md.

        Families are pure functions. For another model that must not run twice, because it keeps state, say that it is
        not ``idempotent``: then nothing is repeated that may have run.

        Raises:
            CapacityError: The gateways refused it because of load, for as long as there was time.
            DeadlineError: There was no answer in time.
            ConfigError: The deadline is below 0, or no model takes an array's type.
            SlimError: It can't be answered; whether it may have run is among it.
        """
        if deadline_ms is not None and deadline_ms < 0:
            raise ConfigError(f"deadline_ms is {deadline_ms:g}; give 0 or more")
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        timeout_s = self._timeout_s if deadline_ms is None else min(self._timeout_s, deadline_ms / 1e3)
        quiet_s = min(max(timeout_s / 4, _LEAST_QUIET_S), _MOST_QUIET_S)
        given = {
            "slim_min_accuracy": min_accuracy,
            "slim_width": width,
            "slim_max_joules": max_joules,
            "slim_preference": preference,
            "priority": priority or None,
        }
        for attempt in range(1, self._attempts + 1):
            left_s = began_s + timeout_s - loop.time()
            deadline = {"slim_deadline_ms": None if deadline_ms is None else max(0.0, left_s * 1e3)}
            parameters = {name: value for name, value in {**given, **deadline}.items() if value is not None}
            try:
                return await self._ask(
                    model, inputs, parameters, began_s + timeout_s, quiet_s=quiet_s if idempotent else None
                )
            except TransientError as exc:
                pause_s = self._pause_s(exc, attempt)
                is_late = pause_s is None or loop.time() + pause_s >= began_s + timeout_s
                may_run_twice = idempotent and isinstance(exc, ConnectionLostError)
                if (exc.executed and not may_run_twice) or is_late or attempt == self._attempts:
                    raise
                await asyncio.sleep(pause_s or 0.0)
        raise AssertionError("unreachable")

    def _pause_s(self, error: TransientError, attempt: int) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if isinstance(error, CapacityError):
            return error.retry_after_s
        return 0.0 if attempt % len(self._gateways) else _PAUSE_S

    async def _ask(
        self,
        model: str,
        inputs: Mapping[str, Array],
        parameters: Mapping[str, Any],
        until_s: float,
        *,
        quiet_s: float | None,
    ) -> Decided:
        """Return a gateway's answer; ``quiet_s`` as in ``_Gateway.watch``, None: it has until ``until_s``."""
        gateway = self._next()
        address = gateway.channel.address
        head, *rest = self._requests.encode(model, inputs, ())
        request = encode_parameters(parameters) + head
        watching = None
        try:
            async with asyncio.timeout_at(until_s) as waits:
                if quiet_s is not None and len(self._gateways) > 1:
                    watching = asyncio.create_task(gateway.watch(quiet_s, waits), name="watching a gateway")
                message = await gateway.channel.call(_INFER, request, gateway.metadata, rest=rest)
        except TimeoutError:
            if asyncio.get_running_loop().time() < until_s:
                raise ConnectionLostError(f"{address} takes calls and does not say that it lives") from None
            if len(self._gateways) > 1:
                gateway.doubt()
            raise DeadlineError(f"{address} has not answered in time") from None
        except RpcError as exc:
            if exc.status == "RESOURCE_EXHAUSTED":
                raise CapacityError(f"{address}: {exc.detail}", retry_after_s=exc.retry_after_s) from exc
            raise translate_status(exc.status, exc.detail, address) from exc
        finally:
            if watching is not None:
                watching.cancel()
        return _read(message, model)

    def _next(self) -> _Gateway:
        """Return the gateway whose turn it is, of those that live if any does."""
        turn, self._turn = self._turn % len(self._gateways), self._turn + 1
        order = self._gateways[turn:] + self._gateways[:turn]
        return next((each for each in order if not each.is_doubted), order[0])


def _waiting(
    method: Callable[Concatenate[AsyncClient, P], Coroutine[Any, Any, T]],
) -> Callable[Concatenate[Client, P], T]:
    """Return a method as ``Client`` has it, of the same arguments, for one of ``AsyncClient``."""

    @wraps(method)
    def wait(self: Client, /, *args: P.args, **options: P.kwargs) -> T:
        return self._run(method(self._client, *args, **options))

    return wait


class Client:
    """As ``AsyncClient``, for callers without an event loop: it has one in a thread of its own; any thread may call.

    A process that is forked has no such thread: each process makes a client of its own.

    Example:
        with Client("gateway-1:8081") as client:
            answer = client.infer("fashion", {"pixels": pixels}, deadline_ms=50)
    """

    def __init__(
        self,
        *gateways: str,
        token: str | None = None,
        tls: ssl.SSLContext | None = None,
        attempts: int = 4,
        timeout_s: float = 60.0,
    ) -> None:
        self._client = AsyncClient(*gateways, token=token, tls=tls, attempts=attempts, timeout_s=timeout_s)
        self._loop = asyncio.new_event_loop()
        self._is_closed = False
        self._process_id = os.getpid()
        self._entry = threading.Lock()  # so that closing knows of every call
        self._thread = threading.Thread(target=self._loop.run_forever, name="slim client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    infer = _waiting(AsyncClient.infer)

    def close(self) -> None:
        """Let go of the connections and end the thread; calls of other threads that wait end as lost."""
        if os.getpid() != self._process_id:
            return  # all of it is the parent's
        with self._entry:
            if self._is_closed:
                return
            self._is_closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        waiting = asyncio.all_tasks() - {asyncio.current_task()}
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await self._client.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        if os.getpid() != self._process_id:
            call.close()
            raise RuntimeError(f"the client is of process {self._process_id}, which was forked since; make another one")
        with self._entry:
            if self._is_closed:
                call.close()
                raise RuntimeError("the client is closed; make another one")
            answer = asyncio.run_coroutine_threadsafe(call, self._loop)
        try:
            return answer.result()
        except concurrent.futures.CancelledError:
            raise ConnectionLostError("the client was closed before the answer came") from None


def _read(message: bytes, model: str) -> Decided:
    said = pb.ModelInferResponse.FromString(message)
    outputs = decode_outputs(message, model, [tensor.name for tensor in said.outputs])
    told = {name: getattr(each, each.WhichOneof("parameter_choice")) for name, each in said.parameters.items()}
    if "slim_decision_id" not in told:
        return Decided(outputs)
    return Decided(
        outputs,
        server=told["slim_server"],
        width=told["slim_width"],
        batch=told["slim_batch"],
        queue_s=told["slim_queue_us"] / 1e6,
        expected_accuracy=told["slim_expected_accuracy"],
        energy_j=told.get("slim_energy_j"),
        decision_id=told["slim_decision_id"],
        policy=told["slim_policy"],
    )
