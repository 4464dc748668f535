"""Well-behaved clients of every kind, and those whose requests are bad.

The clients are `tritonclient`'s, over gRPC and HTTP, with connections that last, as applications have them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import grpc
import numpy as np
import tritonclient.grpc as grpc_values
import tritonclient.http as http_values
from tritonclient.grpc.aio import InferenceServerClient as GrpcClient
from tritonclient.http.aio import InferenceServerClient as HttpClient
from tritonclient.utils import InferenceServerException

FAMILY, PASSTHROUGH, PLAIN = "fashion", "fashion_w050", "plain"
INPUT, OUTPUT, ITEM_SHAPE = "pixels", "logits", (1, 28, 28)
STREAM_LENGTH = 8
SHED = "StatusCode.RESOURCE_EXHAUSTED"
OK = "ok"


@dataclass(slots=True)
class World:
    """What clients need.

    Attributes:
        grpc: The gateway's gRPC, ``host:port``.
        http: The gateway's HTTP, ``host:port``.
        rng: Random numbers for what a request brings.
        grpc_client: A connection that lasts.
        http_client: Some connections that last.
        session: A session for HTTP that tritonclient would not send.
        channel: A channel for gRPC that tritonclient would not send.
    """

    grpc: str
    http: str
    rng: np.random.Generator
    grpc_client: Any
    http_client: Any
    session: aiohttp.ClientSession
    channel: Any

    def batch(self, items: int | None = None) -> Any:
        """Return one to four items, or so many."""
        count = int(self.rng.integers(1, 5)) if items is None else items
        return self.rng.random((count, *ITEM_SHAPE), np.float32)

    def options(self) -> dict[str, Any] | None:
        """Return parameters of a request for a family, or none."""
        choices: tuple[dict[str, Any] | None, ...] = (
            None,
            {"slim_deadline_ms": 2000},
            {"slim_width": int(self.rng.choice((25, 50, 75, 100)))},
            {"slim_min_accuracy": "0.93"},
        )
        return choices[int(self.rng.integers(len(choices)))]


@asynccontextmanager
async def open_world(grpc_address: str, http_address: str, seed: int) -> AsyncIterator[World]:
    """Connect, and disconnect at the end of the block."""
    options = [("grpc.enable_retries", 0)]
    async with (
        GrpcClient(grpc_address, channel_args=options) as grpc_client,
        HttpClient(http_address, conn_limit=8) as http_client,
        aiohttp.ClientSession(f"http://{http_address}") as session,
        grpc.aio.insecure_channel(grpc_address, options=options) as channel,
    ):
        yield World(grpc_address, http_address, np.random.default_rng(seed), grpc_client, http_client, session, channel)


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client.

    Attributes:
        rate_rps: How often it comes, a second.
        ask: What comes once and returns what became of it, in a word, with details after a colon.
        allowed: Words that are all right.
    """

    rate_rps: float
    ask: Callable[[World], Awaitable[str]]
    allowed: frozenset[str]


def grpc_inputs(batch: Any) -> list[Any]:
    """Return a request's tensor for tritonclient.grpc."""
    tensor = grpc_values.InferInput(INPUT, list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch)
    return [tensor]


def _http_inputs(batch: Any, *, binary: bool) -> list[Any]:
    tensor = http_values.InferInput(INPUT, list(batch.shape), "FP32")
    tensor.set_data_from_numpy(batch, binary_data=binary)
    return [tensor]


def _judge(answer: Any, batch: Any) -> str:
    scores = answer.as_numpy(OUTPUT)
    if scores is None or scores.shape != (len(batch), 10) or not np.isfinite(scores).all():
        return f"wrong: {None if scores is None else scores.shape}"
    return OK


async def _status_of(call: Awaitable[Any]) -> str:
    try:
        await call
    except InferenceServerException as exc:
        return f"{exc.status()}: {exc.message()}"
    return OK


async def ask_grpc(world: World) -> str:
    """A family over gRPC."""
    batch = world.batch()
    try:
        answer = await world.grpc_client.infer(FAMILY, grpc_inputs(batch), parameters=world.options())
    except InferenceServerException as exc:
        return f"{exc.status()}: {exc.message()}"
    return _judge(answer, batch)


async def ask_grpc_passthrough(world: World) -> str:
    """One width by its name, or a model that is no family's."""
    batch, model = world.batch(), str(world.rng.choice((PASSTHROUGH, PLAIN)))
    return _judge(await world.grpc_client.infer(model, grpc_inputs(batch)), batch)


async def ask_grpc_zipped(world: World) -> str:
    """A compressed request."""
    batch = world.batch()
    answer = await world.grpc_client.infer(FAMILY, grpc_inputs(batch), compression_algorithm="gzip")
    return _judge(answer, batch)


async def _stream(world: World, model: str, *, leave_after: int | None) -> str:
    batches = [world.batch(1) for _ in range(STREAM_LENGTH)]

    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number, batch in enumerate(batches):
            yield {"model_name": model, "inputs": grpc_inputs(batch), "request_id": str(number)}
            await asyncio.sleep(0.005)

    answers = world.grpc_client.stream_infer(requests())
    seen: list[str] = []
    async for answer, error in answers:
        if error is not None:
            return f"error: {error}"
        seen.append(answer.get_response().id)
        if leave_after is not None and len(seen) >= leave_after:
            answers.cancel()
            return "left"
    return OK if sorted(seen) == [str(n) for n in range(STREAM_LENGTH)] else f"wrong: ids {seen}"


