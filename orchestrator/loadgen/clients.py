"""How a request goes to what is measured: over gRPC, over HTTP, or to a router in the sender's own process.

All three begin a request without waiting for it, and read its answer when the run is over, so that while it runs a
sender does as little as possible.
"""

from __future__ import annotations

import asyncio
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
from numpy.typing import NDArray

from orchestrator.errors import ConfigError, SlimError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.images import as_text
from orchestrator.loadgen.judge import Outputs
from orchestrator.loadgen.receive_times import ReceiveTimes
from orchestrator.policies.preference import parse_preference
from orchestrator.triton.infer_wire import (
    InferRequests,
    decode_outputs,
    decode_tensor,
    encode_parameters,
    encode_tensor,
)
from orchestrator.triton.messages import SERVICE, pb

if TYPE_CHECKING:
    from orchestrator.router import Answer, Router

Parameters = Mapping[str, str | int | float]
Items = Sequence[NDArray[Any]]
"""The items of each input, [n, ...], in the order of the inputs; text of numpy's kinds U or S."""

GRPC, HTTP, ROUTER = "grpc", "http", "router"
DEADLINE: Final = "slim_deadline_ms"
_SAID: Final = ("slim_server", "slim_decision_id", "slim_policy")
_INFER: Final = f"/{SERVICE}/ModelInfer"
_CONNECTIONS: Final = 8
"""Of a sender to each address, used in turn; a gateway takes a thousand calls at a time on each."""
_OPTIONS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "slim_deadline_ms": ("deadline_ms", float),
    "slim_min_accuracy": ("min_accuracy", float),
    "slim_width": ("width", int),
    "slim_max_joules": ("max_joules", float),
    "slim_preference": ("preference", parse_preference),
    "priority": ("priority", int),
}
"""What a router takes in place of a gateway's parameters, and how it is read."""
POLICY: Final = "policy"
"""Of a router, instead of the fleet file's ``router.policy``; no gateway takes one from a client."""
ALSO: Final = "+"
"""Between addresses that get requests in turn, as from a caller who has several Tritons and nothing before them."""


class Reply(NamedTuple):
    """What an answer says.

    Attributes:
        outputs: Of one item, by name, without a batch dimension.
        width: In percent; 0 where it is not said.
        server: Empty where it is not said.
        decision: The id of a router's decision; empty likewise.
        energy_j: What a router expects it to have cost, above idle; NaN where it is not said.
        policy: Who decided; empty likewise.
    """

    outputs: Outputs
    width: int
    server: str
    decision: str
    energy_j: float = math.nan
    policy: str = ""


class Asked(NamedTuple):
    """What is asked for.

    Attributes:
        model: The model or family.
        inputs: Name and Triton's type of each.
        outputs: The names of those that answers are to have.
        is_batching: Whether its tensors have a batch dimension.
    """

    model: str
    inputs: Sequence[tuple[str, str]]
    outputs: Sequence[str]
    is_batching: bool

    def tensors(self, items: Items, item: int) -> dict[str, NDArray[Any]]:
        """Return one item by the names of inputs, as the model takes it."""
        chosen = slice(item, item + 1) if self.is_batching else item
        return {name: array[chosen] for (name, _), array in zip(self.inputs, items, strict=True)}

    def without_batch(self, outputs: Outputs) -> Outputs:
        """Return the outputs of one item without the batch dimension."""
        return {name: array[0] for name, array in outputs.items()} if self.is_batching else outputs


class Client(ABC):
    """Sends requests of one item each, whose outputs it can read from the answers."""

    @abstractmethod
    def begin(self, item: int, left_ms: int | None) -> asyncio.Future[Any]:
        """Send one item of the sample at once; ``left_ms`` is told as its deadline, None as none."""

    def received_s(self, ended: Any) -> float | None:
        """Return when an answer, or the error in its place, came to this machine, on the monotonic clock.

        None where nothing but when it was read is known.
        """
        return None

    @abstractmethod
    def read(self, answer: Any) -> Reply:
        """Return what an answer says."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of connections."""


class _Received(NamedTuple):
    message: bytes
    received_s: float


class _RefusedError(RpcError):
    """A status in place of an answer, with when it came."""

    def __init__(self, error: RpcError, received_s: float) -> None:
        super().__init__(error.status, error.detail, retry_after_s=error.retry_after_s)
        self.received_s = received_s


