"""A fleet without a process: the real router over fake servers, and Tritons that answer calls passed through."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from orchestrator.config import GatewaySettings, RouterSettings
from orchestrator.gateway import Gateway
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.protocol.messages import pb
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.router import Router
from orchestrator.snapshot import ServedModel, ServerName
from orchestrator.triton.discovery import ModelDiscovery
from orchestrator.triton.errors import RefusedCallError
from tests.fakes.servers import NO_TIME_LIMITS, FakeServer
from tests.ports import choose_free_ports


class FakeTriton:
    """Serves models by the passthrough's protocol; those that are no widths answer what they are given.

    ``refusals`` are raised by the next inferences, one each; while ``goes_on`` is cleared none is answered. ``seen``
    are the calls that came, as bytes. ``datatypes`` are those that models declare of their output, FP32 where none is
    given. ``scripts`` says of decoupled models what they answer to a request over a stream: r is a response, e an
    error.
    """

    def __init__(self, widths: Sequence[ServedModel] = (), others: Iterable[str] = ()) -> None:
        self.widths = {str(model.name): model for model in widths}
        self.others = set(others)
        self.datatypes: dict[str, str] = {}
        self.scripts: dict[str, str] = {}
        self.unready: dict[str, str] = {}
        self.hidden: set[str] = set()
        self.index_failure: RefusedCallError | None = None
        self.is_up = True
        self.in_flight = 0
        self.refusals: list[RefusedCallError] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.seen: list[tuple[str, bytes, Metadata]] = []
        self.counts: dict[str, int] = {}
        self.closed = False
        self.streams: list[FakeStream] = []
        self._methods = {
            "RepositoryIndex": self.answer_index,
            "ModelReady": self.answer_ready,
            "ModelConfig": self.answer_config,
            "ModelMetadata": self.answer_metadata,
            "ModelStatistics": self.answer_statistics,
            "ModelInfer": self.answer_infer,
        }

    async def call(self, method: str, message: bytes, metadata: Metadata = (), *, rest: Sequence[Buffer] = ()) -> bytes:
        self.require_up()
        message = b"".join((message, *rest))
        self.seen.append((method, message, metadata))
        await asyncio.sleep(0)
        if method == "ModelInfer":
            await self.goes_on.wait()
        answer: bytes = self._methods[method](message).SerializeToString()
        return answer

    def open_stream(self, method: str, metadata: Metadata = ()) -> FakeStream:
        self.streams.append(FakeStream(self))
        return self.streams[-1]

    async def close(self, *, drain_s: float = 0.0) -> None:
        self.closed = True

    def require_up(self) -> None:
        if not self.is_up:
            raise RefusedCallError("UNAVAILABLE", "failed to connect", executed=False, is_gone=True)

    def answer_index(self, message: bytes) -> Any:
        if self.index_failure is not None:
            raise self.index_failure
        answer = pb.RepositoryIndexResponse()
        for name in sorted({*self.widths, *self.others} - self.hidden):
            answer.models.add(name=name, version="1", state="READY")
        for name, reason in self.unready.items():
            answer.models.add(name=name, version="1", state="UNAVAILABLE", reason=reason)
        return answer

    def answer_ready(self, message: bytes) -> Any:
        name = pb.ModelReadyRequest.FromString(message).name
        return pb.ModelReadyResponse(ready=name in self.widths or name in self.others)

    def answer_config(self, message: bytes) -> Any:
        name = pb.ModelConfigRequest.FromString(message).name
        self._require(name)
        answer = pb.ModelConfigResponse()
        config = answer.config
        config.name, config.backend = name, "onnxruntime"
        model = self.widths.get(name)
        if model is None:
            config.input.add(name="x", data_type="TYPE_FP32", dims=[2])
            config.output.add(name="x", data_type="TYPE_FP32", dims=[2])
            config.model_transaction_policy.decoupled = name in self.scripts
            return answer
        config.max_batch_size = model.max_batch_size
        config.input.add(name=model.inputs[0].name, data_type="TYPE_FP32", dims=model.inputs[0].shape)
        config.output.add(name=model.outputs[0].name, data_type="TYPE_FP32", dims=model.outputs[0].shape)
        config.model_warmup.add(name="warm", batch_size=1)
        for key in ("family", "width", "accuracy", "sha256"):
            config.parameters[f"slim.{key}"].string_value = str(getattr(model, key))
        return answer

    def answer_metadata(self, message: bytes) -> Any:
        name = pb.ModelMetadataRequest.FromString(message).name
        self._require(name)
        answer = pb.ModelMetadataResponse(name=name, versions=["1"], platform="onnxruntime_onnx")
        model = self.widths.get(name)
        shape = [2] if model is None else [-1, *model.inputs[0].shape]
        answer.inputs.add(name="x" if model is None else model.inputs[0].name, datatype="FP32", shape=shape)
        scores = [2] if model is None else [-1, *model.outputs[0].shape]
        output = "x" if model is None else model.outputs[0].name
        answer.outputs.add(name=output, datatype=self.datatypes.get(name, "FP32"), shape=scores)
        return answer

    def answer_statistics(self, message: bytes) -> Any:
        answer = pb.ModelStatisticsResponse()
        for name in sorted({*self.widths, *self.others}):
            count = self.counts.get(name, 0)
            statistics = answer.model_stats.add(name=name, version="1", inference_count=count, execution_count=count)
            statistics.inference_stats.success.count = count
        return answer

    def answer_infer(self, message: bytes) -> Any:
        request = pb.ModelInferRequest.FromString(message)
        self._require(request.model_name)
        if request.model_name in self.scripts:
            detail = "ModelInfer RPC doesn't support models with decoupled transaction policy"
            raise RefusedCallError("UNIMPLEMENTED", detail)
        if self.refusals:
            raise self.refusals.pop(0)
        return echo(request)

    def _require(self, name: str) -> None:
        if name not in self.widths and name not in self.others:
            detail = f"Request for unknown model: '{name}' is not found"
            raise RefusedCallError("NOT_FOUND", detail, executed=False)


def echo(request: Any) -> Any:
    response = pb.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
    for tensor in request.inputs:
        response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
    response.raw_output_contents.extend(request.raw_input_contents)
    return response


class FakeStream:
    """Answers each request twice, as a decoupled model may, or as the model's script says; ``models`` were asked."""

    def __init__(self, server: FakeTriton) -> None:
        self._server = server
        self._answers: asyncio.Queue[bytes | RefusedCallError | None] = asyncio.Queue()
        self.is_abandoned = False
        self.models: list[str] = []

    async def send(self, message: bytes) -> None:
        self._server.seen.append(("ModelStreamInfer", message, ()))
        request = pb.ModelInferRequest.FromString(message)
        self.models.append(request.model_name)
        for step in self._server.scripts.get(request.model_name, "rr"):
            error = "the model broke off" if step == "e" else None
            response = pb.ModelStreamInferResponse(error_message=error, infer_response=echo(request))
            self._answers.put_nowait(response.SerializeToString())

    async def finish(self) -> None:
        self._answers.put_nowait(None)

    def break_off(self, error: RefusedCallError) -> None:
        self._answers.put_nowait(error)

    async def answers(self) -> AsyncIterator[bytes]:
        while (answer := await self._answers.get()) is not None:
            if isinstance(answer, RefusedCallError):
                raise answer
            yield answer

    def abandon(self) -> None:
        self.is_abandoned = True

    def when_ended(self, call: Callable[[], object]) -> None:
        call()


