from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2, service_pb2_grpc

from orchestrator.errors import (
    CapacityError,
    ConnectionLostError,
    DeadlineError,
    ModelNotFoundError,
    PermanentError,
    ServerUnavailableError,
    SlimError,
    TransientError,
)
from orchestrator.triton.client import TritonClient
from orchestrator.triton.errors import translate_status


@pytest.mark.parametrize(
    ("status", "detail", "kind", "executed"),
    [
        ("UNAVAILABLE", "failed to connect to all addresses", ServerUnavailableError, False),
        ("UNAVAILABLE", "Server is stopping, scheduler for model has stopped", ServerUnavailableError, False),
        ("UNAVAILABLE", "failed to connect: recvmsg:Connection reset by peer", ServerUnavailableError, False),
        ("UNAVAILABLE", "Socket closed", ConnectionLostError, True),
        ("UNAVAILABLE", "recvmsg:Connection reset by peer", ConnectionLostError, True),
        ("UNAVAILABLE", "ping timeout", ConnectionLostError, True),
        ("UNKNOWN", "Stream removed", ConnectionLostError, True),
        ("INTERNAL", "the model's own database: Connection reset by peer", TransientError, True),
        ("INTERNAL", "Server is stopping", TransientError, False),
        ("UNAVAILABLE", "words that nobody knows", ServerUnavailableError, True),
        ("UNAVAILABLE", "[request id: 1] Exceeds maximum queue size", CapacityError, False),
        ("UNAVAILABLE", "Request timeout expired", DeadlineError, False),
        ("UNAVAILABLE", "Request for unknown model: 'm' is not ready", ModelNotFoundError, None),
        ("UNAVAILABLE", "This protocol is restricted, expecting header 'x'", PermanentError, None),
        ("UNAVAILABLE", "explicit model load / unload is not allowed if polling is enabled", PermanentError, None),
        ("NOT_FOUND", "Request for unknown model: 'm' is not found", ModelNotFoundError, None),
        ("DEADLINE_EXCEEDED", "Deadline Exceeded", DeadlineError, True),
        ("RESOURCE_EXHAUSTED", "too large", CapacityError, False),
        ("INVALID_ARGUMENT", "unexpected shape", PermanentError, None),
        ("UNIMPLEMENTED", "no", PermanentError, None),
        ("INTERNAL", "Stub process 'm_0_0' is not healthy.", TransientError, False),
        ("INTERNAL", "onnx runtime error", TransientError, True),
    ],
)
def test_what_triton_says_becomes_an_error_of_ours(
    status: str, detail: str, kind: type[SlimError], executed: bool | None
) -> None:
    error = translate_status(status, detail + "\n second line", "Triton at h:1")
    assert type(error) is kind
    assert str(error) == f"Triton at h:1: {detail} second line"
    assert getattr(error, "executed", None) is executed


class SlowServicer(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Answers an infer when allowed to, and notes whether its caller cancelled it."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.may_answer = asyncio.Event()
        self.cancelled = 0

    async def ModelInfer(  # noqa: N802  # the protocol's name
        self, request: service_pb2.ModelInferRequest, context: grpc.aio.ServicerContext
    ) -> service_pb2.ModelInferResponse:
        self.began.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        values = np.zeros((1, 2), np.float32)
        output = service_pb2.ModelInferResponse.InferOutputTensor(name="y", datatype="FP32", shape=values.shape)
        return service_pb2.ModelInferResponse(outputs=[output], raw_output_contents=[values.tobytes()])


async def test_neither_giving_up_nor_closing_cancels_what_a_server_runs() -> None:
    servicer, server = SlowServicer(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    client = TritonClient(f"127.0.0.1:{port}")
    call = asyncio.create_task(client.infer("m", {"x": np.zeros((1, 2), np.float32)}, ["y"]))
    await servicer.began.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    closing = asyncio.create_task(client.close())
    await asyncio.sleep(0.05)
    assert not closing.done(), "it waits for the call that goes on"
    servicer.may_answer.set()
    await closing
    assert servicer.cancelled == 0
    await server.stop(None)


class Recording(service_pb2_grpc.GRPCInferenceServiceServicer):
    def __init__(self) -> None:
        self.metadata: dict[str, str] = {}

    async def ModelStreamInfer(self, requests: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        self.metadata = dict(context.invocation_metadata())
        async for request in requests:
            yield service_pb2.ModelStreamInferResponse(error_message=request.id)


async def test_what_would_have_a_stream_kill_a_triton_is_not_forwarded() -> None:
    servicer, server = Recording(), grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with TritonClient(f"127.0.0.1:{port}") as client:
        stream = client.open_stream("ModelStreamInfer", (("triton_grpc_error", "true"), ("x-mine", "1")))
        await stream.send(b"")
        await stream.finish()
        assert [answer async for answer in stream.answers()] == [b""]
        stream.abandon()
    await server.stop(None)
    assert servicer.metadata["x-mine"] == "1"
    assert "triton_grpc_error" not in servicer.metadata


async def test_an_absent_server_is_unavailable() -> None:
    async with TritonClient("127.0.0.1:9", timeout_s=2) as client:
        with pytest.raises(ServerUnavailableError, match=r"^Triton at 127\.0\.0\.1:9: "):
            await client.index()