class GrpcClient(Client):
    """KServe v2 over gRPC, on our own channel: its calls cost a tenth of those of grpcio."""

    def __init__(self, address: str, asked: Asked, items: Items, parameters: Parameters) -> None:
        requests = InferRequests()
        self._asked = asked
        datatypes = [datatype for _, datatype in asked.inputs]
        self._bodies = [
            b"".join(requests.encode(asked.model, asked.tensors(items, item), asked.outputs, datatypes))
            for item in range(len(items[0]))
        ]
        self._fixed = encode_parameters(parameters)
        self._deadlines: dict[int, bytes] = {}
        places = [place for _ in range(_CONNECTIONS) for place in address.split(ALSO)]
        self._times = [ReceiveTimes() for _ in places]
        self._channels = [
            GrpcChannel(place, dial=times.connect) for place, times in zip(places, self._times, strict=True)
        ]
        self._turn = 0

    async def connect(self) -> None:
        """Connect all channels; raises RpcError when nobody is there."""
        for channel in self._channels:
            await channel.call(f"/{SERVICE}/ServerLive", b"")

    def begin(self, item: int, left_ms: int | None) -> asyncio.Future[Any]:
        """Send one item at once; see ``Client``."""
        self._turn = (self._turn + 1) % len(self._channels)
        channel, times = self._channels[self._turn], self._times[self._turn]
        message = self._fixed + self._bodies[item]
        if left_ms is not None:
            message = self._deadline(left_ms) + message
        read, explain = partial(_note_answer, times), partial(_note_refusal, times)
        answer = channel.begin(_INFER, message, (), read=read, explain=explain)
        return asyncio.ensure_future(self._call(channel, message)) if answer is None else answer

    async def _call(self, channel: GrpcChannel, message: bytes) -> _Received:
        return _Received(await channel.call(_INFER, message), math.inf)

    def received_s(self, ended: Any) -> float | None:
        """Return when an answer or refusal came; see ``Client``."""
        return ended.received_s if isinstance(ended, _Received | _RefusedError) else None

    def _deadline(self, left_ms: int) -> bytes:
        told = self._deadlines.get(left_ms)
        if told is None:
            told = self._deadlines[left_ms] = encode_parameters({DEADLINE: left_ms})
        return told

    def read(self, answer: _Received) -> Reply:
        """Return what a serialised ModelInferResponse says."""
        message, asked = answer.message, self._asked
        outputs = asked.without_batch(decode_outputs(message, asked.model, asked.outputs))
        parameters = pb.ModelInferResponse.FromString(message).parameters
        if "slim_width" not in parameters:
            return Reply(outputs, 0, "", "")
        server, decision, policy = (parameters[key].string_param for key in _SAID)
        energy_j = parameters["slim_energy_j"].double_param if "slim_energy_j" in parameters else math.nan
        return Reply(outputs, parameters["slim_width"].int64_param, server, decision, energy_j, policy)

    async def close(self) -> None:
        """Close the channels, whatever is under way."""
        await asyncio.gather(*(channel.close(drain_s=0) for channel in self._channels))


class HttpClient(Client):
    """KServe v2 over HTTP/1.1 with binary tensors."""

    def __init__(self, address: str, asked: Asked, items: Items, parameters: Parameters) -> None:
        self._urls = [f"http://{place}/v2/models/{asked.model}/infer" for place in address.split(ALSO)]
        self._turn = 0
        self._asked = asked
        self._items = items
        self._parameters = dict(parameters)
        self._heads: dict[tuple[int | None, int], bytes] = {}
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def begin(self, item: int, left_ms: int | None) -> asyncio.Future[tuple[bytes, int]]:
        """Send one item at once; see ``Client``."""
        tensors = self._asked.tensors(self._items, item)
        datatypes = [datatype for _, datatype in self._asked.inputs]
        data = [bytes(encode_tensor(a, datatype)) for a, datatype in zip(tensors.values(), datatypes, strict=True)]
        # Items are alike but for the lengths of text.
        alike = left_ms, item if "BYTES" in datatypes else 0
        head = self._heads.get(alike)
        if head is None:
            head = self._heads[alike] = self._head(left_ms, tensors, data)
        self._turn += 1
        url = self._urls[self._turn % len(self._urls)]
        return asyncio.ensure_future(self._post(url, head, b"".join(data)))

    def _head(self, left_ms: int | None, tensors: Outputs, data: Sequence[bytes]) -> bytes:
        parameters = self._parameters if left_ms is None else {**self._parameters, DEADLINE: left_ms}
        inputs = [
            {
                "name": name,
                "shape": tensors[name].shape,
                "datatype": datatype,
                "parameters": {"binary_data_size": len(raw)},
            }
            for (name, datatype), raw in zip(self._asked.inputs, data, strict=True)
        ]
        outputs = [{"name": name, "parameters": {"binary_data": True}} for name in self._asked.outputs]
        return json.dumps({"inputs": inputs, "outputs": outputs, "parameters": parameters}).encode()

    async def _post(self, url: str, head: bytes, data: bytes) -> tuple[bytes, int]:
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        try:
            async with self._session.post(url, data=head + data, headers=headers) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise RpcError(f"HTTP_{answer.status}", body.decode(errors="replace")[:300])
                return body, int(answer.headers.get("Inference-Header-Content-Length", len(body)))
        except aiohttp.ClientError as exc:
            raise RpcError("UNAVAILABLE", f"{type(exc).__name__}: {exc}") from exc

    def read(self, answer: tuple[bytes, int]) -> Reply:
        """Return what the body of an answer says, whose first bytes are JSON."""
        body, json_bytes = answer
        said, at, outputs = json.loads(body[:json_bytes]), json_bytes, {}
        for tensor in said["outputs"]:
            ends = at + tensor["parameters"]["binary_data_size"]
            outputs[tensor["name"]] = decode_tensor(body[at:ends], tensor["datatype"], tuple(tensor["shape"]))
            at = ends
        parameters = said.get("parameters", {})
        server, decision, policy = (str(parameters.get(name, "")) for name in _SAID)
        width, energy_j = int(parameters.get("slim_width", 0)), float(parameters.get("slim_energy_j", math.nan))
        return Reply(self._asked.without_batch(outputs), width, server, decision, energy_j, policy)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