async def ask_stream(world: World) -> str:
    """A family over a stream."""
    return await _stream(world, FAMILY, leave_after=None)


async def ask_stream_passthrough(world: World) -> str:
    """Another model over a stream."""
    return await _stream(world, PLAIN, leave_after=None)


async def leave_stream(world: World) -> str:
    """A stream that is cancelled half way."""
    return await _stream(world, str(world.rng.choice((FAMILY, PLAIN))), leave_after=STREAM_LENGTH // 2)


async def _ask_http(world: World, model: str, *, binary: bool, **more: Any) -> str:
    batch = world.batch()
    outputs = [http_values.InferRequestedOutput(OUTPUT, binary_data=binary)]
    answer = await world.http_client.infer(model, _http_inputs(batch, binary=binary), outputs=outputs, **more)
    return _judge(answer, batch)


async def ask_http_binary(world: World) -> str:
    """A family over HTTP, tensors as bytes."""
    return await _ask_http(world, FAMILY, binary=True)


async def ask_http_json(world: World) -> str:
    """A family over HTTP, tensors as JSON."""
    return await _ask_http(world, FAMILY, binary=False)


async def ask_http_zipped(world: World) -> str:
    """Compressed both ways."""
    how = str(world.rng.choice(("gzip", "deflate")))
    more = {"request_compression_algorithm": how, "response_compression_algorithm": how}
    return await _ask_http(world, FAMILY, binary=True, **more)


async def ask_http_passthrough(world: World) -> str:
    """Another model over HTTP."""
    model = str(world.rng.choice((PASSTHROUGH, PLAIN)))
    return await _ask_http(world, model, binary=bool(world.rng.integers(2)))


async def ask_about(world: World) -> str:
    """Health, metadata, config, index and statistics."""
    client = world.grpc_client if world.rng.integers(2) else world.http_client
    questions: tuple[Callable[[], Awaitable[Any]], ...] = (
        client.is_server_ready,
        client.is_server_live,
        client.get_server_metadata,
        client.get_model_repository_index,
        lambda: client.is_model_ready(FAMILY),
        lambda: client.get_model_metadata(FAMILY),
        lambda: client.get_model_config(PLAIN),
        lambda: client.get_inference_statistics(FAMILY),
    )
    await questions[int(world.rng.integers(len(questions)))]()
    return OK


async def ask_badly_grpc(world: World) -> str:
    """Wrong shape, wrong name, unknown parameter, or no protobuf at all."""
    batch = world.batch(1)
    match int(world.rng.integers(5)):
        case 0:
            inputs = grpc_inputs(np.zeros((1, 1, 27, 28), np.float32))
            return await _status_of(world.grpc_client.infer(FAMILY, inputs))
        case 1:
            return await _status_of(world.grpc_client.infer("nobody", grpc_inputs(batch)))
        case 2:
            wrong = {"slim_dedline_ms": 5}
            return await _status_of(world.grpc_client.infer(FAMILY, grpc_inputs(batch), parameters=wrong))
        case 3:
            return await _status_of(world.grpc_client.infer(PLAIN, grpc_inputs(np.zeros((1, 3), np.float32))))
        case _:
            call = world.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            try:
                await call(world.rng.bytes(200))
            except grpc.aio.AioRpcError as exc:
                return f"{exc.code()}: {exc.details()}"
            return OK


async def ask_badly_http(world: World) -> str:
    """No JSON, a lie about the header's length, an unknown route, too much of a header."""
    path, headers = f"/v2/models/{FAMILY}/infer", {}
    body = b'{"inputs": ['
    match int(world.rng.integers(4)):
        case 0:
            body = world.rng.bytes(300)
        case 1:
            headers = {"Inference-Header-Content-Length": "100000"}
        case 2:
            path = "/v2/nothing"
        case _:
            headers = {"X-Long": "x" * 7000, "X-Longer": "y" * 8000, "X-Longest": "z" * 8000}
    async with world.session.post(path, data=body, headers=headers) as answer:
        await answer.read()
        return str(answer.status)


_OK = frozenset({OK})
_OK_OR_SHED = frozenset({OK, SHED})
_BAD_GRPC = frozenset(f"StatusCode.{name}" for name in ("INVALID_ARGUMENT", "NOT_FOUND", "INTERNAL"))
MIXED: Mapping[str, Kind] = {
    "gRPC, family": Kind(25, ask_grpc, _OK_OR_SHED),
    "gRPC, passed on": Kind(8, ask_grpc_passthrough, _OK),
    "gRPC, compressed": Kind(2, ask_grpc_zipped, _OK),
    "stream, family": Kind(1, ask_stream, _OK),
    "stream, passed on": Kind(0.3, ask_stream_passthrough, _OK),
    "stream, left half way": Kind(0.5, leave_stream, frozenset({"left"})),
    "HTTP, binary": Kind(12, ask_http_binary, _OK),
    "HTTP, JSON": Kind(5, ask_http_json, _OK),
    "HTTP, compressed": Kind(2, ask_http_zipped, _OK),
    "HTTP, passed on": Kind(5, ask_http_passthrough, _OK),
    "questions": Kind(3, ask_about, _OK),
    "bad gRPC": Kind(5, ask_badly_grpc, _BAD_GRPC),
    "bad HTTP": Kind(5, ask_badly_http, frozenset({"400", "404", "431"})),
}
