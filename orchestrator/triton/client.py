"""The one adapter over a Triton's gRPC endpoint: typed results, our errors, units converted once.

All calls to a Triton, those that are passed through as bytes included, go over one connection of ours
(orchestrator.http2.grpc.channel), which clients that were given the same pool share.

Two rules of Triton 2.51 shape it. A cancelled or timed-out call can crash the server (server#7368), so a caller who
gives up leaves the call to finish by itself, no deadline is ever sent along, a stream whose reader is gone is read to
its end, and ``close`` waits for calls under way. And loading over HTTP blocks one of Triton's HTTP workers
(server#8958), so control goes over gRPC.

What is passed through is neither parsed nor rewritten, so whatever a client and its model agree on arrives unchanged:
datatypes and parameters that this code has never heard of included.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Self, TypeVar

from numpy.typing import NDArray

from orchestrator.errors import ModelNotFoundError, SlimError
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.channel import ConnectionPool, GrpcChannel
from orchestrator.http2.grpc.client_call import ClientStream
from orchestrator.http2.grpc.wire import Metadata, RpcError
from orchestrator.snapshot import ServedModel
from orchestrator.triton.errors import RefusedCallError, describe_refusal, translate_status
from orchestrator.triton.families import (
    Described,
    Misfit,
    choose_interfaces,
    find_misfits,
    interfaces_of,
    read_width,
)
from orchestrator.triton.infer_wire import InferAnswers, InferRequests, Tensors, as_model_takes, decode_outputs
from orchestrator.triton.messages import SERVICE, Message, ModelConfig, parse_answer, pb
from orchestrator.triton.protocol_key import HEADER_PREFIX, render_headers

Array = NDArray[Any]
T = TypeVar("T")

log = logging.getLogger(__name__)

READY: Final = "READY"
_INFER: Final = f"/{SERVICE}/ModelInfer"
# What belongs to the connection with our client, or could open what is closed, is not forwarded. Neither is what makes
# Triton 2.51 end a stream with a model's first error: it dies of what a decoupled model sends after it.
_OWN_PREFIXES: Final = ("grpc-", ":", HEADER_PREFIX)
_OWN_KEYS: Final = frozenset({"user-agent", "content-type", "te", "authorization", "triton_grpc_error"})


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One version of one model in a server's repository.

    Attributes:
        version: The version; empty when none is loaded.
        state: One of READY, LOADING, UNLOADING and UNAVAILABLE; empty when it was never loaded.
        reason: The reason why it is unavailable; empty otherwise.
    """

    name: str
    version: str
    state: str
    reason: str


