"""A small client of one or several gateways: typed options in, outputs and what was decided out.

Any KServe client can ask a gateway, and nothing here can't be done by hand with tritonclient: set the ``slim_``
parameters, read them from the answer, wait for as long as a refusal says (``grpc-retry-pushback-ms``), and ask another
gateway when one can't be reached. This does it in one place, over the project's own gRPC channel.

What may have run is not asked again: a request is repeated when it was refused because of load, and when no gateway
has begun with it. Its deadline runs on meanwhile, and is told to the next one as what is left of it.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, Self, TypeVar

from numpy.typing import NDArray

from orchestrator.errors import CapacityError, DeadlineError, TransientError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.triton.errors import translate_status
from orchestrator.triton.infer_wire import InferRequests, decode_outputs, encode_parameters
from orchestrator.triton.messages import SERVICE, pb

T = TypeVar("T")
P = ParamSpec("P")
Array = NDArray[Any]

_INFER: Final = f"/{SERVICE}/ModelInfer"
_PAUSE_S: Final = 0.1
"""Before gateways are asked again of which none could be reached."""


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


class AsyncClient:
    """Asks gateways, each at ``host:port`` of its gRPC; an async context manager, to be used from one event loop.

    Args:
        token: The caller's token, where the gateways ask for one.
        tls: How to talk TLS, for these gateways alone, because it is told to speak HTTP/2; None: plain.
        attempts: How often a request may be sent, over all gateways.
        timeout_s: The longest that a request may take, its repetitions included. A gateway that takes a call and then
            says nothing has all of it, for it may have begun.

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
        if attempts < 1:
            raise ValueError(f"attempts is {attempts}, so that nothing would be sent; give 1 or more")
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._channels = [GrpcChannel(address, tls=tls) for address in gateways]
        self._metadata = () if token is None else (("authorization", f"Bearer {token}"),)
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
        await asyncio.gather(*(channel.close(drain_s=0.0) for channel in self._channels))

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
    ) -> Decided:
        """Return the answer to a batch of items; the options are those of docs/gateway.md.

        Raises:
            CapacityError: The gateways refused it because of load, for as long as there was time.
            DeadlineError: There was no answer in time.
            SlimError: It can't be answered; whether it may have run is among it.
        """
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        timeout_s = self._timeout_s if deadline_ms is None else min(self._timeout_s, deadline_ms / 1e3)
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
                return await self._ask(model, inputs, parameters, began_s + timeout_s)
            except TransientError as exc:
                pause_s = self._pause_s(exc, attempt)
                is_late = pause_s is None or loop.time() + pause_s >= began_s + timeout_s
                if exc.executed or is_late or attempt == self._attempts:
                    raise
                await asyncio.sleep(pause_s or 0.0)
        raise AssertionError("unreachable")

    def _pause_s(self, error: TransientError, attempt: int) -> float | None:
        """Return how long to wait before the next attempt; None: there is none."""
        if isinstance(error, CapacityError):
            return error.retry_after_s
        return 0.0 if attempt % len(self._channels) else _PAUSE_S

    async def _ask(
        self, model: str, inputs: Mapping[str, Array], parameters: Mapping[str, Any], until_s: float
    ) -> Decided:
        channel = self._channels[self._turn % len(self._channels)]
        self._turn += 1
        head, *rest = self._requests.encode(model, inputs, ())
        try:
            async with asyncio.timeout_at(until_s):
                message = await channel.call(_INFER, encode_parameters(parameters) + head, self._metadata, rest=rest)
        except TimeoutError:
            raise DeadlineError(f"{channel.address} has not answered in time") from None
        except RpcError as exc:
            if exc.status == "RESOURCE_EXHAUSTED":
                raise CapacityError(f"{channel.address}: {exc.detail}", retry_after_s=exc.retry_after_s) from exc
            raise translate_status(exc.status, exc.detail, channel.address) from exc
        return _read(message, model)


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
        self._thread = threading.Thread(target=self._loop.run_forever, name="slim client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    infer = _waiting(AsyncClient.infer)

    def close(self) -> None:
        """Let go of the connections and end the thread."""
        if not self._loop.is_closed():
            self._run(self._client.close())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _run(self, call: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()


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