class RouterClient(Client):
    """A router in this process, over the Tritons of a fleet file."""

    def __init__(
        self, router: Router, stack: AsyncExitStack, asked: Asked, items: Items, options: Mapping[str, Any]
    ) -> None:
        self._router, self._stack, self._asked, self._options = router, stack, asked, options
        datatypes = [datatype for _, datatype in asked.inputs]
        self._items = [as_text(a) if kind == "BYTES" else a for a, kind in zip(items, datatypes, strict=True)]

    @classmethod
    async def open(cls, fleet: Path, asked: Asked, items: Items, parameters: Parameters) -> RouterClient:
        """Return a client of a router that has seen its fleet; raises SlimError."""
        options = router_options({name: value for name, value in parameters.items() if name != POLICY})
        # Here, because a sender that has no router of its own begins in half the time without.
        from orchestrator.config import load_fleet
        from orchestrator.router import Router

        stack, settings = AsyncExitStack(), load_fleet(fleet)
        # The file's policy is measured, and what is measured here decides on no rollout of the fleet's gateway.
        changed: dict[str, object] = {"rollout": None}
        if POLICY in parameters:
            changed[POLICY] = str(parameters[POLICY])
        settings = settings.model_copy(update={"router": settings.router.model_copy(update=changed)})
        router = await stack.enter_async_context(Router.from_fleet(settings))
        return cls(router, stack, asked, items, options)

    def begin(self, item: int, left_ms: int | None) -> asyncio.Future[Answer]:
        """Send one item at once; see ``Client``."""
        tensors = {name: array[item] for (name, _), array in zip(self._asked.inputs, self._items, strict=True)}
        options = {"deadline_ms": left_ms, **self._options}
        return asyncio.ensure_future(self._router.infer(tensors, family=self._asked.model, **options))

    def read(self, answer: Answer) -> Reply:
        """Return what a router's answer says."""
        energy_j = math.nan if answer.energy_j is None else answer.energy_j
        said = int(answer.width), str(answer.server), answer.decision_id
        return Reply(answer.outputs, *said, energy_j, answer.policy)

    async def close(self) -> None:
        """Close the router, after it has answered."""
        await self._stack.aclose()


def router_options(parameters: Parameters) -> dict[str, Any]:
    """Return what parameters that a gateway would read are as arguments of a router; raises ConfigError."""
    unknown = sorted(parameters.keys() - _OPTIONS.keys())
    if unknown:
        raise ConfigError(f"a router takes no parameter {unknown[0]!r}; it takes {', '.join(_OPTIONS)}")
    try:
        return {_OPTIONS[name][0]: _OPTIONS[name][1](value) for name, value in parameters.items()}
    except ValueError as exc:
        raise ConfigError(f"a parameter of the router can't be used: {exc}") from exc


async def open_client(kind: str, address: str, asked: Asked, items: Items, parameters: Parameters) -> Client:
    """Return a client that is connected; the address is as a target's.

    Raises:
        SlimError: Nobody answers there.
    """
    if kind == ROUTER:
        return await RouterClient.open(Path(address), asked, items, parameters)
    if kind == HTTP:
        return HttpClient(address, asked, items, parameters)
    client = GrpcClient(address, asked, items, parameters)
    await client.connect()
    return client


def status_of_failure(error: BaseException) -> tuple[str, str]:
    """Return the name of a status, and the text, of what came in place of an answer."""
    if isinstance(error, RpcError):
        return error.status, str(error)
    if isinstance(error, SlimError):
        return type(error).__name__.removesuffix("Error").upper(), str(error)
    return "UNKNOWN", f"{type(error).__name__}: {error}"


def _note_answer(times: ReceiveTimes, message: bytes) -> _Received:
    return _Received(bytes(message), times.last_s)


def _note_refusal(times: ReceiveTimes, error: RpcError) -> RpcError:
    """Return the error with its time; of a connection that was lost nothing came."""
    return error if error.status == "UNAVAILABLE" else _RefusedError(error, times.last_s)
