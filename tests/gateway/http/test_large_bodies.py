"""Large bodies stay where they came: nothing of them is copied at once, which all other requests would wait for."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from typing import cast

import numpy as np

from orchestrator.gateway.http.codec import parse_infer
from orchestrator.gateway.protocol.messages import pb
from orchestrator.gateway.protocol.wire import build_request, request_parts, split_answer, split_request
from orchestrator.http2.grpc.wire import collect, message_parts, strip_prefix
from orchestrator.triton.infer_wire import InferRequests
from tests.gateway.fakes import open_world

MIB = 2**20
SIZE = 32 * MIB


def head(size: int) -> bytes:
    tensor = {"name": "x", "datatype": "UINT8", "shape": [size], "parameters": {"binary_data_size": size}}
    return json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()


def test_binary_data_is_no_copy_of_the_body() -> None:
    body = bytearray(2 * MIB)
    raw = parse_infer("m", "", head(len(body)), memoryview(body)).raws[0]
    assert isinstance(raw, memoryview)
    assert raw.obj is body


def test_a_large_answer_is_split_where_it_is() -> None:
    data = bytes(range(256)) * 4 * 2**11
    response = pb.ModelInferResponse(model_name="m", id="7", raw_output_contents=[data, b"ab"])
    response.outputs.add(name="y", datatype="UINT8", shape=[len(data)])
    answer = response.SerializeToString()
    found, raws = split_answer(answer)
    assert [bytes(raw) for raw in raws] == [data, b"ab"]
    assert all(isinstance(raw, memoryview) and raw.obj is answer for raw in raws)
    found.raw_output_contents.extend(map(bytes, raws))
    assert found == response


def test_a_large_request_is_built_as_protobuf_would() -> None:
    request = pb.ModelInferRequest(model_name="m", inputs=[{"name": "x", "datatype": "UINT8", "shape": [3 * MIB]}])
    raws = [bytes(range(256)) * 3 * 2**12, b"ab"]
    built = build_request(request, raws)
    request.raw_input_contents.extend(raws)
    assert pb.ModelInferRequest.FromString(built) == request


def test_a_large_request_is_passed_on_where_it_is() -> None:
    raws = [memoryview(bytearray(3 * MIB)), b"ab"]
    parts = message_parts(*request_parts(pb.ModelInferRequest(model_name="m"), raws))
    assert any(part is raws[0] for part in parts)
    assert len(parts) == 3, "what is small is joined"


def test_the_raw_data_of_a_large_request_for_a_family_stays_where_it_is() -> None:
    request = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[bytes(3 * MIB), b"ab"])
    request.inputs.add(name="x", datatype="UINT8", shape=[3 * MIB])
    message = bytearray(request.SerializeToString())
    text, raws = split_request(cast(bytes, message))
    assert all(isinstance(raw, memoryview) and raw.obj is message for raw in raws)
    found = pb.ModelInferRequest.FromString(text)
    found.raw_input_contents.extend(map(bytes, raws))
    assert found == request


def test_a_large_batch_is_sent_to_its_server_where_it_is() -> None:
    batch = np.zeros((2, MIB), np.float32)
    parts = InferRequests().encode("m", {"x": batch, "text": np.array([b"ab"])}, ["y"])
    found = pb.ModelInferRequest.FromString(b"".join(parts))
    assert list(found.raw_input_contents) == [batch.tobytes(), b"\2\0\0\0ab"]
    assert any(np.shares_memory(np.frombuffer(part, np.uint8), batch) for part in parts)


def test_a_large_message_is_sent_and_received_without_a_copy() -> None:
    message = bytes(2 * MIB)
    parts = message_parts(message)
    assert parts[1] is message
    body: bytes | bytearray = b""
    for part in parts:
        body = collect(body, part)
    assert strip_prefix(body) is body
    assert body == message


async def test_a_large_request_takes_less_than_four_times_its_size() -> None:
    text = head(SIZE)
    lengths = f"Content-Length: {len(text) + SIZE}\r\nInference-Header-Content-Length: {len(text)}"
    async with open_world(max_message_mib=64) as world:
        host, port = world.http.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        tracemalloc.start()
        try:
            writer.write(f"POST /v2/models/echo/infer HTTP/1.1\r\nHost: g\r\n{lengths}\r\n\r\n".encode() + text)
            piece = bytes(MIB // 4)
            for _ in range(SIZE // len(piece)):
                writer.write(piece)
                await writer.drain()
            headers = await reader.readuntil(b"\r\n\r\n")
            assert headers.startswith(b"HTTP/1.1 200")
            found = 0
            while found < SIZE:
                found += len(await reader.read(MIB))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4 * SIZE, f"{peak / SIZE:.1f} times"
        writer.close()