class TritonClient:
    """A connection to one Triton; an async context manager, to be used from one event loop.

    Calls raise SlimError, as mapped from the gRPC status.

    Args:
        address: The ``host:port`` of the gRPC endpoint.
        timeout_s: How long any call may take but inferences, loads and what is passed through.
        name: The server's name, by which errors tell of it; None: they tell its address. Whoever hands errors on to
            others than the operator gives one.
        protocol_key: The key of restricted protocols, see read_protocol_key; None: they are not restricted.
        pool: The pool whose connection it shares with others; None: it has one of its own.
        discover: What returns the served models, where a discovery asks for a whole process; None: it is asked here.
        described: What the fleet file says of models, for when it is asked here.
    """

    def __init__(
        self,
        address: str,
        *,
        name: str | None = None,
        timeout_s: float = 5.0,
        protocol_key: tuple[str, str] | None = None,
        pool: ConnectionPool | None = None,
        discover: Callable[[], Awaitable[tuple[ServedModel, ...]]] | None = None,
        described: Described | None = None,
    ) -> None:
        self.address = address
        self._told_as = f"Triton at {address}" if name is None else f"server {name}"
        self._discover = discover
        self._described = described or {}
        self._told: set[tuple[str, str]] = set()  # misfits
        self._timeout_s = timeout_s
        self._metadata = tuple(render_headers(protocol_key).items())
        self._requests = InferRequests()
        self._answers = InferAnswers()
        self._channel = GrpcChannel(address, pool)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Let go of the connection, after waiting at most so long for calls and streams under way."""
        await self._channel.close(drain_s=drain_s)

    @property
    def in_flight(self) -> int:
        """Calls and streams of this client under way, those that nobody waits for any more included."""
        return self._channel.in_flight

    # --- what it has ---

    async def identifier(self) -> str:
        """Return what the server calls itself, which its ``--id`` says; ``triton`` by default."""
        answer = await self._ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
        return str(answer.name)

    async def version(self) -> str:
        """Return the server's version, such as ``2.51.0``."""
        answer = await self._ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse)
        return str(answer.version)

    async def index(self) -> tuple[IndexEntry, ...]:
        """Return the repository index, ordered by name."""
        answer = await self._ask("RepositoryIndex", pb.RepositoryIndexRequest(), pb.RepositoryIndexResponse)
        return tuple(sorted(read_index(answer), key=lambda e: (e.name, e.version)))

    async def model_config(self, name: str) -> ModelConfig:
        """Return the config a loaded model runs with; raises ModelNotFoundError when it is not loaded."""
        answer = await self._ask("ModelConfig", pb.ModelConfigRequest(name=name), pb.ModelConfigResponse)
        return answer.config

    async def served_models(self) -> tuple[ServedModel, ...]:
        """Return every width of every family that the server is ready to run, ordered by model name."""
        if self._discover is not None:
            return await self._discover()
        ready = sorted({entry.name for entry in await self.index() if entry.state == READY})
        configs = await asyncio.gather(*(self._config_or_none(name) for name in ready))
        read = [read_width(config, self._described) for config in configs if config is not None]
        models = [model for model in read if isinstance(model, ServedModel)]
        misfits = {model.model: model.reason for model in read if isinstance(model, Misfit)}
        misfits |= find_misfits(models, choose_interfaces(interfaces_of(models), {}))
        for misfit in misfits.items() - self._told:
            log.warning("model %s at %s is of no family: %s", misfit[0], self.address, misfit[1])
        self._told = set(misfits.items())
        return tuple(model for model in models if model.name not in misfits)

    async def _config_or_none(self, name: str) -> ModelConfig | None:
        try:
            return await self.model_config(name)
        except ModelNotFoundError:  # unloaded since the index was read
            return None

    # --- changing it ---

    async def load_model(self, name: str, *, config: Mapping[str, Any] | None = None) -> None:
        """Load or reload a model of the repository and return once it serves, however long that takes.

        A config, as ModelConfig's JSON, replaces config.pbtxt until the next unload.
        """
        request = pb.RepositoryModelLoadRequest(model_name=name)
        if config is not None:
            request.parameters["config"].string_param = json.dumps(config, sort_keys=True)
        await self._ask("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, is_timed=False)

    async def unload_model(self, name: str) -> None:
        """Stop serving a model; its memory is freed some time after this returns."""
        request = pb.RepositoryModelUnloadRequest(model_name=name)
        await self._ask("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse)

    # --- inference ---

    async def infer(self, model: str, inputs: Mapping[str, Array], outputs: Sequence[str]) -> dict[str, Array]:
        """Run a batch, its items first where the model batches, and return the named outputs.

        Raises:
            SlimError: as translate_status says; whether the batch may have run is among it.
            WrongAnswerError: What the server answers can't be what was asked for.
        """
        parts = self._requests.encode(model, inputs, outputs)
        return await self._infer(parts, lambda answer: decode_outputs(answer, model, outputs))

    def infer_batch(
        self, model: ServedModel, batch: Tensors, *, metadata: tuple[tuple[str, str], ...] = ()
    ) -> Awaitable[Tensors]:
        """Return the model's outputs for a batch of its inputs; sent at once where there is a connection.

        It is a future then, without coroutines, which cost a router more than what is sent.

        Raises:
            SlimError: as ``infer``.
        """
        outputs = [spec.name for spec in model.outputs]
        datatypes = [spec.datatype for spec in model.inputs]
        parts = self._requests.encode(model.name, as_model_takes(batch, model), outputs, datatypes)
        read = partial(self._answers.decode, model)
        head, *rest = parts
        metadata = (*self._metadata, *metadata) if metadata else self._metadata
        begun = self._channel.begin(_INFER, head, metadata, rest=rest, read=read, explain=self._translate)
        return self._infer(parts, read, metadata) if begun is None else begun

    async def _infer(self, parts: Sequence[Buffer], read: Callable[[bytes], T], metadata: Metadata = ()) -> T:
        head, *rest = parts
        try:
            return read(await self._channel.call(_INFER, head, metadata or self._metadata, rest=rest))
        except RpcError as exc:
            raise self._translate(exc) from exc

    # --- pass-through ---

    async def call(self, method: str, message: bytes, metadata: Metadata = (), *, rest: Sequence[Buffer] = ()) -> bytes:
        """Return the answer to one serialised call of the service that is forwarded as it is.

        Of a message in parts ``rest`` are all but the first.

        Raises:
            RefusedCallError: with the server's status; ``executed`` says whether it is safe to ask another server.
        """
        try:
            own = self._pass_metadata(metadata)
            return await self._channel.call(f"/{SERVICE}/{method}", message, own, rest=rest)
        except RpcError as exc:
            raise self._refuse(exc) from exc

    def open_stream(self, method: str, metadata: Metadata = ()) -> ClientStream:
        """Begin a call that is a stream both ways; the caller must ``abandon`` it in the end.

        What the server refuses is raised by the stream as a RefusedCallError.
        """
        return self._channel.open_stream(f"/{SERVICE}/{method}", self._pass_metadata(metadata), explain=self._refuse)

    def _pass_metadata(self, metadata: Metadata) -> Metadata:
        own = ((k, v) for k, v in metadata if k not in _OWN_KEYS and not k.startswith(_OWN_PREFIXES))
        return (*own, *self._metadata)

    async def _ask(self, method: str, request: Message, kind: Any, *, is_timed: bool = True) -> Message:
        try:
            async with asyncio.timeout(self._timeout_s if is_timed else None):
                answer = await self._channel.call(f"/{SERVICE}/{method}", request.SerializeToString(), self._metadata)
        except TimeoutError as exc:
            raise translate_status("DEADLINE_EXCEEDED", "Deadline Exceeded", self._told_as) from exc
        except RpcError as exc:
            raise self._translate(exc) from exc
        return parse_answer(kind, answer)

    def _translate(self, error: RpcError) -> SlimError:
        return translate_status(error.status, error.detail or "no reason given", self._told_as)

    def _refuse(self, error: RpcError) -> RefusedCallError:
        return describe_refusal(error.status, error.detail, self._told_as)


def read_index(answer: Message) -> tuple[IndexEntry, ...]:
    """Return the entries of a RepositoryIndexResponse."""
    return tuple(IndexEntry(m.name, m.version, m.state, m.reason) for m in answer.models)
