"""How a request goes to what is measured: over gRPC, over HTTP, or to a router in the sender's own process.

All three begin a request without waiting for it, and read its answer when the run is over, so that while it runs a
sender does as little as possible.
"""

from __future__ import annotations

import asyncio
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import aiohttp
import numpy as np
from numpy.typing import NDArray

from orchestrator.errors import SlimError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.loadgen.receive_times import ReceiveTimes
from orchestrator.triton.infer_wire import InferRequests, decode_outputs
from orchestrator.triton.messages import SERVICE, pb

if TYPE_CHECKING:
    from orchestrator.router import Answer, Router

Parameters = Mapping[str, str | int | float]
Images = NDArray[np.float32]

GRPC, HTTP, ROUTER = "grpc", "http", "router"
DEADLINE: Final = "slim_deadline_ms"
_INFER: Final = f"/{SERVICE}/ModelInfer"
_CONNECTIONS: Final = 8
"""Of a sender to each address, used in turn; a gateway takes a thousand calls at a time on each."""
ALSO: Final = "+"
"""Between addresses that get requests in turn, as from a caller who has several Tritons and nothing before them."""


class Reply(NamedTuple):
    """What an answer says.

    Attributes:
        scores: Of the classes, float32.
        width: In percent; 0 where it is not said.
        server: Empty where it is not said.
        decision: The id of a router's decision; empty likewise.
    """

    scores: NDArray[Any]
    width: int
    server: str
    decision: str


class Asked(NamedTuple):
    """What is asked for: a model or family, its one input, and the output that holds the scores of classes."""

    model: str
    input_name: str
    output_name: str


class Client(ABC):
    """Sends requests of one image each, whose scores it can read from the answers."""

    @abstractmethod
    def begin(self, image: int, left_ms: int | None) -> asyncio.Future[Any]:
        """Send one image of the sample at once; ``left_ms`` is told as its deadline, None as none."""

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

    def __init__(self, address: str, asked: Asked, images: Images, parameters: Parameters) -> None:
        requests = InferRequests()
        self._asked = asked
        outputs = [asked.output_name]
        self._bodies = [
            b"".join(requests.encode(asked.model, {asked.input_name: image[None]}, outputs)) for image in images
        ]
        self._fixed = _serialise_parameters(parameters)
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

    def begin(self, image: int, left_ms: int | None) -> asyncio.Future[Any]:
        """Send one image at once; see ``Client``."""
        self._turn = (self._turn + 1) % len(self._channels)
        channel, times = self._channels[self._turn], self._times[self._turn]
        message = self._fixed + self._bodies[image]
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
            told = self._deadlines[left_ms] = _serialise_parameters({DEADLINE: left_ms})
        return told

    def read(self, answer: _Received) -> Reply:
        """Return what a serialised ModelInferResponse says."""
        message, name = answer.message, self._asked.output_name
        scores = decode_outputs(message, self._asked.model, [name])[name]
        parameters = pb.ModelInferResponse.FromString(message).parameters
        if "slim_width" not in parameters:
            return Reply(scores, 0, "", "")
        server, decision = (parameters[key].string_param for key in ("slim_server", "slim_decision_id"))
        return Reply(scores, parameters["slim_width"].int64_param, server, decision)

    async def close(self) -> None:
        """Close the channels, whatever is under way."""
        await asyncio.gather(*(channel.close(drain_s=0) for channel in self._channels))


