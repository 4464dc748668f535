"""One process has one connection to each Triton, and it is ours, whatever goes over it."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np

from orchestrator.config import FleetSettings, GatewaySettings, RouterSettings, ServerSettings, render_fleet
from orchestrator.gateway import Gateway, open_gateway
from orchestrator.http2.grpc.channel import ConnectionPool, GrpcChannel
from orchestrator.router import Router, connect_triton
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.messages import SERVICE, pb
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer, item
from tests.gateway.fakes import FakeTriton, echo
from tests.ports import choose_free_ports


class Handler(grpc.GenericRpcHandler):
    """A Triton behind gRPC's own server, which notes who calls."""

    def __init__(self) -> None:
        self.triton = FakeTriton(FakeServer().models, ["echo"])
        self.peers: set[str] = set()
        self.methods: Counter[str] = Counter()

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        self.methods[method] += 1
        if method == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self.stream)

        async def answer(message: bytes, context: Any) -> bytes:
            self.note(method, context.peer())
            if method == "ModelInfer" and (request := pb.ModelInferRequest.FromString(message)).model_name != "echo":
                logits, items = pb.ModelInferResponse(model_name=request.model_name), request.inputs[0].shape[0]
                logits.outputs.add(name="logits", datatype="FP32", shape=[items, 10])
                logits.raw_output_contents.append(np.zeros((items, 10), np.float32).tobytes())
                return bytes(logits.SerializeToString())
            return await self.triton.call(method, message)

        return grpc.unary_unary_rpc_method_handler(answer)

    def note(self, method: str, peer: str) -> None:
        self.peers.add(peer)

    async def stream(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self.note("ModelStreamInfer", context.peer())
        async for message in messages:
            answer = echo(pb.ModelInferRequest.FromString(message))
            yield pb.ModelStreamInferResponse(infer_response=answer).SerializeToString()


@asynccontextmanager
async def open_triton(
    handler: Handler | None = None, address: str = "127.0.0.1:0"
) -> AsyncIterator[tuple[Handler, str]]:
    handler, server = handler or Handler(), grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    port = server.add_insecure_port(address)
    await server.start()
    try:
        yield handler, f"{address.rpartition(':')[0]}:{port}"
    finally:
        await server.stop(None)


def channels_of_grpcio() -> set[int]:
    kinds = (grpc.Channel, grpc.aio.Channel)
    return {id(found) for found in gc.get_objects() if issubclass(type(found), kinds)}


async def test_router_and_gateway_ask_a_triton_over_one_connection_and_none_is_grpcios() -> None:
    before = channels_of_grpcio()
    async with open_triton() as (triton, address):
        port, *_ = choose_free_ports(1)
        fleet = FleetSettings(
            servers=(ServerSettings(name="a", grpc=address),),
            router=RouterSettings(warm_up=False, guard=NO_TIME_LIMITS),
            gateway=GatewaySettings(grpc=f"127.0.0.1:{port}", http=None, metrics=None),
        )
        pool = ConnectionPool()

        def connect(server: ServerSettings, settings: RouterSettings) -> Any:
            return connect_triton(server, settings, pool=pool)

        request = pb.ModelInferRequest(model_name="echo", id="7")
        request.inputs.add(name="x", datatype="FP32", shape=[1])
        request.raw_input_contents.append(bytes(4))
        message = request.SerializeToString()
        async with (
            Router.from_fleet(fleet, connect=connect) as router,
            Gateway(fleet.gateway, router, ModelDiscovery({}, timeout_s=30.0), pool=pool),
        ):
            client = GrpcChannel(f"127.0.0.1:{port}")
            await asyncio.gather(*(router.infer(item(1), deadline_ms=5000) for _ in range(5)))
            for method in ("ModelInfer", "ModelConfig"):
                asked = message if method == "ModelInfer" else pb.ModelConfigRequest(name="echo").SerializeToString()
                await client.call(f"/{SERVICE}/{method}", asked)
            await client.call(f"/{SERVICE}/ModelStatistics", b"")
            stream = client.open_stream(f"/{SERVICE}/ModelStreamInfer", explain=lambda error: error)
            await stream.send(message)
            await stream.finish()
            answers = [pb.ModelStreamInferResponse.FromString(answer) async for answer in stream.answers()]
            assert [answer.infer_response.id for answer in answers] == ["7"]
            await client.close(drain_s=1.0)
            assert channels_of_grpcio() <= before
        assert set(triton.methods) == {
            "RepositoryIndex",
            "ModelConfig",
            "ModelInfer",
            "ModelStatistics",
            "ModelStreamInfer",
        }
        assert len(triton.peers) == 1


async def test_a_process_asks_what_a_triton_serves_once_for_its_router_and_its_gateway(tmp_path: Path) -> None:
    async with open_triton() as (triton, address):
        port, *_ = choose_free_ports(1)
        fleet = FleetSettings(
            servers=(ServerSettings(name="a", grpc=address),),
            router=RouterSettings(warm_up=False, guard=NO_TIME_LIMITS, discovery_period_s=3600.0),
            gateway=GatewaySettings(grpc=f"127.0.0.1:{port}", http=None, metrics=None),
        )
        path = tmp_path / "fleet.yaml"
        path.write_text(render_fleet(fleet))
        async with open_gateway(fleet, path) as gateway:
            assert gateway.served == {"fashion"}
            assert gateway._model_index.is_known("echo")
        assert (triton.methods["RepositoryIndex"], triton.methods["ModelConfig"]) == (1, 5)
