"""What a Triton sends, as functions of bytes: frames of HTTP/2, answers, and what it says of its models."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from orchestrator.errors import SlimError
from orchestrator.gateway.protocol.family import merge_widths
from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.client_call import ClientCall, ClientStream, UnaryExchange
from orchestrator.http2.grpc.wire import ResponseHead, RpcError, read_response_head, request_headers
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.snapshot import Family, ServedModel
from orchestrator.triton.client import read_index
from orchestrator.triton.families import read_width
from orchestrator.triton.infer_wire import InferAnswers, decode_outputs
from orchestrator.triton.messages import parse_answer
from tests.fakes.servers import served_model

_BLOCK = request_headers("/s/m", "here:1", ())
_MODEL = served_model(25)


def server_frames(data: bytes) -> None:
    """Frames of a server to a unary call and a stream of messages; the first byte says where they are torn."""
    asyncio.run(_call(data[1 : 1 + data[0]], data[1 + data[0] :]) if data else _call())


async def _call(*pieces: bytes) -> None:
    decoder = HeaderDecoder(read_response_head, max_list_bytes=Limits().header_list_bytes)
    connection: Connection[ResponseHead] = Connection(decoder, None, Limits(), clock=time.monotonic, wake=lambda: None)
    connection.start()

    async def connect() -> Connection[ResponseHead]:
        return connection

    under_way: set[ClientCall] = set()
    unary = UnaryExchange(under_way, bytes, lambda error: error)
    unary.stream = connection.open(unary, _BLOCK, b"question")
    stream = ClientStream(under_way, connect, lambda: _BLOCK, lambda error: error)
    await stream.send(b"message")
    reading = asyncio.create_task(_read(stream))
    for piece in pieces:
        while connection.receive(piece):
            piece = b""
        await asyncio.sleep(0)
    connection.check()
    connection.take_out()
    connection.abort(ErrorCode.CANCEL)
    with suppress(RpcError):
        await unary.answer
    await reading
    assert not under_way


async def _read(stream: ClientStream) -> None:
    with suppress(RpcError):
        async for _ in stream.answers():
            pass


def server_answers(data: bytes) -> None:
    """A ModelInferResponse, read by its outputs, and twice as the one output of a width."""
    with suppress(SlimError):
        decode_outputs(data, "fashion", ["logits"])
    answers = InferAnswers()
    for _ in range(2):
        with suppress(SlimError):
            (found,) = answers.decode(_MODEL, data)
            assert found.shape[1:] == _MODEL.outputs[0].shape


def served_models(data: bytes) -> None:
    """The index of a repository, and the configs of two models; the first two bytes say where each begins."""
    first, second = (data[0], data[0] + data[1]) if len(data) > 1 else (0, 0)
    with suppress(SlimError):
        read_index(parse_answer(pb.RepositoryIndexResponse, data[2 : 2 + first]))
    found: dict[Family, list[ServedModel]] = {}
    for config in (data[2 + first : 2 + second], data[2 + second :]):
        with suppress(SlimError):
            model = read_width(parse_answer(pb.ModelConfigResponse, config).config, {})
            if isinstance(model, ServedModel):
                found.setdefault(model.family, []).append(model)
    for models in found.values():
        merge_widths(models)
