"""No bytes that a client sends make the data plane fail unexpectedly."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.config import RouterSettings
from orchestrator.errors import SlimError
from orchestrator.gateway.auth.callers import ANYONE
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.dataplane.streaming import StreamSession
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.protocol.messages import pb
from orchestrator.router import Router
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ModelDiscovery
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer
from tests.gateway.calls import item_request
from tests.gateway.fakes import FakeTriton

A = ServerName("a")


async def answer(method: str, message: bytes) -> bytes | None:
    """Return what a new data plane answers, None when it refuses; any other exception is a failure."""
    server = FakeServer(per_item_s=0.0, fixed_s=0.0)
    discovery = ModelDiscovery({A: FakeTriton(server.models, ("echo",))}, timeout_s=1.0)
    model_index = ModelIndex(discovery)
    await discovery.refresh()
    async with Router(RouterSettings(warm_up=False, guard=NO_TIME_LIMITS), {A: server}) as router:
        data_plane = DataPlane(router, model_index, GatewayMetrics())
        try:
            if method == "ModelStreamInfer":
                await StreamSession(data_plane, _discard, window=2, caller=ANYONE).run(_one(message))
                return b""
            return await data_plane.call(method, message, ANYONE)
        except SlimError:
            return None
        finally:
            assert data_plane.metrics.in_flight == 0


async def _discard(message: bytes) -> None:
    pb.ModelStreamInferResponse.FromString(message)


async def _one(message: bytes) -> Any:
    yield message


@st.composite
def damaged_requests(draw: st.DrawFn) -> bytes:
    request = item_request(draw(st.integers(0, 9)), items=draw(st.integers(1, 3)), id=draw(st.text(max_size=3)))
    tensor = request.inputs[0]
    for damage in draw(st.lists(st.sampled_from(["shape", "type", "name", "raw", "output", "parameter", "bytes"]))):
        if damage == "shape":
            tensor.shape[:] = draw(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=5))
        elif damage == "type":
            tensor.datatype = draw(st.sampled_from(["FP32", "FP16", "BYTES", "BF16", "x", ""]))
        elif damage == "name":
            tensor.name = draw(st.text(max_size=4))
        elif damage == "raw":
            request.raw_input_contents[:] = draw(st.lists(st.binary(max_size=40), max_size=3))
        elif damage == "output":
            output = request.outputs.add(name=draw(st.sampled_from(["logits", "x"])))
            output.parameters["classification"].int64_param = draw(st.integers(-(2**63), 2**63 - 1))
        elif damage == "parameter":
            name = draw(st.sampled_from(["slim_width", "slim_deadline_ms", "slim_min_accuracy", "priority", "triton_"]))
            request.parameters[name].double_param = draw(st.floats())
    message = bytearray(request.SerializeToString())
    for _ in range(draw(st.integers(0, 3))):
        message[draw(st.integers(0, len(message) - 1))] = draw(st.integers(0, 255))
    return bytes(message[: draw(st.integers(0, len(message)))] if draw(st.booleans()) else message)


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
@given(message=damaged_requests())
@settings(max_examples=150, deadline=None)
def test_damaged_requests_are_answered_or_refused(method: str, message: bytes) -> None:
    asyncio.run(answer(method, message))


@given(
    method=st.sampled_from(
        [
            "ModelReady",
            "ModelMetadata",
            "ModelConfig",
            "ModelStatistics",
            "RepositoryIndex",
            "TraceSetting",
            "LogSettings",
            "SystemSharedMemoryStatus",
            "CudaSharedMemoryUnregister",
            "ModelInfer",
        ]
    ),
    message=st.binary(max_size=40),
)
@settings(max_examples=150, deadline=None)
def test_bytes_of_no_message_are_answered_or_refused(method: str, message: bytes) -> None:
    asyncio.run(answer(method, message))


def test_a_good_request_is_answered_there() -> None:
    assert asyncio.run(answer("ModelInfer", item_request().SerializeToString())) is not None
