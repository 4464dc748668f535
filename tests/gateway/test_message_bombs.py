"""Messages of few bytes that are much to read, over gRPC: refused before anything is built of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import pytest_asyncio

from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.messages import SERVICE
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.fakes import World, open_world

TIMES = 4_000_000
FAMILY, ECHO = (pb.ModelInferRequest(model_name=name).SerializeToString() for name in ("fashion", "echo"))


def inside(key: int, content: bytes) -> bytes:
    """Return a field that holds a message."""
    size, value = b"", len(content)
    while value >= 0x80:
        size, value = size + bytes([value & 0x7F | 0x80]), value >> 7
    return bytes([key]) + size + bytes([value]) + content


BOMBS = {
    "unknown fields": b"\x78\x00" * TIMES,
    "empty inputs": b"\x2a\x00" * TIMES,
    "empty outputs": b"\x32\x00" * TIMES,
    "empty parameters": b"\x22\x00" * TIMES,
    "empty raw contents": b"\x3a\x00" * TIMES,
    "unknown fields of an input": inside(0x2A, b"\x78\x00" * TIMES),
    "sides side by side": inside(0x2A, b"\x18\x01" * TIMES),
    "packed sides": inside(0x2A, inside(0x1A, b"\x01" * TIMES)),
    "parameters of an input": inside(0x2A, b"\x22\x00" * TIMES),
    "unknown fields of a parameter": inside(0x22, inside(0x12, b"\x78\x00" * TIMES)),
    "unknown fields of contents": inside(0x2A, inside(0x2A, b"\x78\x00" * TIMES)),
    "strings of contents": inside(0x2A, inside(0x2A, b"\x42\x00" * TIMES)),
    "packed integers of contents": inside(0x2A, inside(0x2A, inside(0x1A, b"\x01" * TIMES))),
}
ONLY_FOR_FAMILIES = {
    "unknown fields of a parameter", "unknown fields of contents", "strings of contents", "packed integers of contents",
}  # fmt: skip
"""What is forwarded unparsed is as large as it came; its server has to bear it."""


@pytest_asyncio.fixture
async def world() -> AsyncIterator[World]:
    async with open_world(max_message_mib=64) as opened:
        yield opened


@pytest.mark.parametrize("name", BOMBS)
async def test_a_bomb_is_refused_and_harms_nobody(name: str, world: World) -> None:
    channel: Any
    options = [("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(world.grpc, compression=grpc.Compression.Gzip, options=options) as channel:
        calls = RawCalls(channel)
        for model in (FAMILY, ECHO) if name not in ONLY_FOR_FAMILIES else (FAMILY,):
            for message in (model + BOMBS[name], BOMBS[name] + model):
                status, detail = await calls.refused("ModelInfer", message)
                assert status == "INVALID_ARGUMENT"
                assert "more than 16384 fields" in detail or "bytes of integers; send raw_input_contents" in detail
        for method in ("ModelMetadata", "ServerMetadata", "RepositoryIndex", "ModelStatistics"):
            assert "takes at most 65536" in (await calls.refused(method, BOMBS[name]))[1]
        assert (await calls.infer(item_request())).outputs
    seen = {method for triton in world.tritons.values() for method, _, _ in triton.seen}
    assert "ModelInfer" not in seen


LARGE = {
    "name": (pb.ModelInferRequest(model_name="m" * 2**22).SerializeToString(), "the model has 4194304 bytes, at most"),
    "version": (FAMILY + inside(0x12, b"1" * 2**22), "the version has 4194304 bytes, at most 4096"),
    "sequence": (
        FAMILY + inside(0x22, inside(0x0A, b"sequence_id") + inside(0x12, inside(0x1A, b"s" * 2**22))),
        "the ",
    ),
    "id": (FAMILY + inside(0x1A, b"i" * 2**23), "besides its raw data, at most 8388608 are taken; send raw_input_co"),
    "parameter": (FAMILY + inside(0x22, inside(0x0A, b"p" * 2**23)), "besides its raw data, at most 8388608 are"),
    "contents": (FAMILY + inside(0x2A, inside(0x2A, inside(0x32, bytes(2**23)))), "besides its raw data, at most 8388"),
}


@pytest.mark.parametrize("name", LARGE)
async def test_what_a_family_has_no_use_for_is_not_parsed(name: str, world: World) -> None:
    channel: Any
    message, reason = LARGE[name]
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        calls = RawCalls(channel)
        status, detail = await calls.refused("ModelInfer", message)
        assert (status, reason in detail) == ("INVALID_ARGUMENT", True), detail
        assert (await calls.infer(item_request())).outputs


async def test_loading_a_model_with_its_files_is_closed_and_not_too_large(world: World) -> None:
    request = pb.RepositoryModelLoadRequest(model_name="echo")
    request.parameters["file:1/model.onnx"].bytes_param = bytes(2**20)
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc) as channel:
        status, detail = await RawCalls(channel).refused("RepositoryModelLoad", request.SerializeToString())
    assert (status, "loading models through the gateway is closed" in detail) == ("PERMISSION_DENIED", True), detail


async def test_a_bomb_in_a_stream_ends_it_and_no_other(world: World) -> None:
    channel: Any
    async with grpc.aio.insecure_channel(world.grpc, compression=grpc.Compression.Gzip) as channel:
        stream = channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")

        async def sent() -> AsyncIterator[bytes]:
            yield FAMILY + BOMBS["empty inputs"]

        with pytest.raises(grpc.aio.AioRpcError, match="more than 16384 fields"):
            async for _ in stream(sent()):
                pass
        answers = await RawCalls(channel).stream([item_request(), echo_request()])
        assert {answer.error_message for answer in answers} == {""}


@pytest.mark.parametrize("kind", ["raw", "fp32_contents"])
async def test_a_large_request_of_the_usual_kind_is_answered(kind: str, world: World) -> None:
    request = item_request(items=32)
    request.parameters["slim_width"].int64_param = 25
    request.parameters["note"].string_param = "x" * 2**20
    if kind != "raw":
        del request.raw_input_contents[:]
        request.inputs[0].contents.fp32_contents.extend([1.0] * 128)
    channel: Any
    for compression in (None, grpc.Compression.Gzip):
        async with grpc.aio.insecure_channel(world.grpc, compression=compression) as channel:
            assert list((await RawCalls(channel).infer(request)).outputs[0].shape) == [32, 10]


async def test_what_compressed_requests_grow_to_is_counted_over_all_of_them() -> None:
    """Sixty calls of two megabytes in all took three gigabytes."""
    message = item_request().SerializeToString() + inside(0x3A, bytes(12 * 2**20))
    async with open_world(max_message_mib=16, limits={"max_held_mib": 32}) as world:
        channel: Any
        async with grpc.aio.insecure_channel(world.grpc, compression=grpc.Compression.Gzip) as channel:
            call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
            outcomes = await asyncio.gather(*(call(message) for _ in range(12)), return_exceptions=True)
            found = [outcome.code().name for outcome in outcomes]  # type: ignore[union-attr]
            assert set(found) == {"INVALID_ARGUMENT", "RESOURCE_EXHAUSTED"}, "two of them fit"
            assert (await RawCalls(channel).infer(item_request())).outputs
