"""The one adapter over ``tritonclient.grpc.aio``: typed results, our errors, units converted once.

Two rules of Triton 2.51 shape it. A cancelled or timed-out gRPC infer can crash the server (server#7368), so a caller
of ``infer`` that gives up leaves the call to finish by itself, no client timeout is ever sent along, and ``close``
waits for calls under way. And same-address channels share one connection unless told otherwise, so each client has a
pool of its own. Inferences, which are many, go over a channel of ours (orchestrator.http2.grpc.channel).

Control goes over gRPC too; loading over HTTP blocks one of Triton's HTTP workers (server#8958).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, Self

from numpy.typing import NDArray
from tritonclient.grpc import aio
from tritonclient.grpc.model_config_pb2 import ModelConfig
from tritonclient.utils import InferenceServerException

from orchestrator.errors import SlimError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.triton.errors import translate_status
from orchestrator.triton.infer_wire import InferAnswers, InferRequests, decode_outputs

Array = NDArray[Any]

_INFER = "/inference.GRPCInferenceService/ModelInfer"

CHANNEL_ARGUMENTS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A server that comes back is found within a second, not after gRPC's default of up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
    # How long one attempt to connect may take (gRPC's default is 20 s). Where the accept queue is full the kernel drops
    # SYNs and waits 1, 2, 4, … s before it sends the next; a new attempt is quicker than the old one's next SYN.
    ("grpc.min_reconnect_backoff_ms", 500),
]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of one model in a server's repository.

    Attributes:
        name: of the model.
        version: empty when none is loaded.
        state: READY, LOADING, UNLOADING, UNAVAILABLE, or empty when it was never loaded.
        reason: why it is unavailable; empty otherwise.
    """

    name: str
    version: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ModelStatistics:
    """Counters of one model since its last full load; a reload sets them back to zero.

    Attributes:
        inference_count: items answered.
        execution_count: batches run; below inference_count when requests were batched.
        compute_s: time spent computing, summed over requests.
        queue_s: time spent in Triton's queue, summed over requests.
    """

    inference_count: int
    execution_count: int
    compute_s: float
    queue_s: float


class TritonClient:
    """A connection to one Triton; an async context manager, to be used from one event loop.

    Args:
        address: ``host:port`` of the gRPC endpoint.
        timeout_s: of every call but ``infer`` and ``load_model``.
        headers: sent with every call, see orchestrator.triton.protocol_key.
    """

    def __init__(self, address: str, *, timeout_s: float = 5.0, headers: Mapping[str, str] | None = None) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._headers = dict(headers or {})
        self._metadata = tuple(self._headers.items())
        self._requests = InferRequests()
        self._answers = InferAnswers()
        self._channel = GrpcChannel(address)
        self._client = aio.InferenceServerClient(address, channel_args=CHANNEL_ARGUMENTS)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Close the connections, after waiting for inferences under way."""
        await self._channel.close(drain_s=drain_s)
        await self._client.close()

    async def is_ready(self) -> bool:
        """Return whether the server answers and says it is ready; never raises for an absent server."""
        try:
            return bool(await self._client.is_server_ready(headers=self._headers, client_timeout=self._timeout_s))
        except InferenceServerException:
            return False

    async def version(self) -> str:
        """Return the server's version, such as ``2.51.0``.

        Raises:
            SlimError: as mapped from the gRPC status.
        """
        answer = await self._call(
            self._client.get_server_metadata(headers=self._headers, client_timeout=self._timeout_s)
        )
        return str(answer.version)

    async def index(self) -> tuple[IndexEntry, ...]:
        """Return the repository index, ordered by name.

        Raises:
            SlimError: as mapped from the gRPC status.
        """
        answer = await self._call(
            self._client.get_model_repository_index(headers=self._headers, client_timeout=self._timeout_s)
        )
        entries = (IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models)
        return tuple(sorted(entries, key=lambda e: (e.name, e.version)))

    async def model_config(self, name: str) -> ModelConfig:
        """Return the config a loaded model runs with.

        Raises:
            ModelNotFoundError: when the model is not loaded.
            SlimError: as mapped from the gRPC status.
        """
        answer = await self._call(
            self._client.get_model_config(name, headers=self._headers, client_timeout=self._timeout_s)
        )
        config: ModelConfig = answer.config
        return config

    async def statistics(self, name: str) -> ModelStatistics:
        """Return the counters of a loaded model, summed over its versions.

        Raises:
            SlimError: as mapped from the gRPC status.
        """
        answer = await self._call(
            self._client.get_inference_statistics(name, headers=self._headers, client_timeout=self._timeout_s)
        )
        models = answer.model_stats
        return ModelStatistics(
            inference_count=sum(m.inference_count for m in models),
            execution_count=sum(m.execution_count for m in models),
            compute_s=sum(m.inference_stats.compute_infer.ns for m in models) / 1e9,
            queue_s=sum(m.inference_stats.queue.ns for m in models) / 1e9,
        )

    async def load_model(self, name: str, *, config: Mapping[str, Any] | None = None) -> None:
        """Load or reload a model and return once it serves.

        Args:
            name: of a folder in the server's repository.
            config: replaces config.pbtxt until the next unload, as ModelConfig's JSON.

        Raises:
            SlimError: with Triton's reason.
        """
        override = None if config is None else json.dumps(config, sort_keys=True)
        await self._call(self._client.load_model(name, headers=self._headers, config=override))

    async def unload_model(self, name: str) -> None:
        """Stop serving a model; its memory is freed some time after this returns.

        Raises:
            SlimError: as mapped from the gRPC status.
        """
        await self._call(self._client.unload_model(name, headers=self._headers, client_timeout=self._timeout_s))

    async def infer(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a batch and return the named outputs.

        Args:
            model: its name.
            inputs: by name, each with the batch first where the model batches.
            outputs: names of those wanted.

        Raises:
            SlimError: as translate_status says; whether the batch may have run is among it.
        """
        message = self._requests.encode(model, inputs, outputs)
        try:
            answer = await self._channel.call(_INFER, message, self._metadata)
        except RpcError as exc:
            raise translate_status(exc.status, exc.detail, self.address) from exc
        return decode_outputs(answer, model, outputs)

    def begin_infer(self, model: str, name: str, batch: Array, output: str) -> asyncio.Future[Array] | None:
        """Send a batch at once and return a future of one output; None when there is no connection yet.

        As ``infer`` otherwise, without coroutines, which cost a router more than what is sent.
        """
        return self._channel.begin(
            _INFER,
            self._requests.encode(model, {name: batch}, (output,)),
            self._metadata,
            read=partial(self._answers.decode, model, output),
            explain=self._explain,
        )

    def _explain(self, error: RpcError) -> SlimError:
        return translate_status(error.status, error.detail, self.address)

    async def _call(self, awaitable: Any) -> Any:
        try:
            return await awaitable
        except InferenceServerException as exc:
            raise translate_error(exc, self.address) from exc


def translate_error(error: InferenceServerException, address: str) -> SlimError:
    """Return our error for one of tritonclient's, see translate_status."""
    return translate_status(error.status(), error.message() or "no reason given", address)
