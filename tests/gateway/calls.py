"""Requests as a client would write them, and calls on a bare channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
import numpy as np
import pytest

from orchestrator.gateway.protocol.messages import pb, set_value
from orchestrator.triton.messages import SERVICE


class RawCalls:
    """Calls that send and get bytes or messages, as grpc.aio does it."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    async def bytes(self, method: str, message: bytes, **more: Any) -> bytes:
        answer: bytes = await self.channel.unary_unary(f"/{SERVICE}/{method}")(message, **more)
        return answer

    async def ask(self, method: str, **fields: Any) -> Any:
        request = getattr(pb, f"{method}Request")(**fields)
        return getattr(pb, f"{method}Response").FromString(await self.bytes(method, request.SerializeToString()))

    async def refused(self, method: str, request: Any) -> tuple[str, str]:
        """Return status and message of a call that must fail."""
        message = request if isinstance(request, bytes) else request.SerializeToString()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.bytes(method, message)
        return caught.value.code().name, caught.value.details() or ""

    async def infer(self, request: Any) -> Any:
        return pb.ModelInferResponse.FromString(await self.bytes("ModelInfer", request.SerializeToString()))

    async def stream(self, requests: Sequence[Any], **more: Any) -> list[Any]:
        async def sent() -> Any:
            for request in requests:
                yield request.SerializeToString()

        call = self.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")(sent(), **more)
        return [pb.ModelStreamInferResponse.FromString(message) async for message in call]


def item_request(mark: int = 1, *, items: int = 1, model: str = "fashion", **more: Any) -> Any:
    """Return a request whose items carry a mark that comes back as the best class."""
    parameters = more.pop("parameters", {})
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="pixels", datatype="FP32", shape=[items, 1, 2, 2])
    request.raw_input_contents.append(np.full((items, 1, 2, 2), mark, np.float32).tobytes())
    for name, value in parameters.items():
        set_value(request.parameters, name, value)
    return request


def echo_request(model: str = "echo", raw: bytes = b"12345678", **more: Any) -> Any:
    """Return a request for a model that is no family's."""
    request = pb.ModelInferRequest(model_name=model, **more)
    request.inputs.add(name="x", datatype="FP32", shape=[2])
    request.raw_input_contents.append(raw)
    return request
