"""No error tells a client where a Triton listens: whatever is asked, and however the server fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import pytest

from orchestrator.config import FleetSettings, render_fleet
from orchestrator.gateway import Gateway, open_gateway
from orchestrator.gateway.protocol.messages import pb
from orchestrator.triton.errors import RefusedCallError
from tests.fakes.servers import served_model
from tests.gateway.calls import RawCalls, echo_request, item_request
from tests.gateway.fakes import FakeTriton
from tests.ports import choose_free_ports

MODELS = ("echo", "fashion", "fashion_w025", "nope")
NAMED = ("ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics")
_PATIENCE_S = 5.0
"""A client's own: what is streamed from a server that hangs has no other end."""
UNNAMED = ("ServerReady", "ServerMetadata", "RepositoryIndex", "ModelStatistics")


class TritonEndpoint(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers unary calls as a FakeTriton does, over gRPC."""

    def __init__(self, triton: FakeTriton) -> None:
        self._triton = triton

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]

        async def answer(message: bytes, context: Any) -> bytes:
            try:
                return await self._triton.call(method, message)
            except RefusedCallError as exc:
                await context.abort(grpc.StatusCode[exc.status], exc.detail)
                raise AssertionError from exc

        return grpc.unary_unary_rpc_method_handler(answer)


@asynccontextmanager
async def open_triton(port: int) -> AsyncIterator[None]:
    server = grpc.aio.server()
    triton = FakeTriton([served_model(25), served_model(100)], ["echo"])
    server.add_generic_rpc_handlers([TritonEndpoint(triton)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield
    finally:
        await server.stop(None)


async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def speak_http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    await reader.read()
    writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()
    writer.close()


async def tell_all(gateway: Gateway) -> list[str]:
    """Return all that a client is told, over both transports, whatever it asks."""
    assert gateway.grpc is not None
    assert gateway.http is not None
    told: list[str] = []
    channel: Any
    async with (
        grpc.aio.insecure_channel(gateway.grpc.address) as channel,
        aiohttp.ClientSession(f"http://{gateway.http.address}") as http,
    ):
        raw = RawCalls(channel)

        async def call(method: str, request: Any) -> None:
            try:
                answer = await raw.bytes(method, request.SerializeToString())
                told.append(str(getattr(pb, f"{method}Response").FromString(answer)))
            except grpc.aio.AioRpcError as exc:
                told.append(exc.details() or "")

        async def stream(request: Any) -> None:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    told.extend(answer.error_message for answer in await raw.stream([request]))
            except grpc.aio.AioRpcError as exc:
                told.append(exc.details() or "")
            except TimeoutError:
                told.append("")

        async def fetch(method: str, path: str, content: object = None) -> None:
            try:
                async with asyncio.timeout(_PATIENCE_S), http.request(method, path, json=content) as response:
                    told.append(await response.text())
            except TimeoutError:
                told.append("")

        inferences = [echo_request(), *(item_request(model=model) for model in ("fashion", "fashion_w025"))]
        tensor = {"name": "x", "datatype": "FP32", "shape": [2], "data": [1, 2]}
        await asyncio.gather(
            *(call(method, getattr(pb, f"{method}Request")(name=model)) for method in NAMED for model in MODELS),
            *(call(method, getattr(pb, f"{method}Request")()) for method in UNNAMED),
            *(call("ModelInfer", request) for request in inferences),
            *(stream(request) for request in inferences),
            *(fetch("GET", f"/v2/models/{m}{rest}") for m in MODELS for rest in ("", "/config", "/stats", "/ready")),
            *(fetch("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]}) for model in MODELS),
            *(fetch("POST", f"/v2/models/{m}/{how}", {}) for m in MODELS for how in ("generate", "generate_stream")),
            fetch("POST", "/v2/repository/index", {}),
            fetch("GET", "/v2/models/stats"),
        )
    return told


@pytest.mark.parametrize("failure", [None, drop, speak_http1, say_nothing])
async def test_no_answer_holds_the_address_of_a_server(tmp_path: Path, failure: Any) -> None:
    triton_port, *ports = choose_free_ports(3)
    grpc_address, http_address = (f"127.0.0.1:{port}" for port in ports)
    settings = FleetSettings.model_validate(
        {
            "servers": [{"name": "first", "grpc": f"127.0.0.1:{triton_port}"}],
            "gateway": {
                "grpc": grpc_address,
                "http": http_address,
                "metrics": None,
                "pass_on_timeout_s": 0.5,
                "drain_s": 0.5,
            },
            "router": {"warm_up": False, "request_timeout_s": 0.5, "connect_timeout_s": 0.5, "discovery_period_s": 0.1},
        }
    )
    path = tmp_path / "fleet.yaml"
    path.write_text(render_fleet(settings))
    async with AsyncExitStack() as stack:
        async with open_triton(triton_port):
            gateway = await stack.enter_async_context(open_gateway(settings, path))
        if failure is not None:
            server = await asyncio.start_server(failure, "127.0.0.1", triton_port)
            stack.push_async_callback(server.wait_closed)
            stack.callback(server.close)
        told = [*await tell_all(gateway), *await tell_all(gateway)]  # before it is seen to be gone, and after
    for text in told:
        assert "127.0.0.1" not in text, text
        assert str(triton_port) not in text, text
    assert any("first" in text for text in told), "else nothing was told of it"