class World:
    """Two servers a to b, a gateway over them, and what a test needs to reach into."""

    def __init__(
        self, servers: dict[str, FakeServer], tritons: dict[str, FakeTriton], gateway: Gateway, router: Router
    ) -> None:
        self.servers = servers
        self.router = router
        self.tritons = tritons
        self.gateway = gateway

    @asynccontextmanager
    async def busy(self) -> AsyncIterator[None]:
        """Let what comes to any of the servers meanwhile wait."""
        async with AsyncExitStack() as stack:
            for server in self.servers.values():
                await stack.enter_async_context(server.busy())
            yield

    async def until_asked(self) -> None:
        """Wait until some server has a batch that it has not answered."""
        while not any(server.in_flight for server in self.servers.values()):
            await asyncio.sleep(0.01)

    @property
    def grpc(self) -> str:
        assert self.gateway.grpc is not None
        return self.gateway.grpc.address

    @property
    def http(self) -> str:
        assert self.gateway.http is not None
        return f"http://{self.gateway.http.address}"


@asynccontextmanager
async def open_world(
    *, others: dict[str, Sequence[str]] | None = None, router: dict[str, Any] | None = None, **gateway: Any
) -> AsyncIterator[World]:
    others = others or {"a": ("echo", "only_a"), "b": ("echo",)}
    servers = {name: FakeServer(per_item_s=0.001, fixed_s=0.0) for name in others}
    tritons = {name: FakeTriton(servers[name].models, models) for name, models in others.items()}
    grpc_port, http_port, metrics_port = choose_free_ports(3)
    settings = GatewaySettings.model_validate(
        {
            "grpc": f"127.0.0.1:{grpc_port}",
            "http": f"127.0.0.1:{http_port}",
            "metrics": f"127.0.0.1:{metrics_port}",
            **gateway,
        }
    )
    routing = RouterSettings.model_validate(
        {"warm_up": False, "discovery_period_s": 0.05, "guard": NO_TIME_LIMITS, **(router or {})}
    )
    metrics = GatewayMetrics()
    # A busy machine is no silent server.
    discovery = ModelDiscovery({ServerName(name): triton for name, triton in tritons.items()}, timeout_s=30.0)
    opened = Router(routing, {ServerName(n): s for n, s in servers.items()}, observer=metrics.router)
    gate = Gateway(
        settings, opened, discovery, metrics=metrics
    )  # before the router opens, as the first one takes a while
    async with opened, gate:
        watching = asyncio.create_task(discovery.watch(0.05))
        try:
            yield World(servers, tritons, gate, opened)
        finally:
            watching.cancel()