class HttpClient(Client):
    """KServe v2 over HTTP/1.1 with binary tensors."""

    def __init__(self, address: str, asked: Asked, images: Images, parameters: Parameters) -> None:
        self._urls = [f"http://{place}/v2/models/{asked.model}/infer" for place in address.split(ALSO)]
        self._turn = 0
        self._asked = asked
        self._images = images
        self._parameters = dict(parameters)
        self._heads: dict[int | None, bytes] = {}
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0))

    def begin(self, image: int, left_ms: int | None) -> asyncio.Future[tuple[bytes, int]]:
        """Send one image at once; see ``Client``."""
        head = self._heads.get(left_ms)
        if head is None:
            head = self._heads[left_ms] = self._head(left_ms)
        self._turn += 1
        url = self._urls[self._turn % len(self._urls)]
        return asyncio.ensure_future(self._post(url, head, self._images[image].tobytes()))

    def _head(self, left_ms: int | None) -> bytes:
        parameters = self._parameters if left_ms is None else {**self._parameters, DEADLINE: left_ms}
        shape = [1, *self._images.shape[1:]]
        size = {"binary_data_size": self._images[0].nbytes}
        tensor = {"name": self._asked.input_name, "shape": shape, "datatype": "FP32", "parameters": size}
        output = {"name": self._asked.output_name, "parameters": {"binary_data": True}}
        return json.dumps({"inputs": [tensor], "outputs": [output], "parameters": parameters}).encode()

    async def _post(self, url: str, head: bytes, tensor: bytes) -> tuple[bytes, int]:
        headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
        try:
            async with self._session.post(url, data=head + tensor, headers=headers) as answer:
                body = await answer.read()
                if answer.status != 200:
                    raise RpcError(f"HTTP_{answer.status}", body.decode(errors="replace")[:300])
                return body, int(answer.headers.get("Inference-Header-Content-Length", len(body)))
        except aiohttp.ClientError as exc:
            raise RpcError("UNAVAILABLE", f"{type(exc).__name__}: {exc}") from exc

    def read(self, answer: tuple[bytes, int]) -> Reply:
        """Return what the body of an answer says, whose first bytes are JSON."""
        body, json_bytes = answer
        said = json.loads(body[:json_bytes])
        scores = np.frombuffer(body, np.float32, offset=json_bytes)
        parameters = said.get("parameters", {})
        server, decision = (str(parameters.get(name, "")) for name in ("slim_server", "slim_decision_id"))
        return Reply(scores, int(parameters.get("slim_width", 0)), server, decision)

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


class RouterClient(Client):
    """A router in this process, over the Tritons of a fleet file."""

    def __init__(self, router: Router, stack: AsyncExitStack, family: str, images: Images) -> None:
        self._router, self._stack, self._family, self._images = router, stack, family, images

    @classmethod
    async def open(cls, fleet: Path, family: str, images: Images) -> RouterClient:
        """Return a client of a router that has seen its fleet; raises SlimError."""
        # Here, because a sender that has no router of its own begins in half the time without.
        from orchestrator.config import load_fleet
        from orchestrator.router import Router

        stack = AsyncExitStack()
        router = await stack.enter_async_context(Router.from_fleet(load_fleet(fleet)))
        return cls(router, stack, family, images)

    def begin(self, image: int, left_ms: int | None) -> asyncio.Future[Answer]:
        """Send one image at once; see ``Client``."""
        return asyncio.ensure_future(self._router.infer(self._images[image], deadline_ms=left_ms, family=self._family))

    def read(self, answer: Answer) -> Reply:
        """Return what a router's answer says."""
        return Reply(answer.output, int(answer.width), str(answer.server), answer.decision_id)

    async def close(self) -> None:
        """Close the router, after it has answered."""
        await self._stack.aclose()


async def open_client(
    kind: str, address: str, asked: Asked, images: Sequence[Any] | Images, parameters: Parameters
) -> Client:
    """Return a client that is connected; the address is as a target's.

    Raises:
        SlimError: Nobody answers there.
    """
    sample = np.asarray(images, np.float32)
    if kind == ROUTER:
        return await RouterClient.open(Path(address), asked.model, sample)
    if kind == HTTP:
        return HttpClient(address, asked, sample, parameters)
    client = GrpcClient(address, asked, sample, parameters)
    await client.connect()
    return client


def status_of_failure(error: BaseException) -> tuple[str, str]:
    """Return the name of a status, and the text, of what came in place of an answer."""
    if isinstance(error, RpcError):
        return error.status, str(error)
    if isinstance(error, SlimError):
        return type(error).__name__.removesuffix("Error").upper(), str(error)
    return "UNKNOWN", f"{type(error).__name__}: {error}"


def _serialise_parameters(parameters: Parameters) -> bytes:
    request = pb.ModelInferRequest()
    for name, value in parameters.items():
        if isinstance(value, int):
            request.parameters[name].int64_param = value
        elif isinstance(value, float):
            request.parameters[name].double_param = value
        else:
            request.parameters[name].string_param = value
    serialised: bytes = request.SerializeToString()
    return serialised


def _note_answer(times: ReceiveTimes, message: bytes) -> _Received:
    return _Received(bytes(message), times.last_s)


def _note_refusal(times: ReceiveTimes, error: RpcError) -> RpcError:
    """Return the error with its time; of a connection that was lost nothing came."""
    return error if error.status == "UNAVAILABLE" else _RefusedError(error, times.last_s)
