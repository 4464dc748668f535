"""What the gateway answers, whatever the transport.

Used by both transports: gRPC hands over serialised calls as they come (``call``, ``stream``), HTTP builds the same
messages (``infer``, ``ask``). A family's requests go through the router. Those for other models, the single widths of
a family included, are passed on byte for byte to a server that has the model. What changes or reaches into a server is
closed, see ``administration``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Generator
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from orchestrator.config import RetrySettings
from orchestrator.errors import (
    ConfigError,
    ServerUnavailableError,
    SlimError,
)
from orchestrator.gateway.administration import (
    Unary,
    closed_call,
    settings_call,
    shared_memory_status,
    shared_memory_unregister,
)
from orchestrator.gateway.auth.callers import Caller, Guard, Ticket, UnauthenticatedError
from orchestrator.gateway.fleet_statistics import FleetStatistics, LocalFleetStatistics
from orchestrator.gateway.inference import FamilyInference
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.metrics.outcomes import outcome_of
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.passthrough import Passthrough
from orchestrator.gateway.ports import InferenceRouter
from orchestrator.gateway.protocol.family import VERSION, FamilyModel, check_version, merge_config, require_version
from orchestrator.gateway.protocol.messages import Message, parse, pb
from orchestrator.gateway.protocol.wire import Address, MalformedMessageError, check_shapes, read_address
from orchestrator.http2.grpc.unary_call import Answerer
from orchestrator.http2.grpc.wire import Metadata

log = logging.getLogger(__name__)

SERVER_NAME = "slim-scheduler"
EXTENSIONS = (
    "classification",
    "sequence",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)
"""Those of Triton's that are honoured here; the others are closed."""
_OF_A_MODEL = frozenset({"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"})
_LISTS: dict[str, tuple[Any, str]] = {
    "RepositoryIndex": (pb.RepositoryIndexResponse, "models"),
    "ModelStatistics": (pb.ModelStatisticsResponse, "model_stats"),
}
"""Answers that list models, and in which field."""


class DataPlane:
    """Answers calls of KServe's service.

    Args:
        router: for the families.
        model_index: of what the servers serve; the caller refreshes it.
        metrics: to count in.
        fleet_statistics: answers for the whole fleet; None: this process does.
        is_served_elsewhere: whether the gateway's other processes can answer a family; None: there are none.
        guard: that says who may call; None lets everybody do everything.
        retries: of calls that are passed on; None: the default.
        pass_on_timeout_s: that one may take; None: any time.

    Attributes:
        passthrough: asks servers for models of no family.
        is_draining: whether requests are answered that have come, and no more taken.
    """

    def __init__(
        self,
        router: InferenceRouter,
        model_index: ModelIndex,
        metrics: GatewayMetrics,
        *,
        fleet_statistics: FleetStatistics | None = None,
        is_served_elsewhere: Callable[[str], bool] | None = None,
        guard: Guard | None = None,
        retries: RetrySettings | None = None,
        pass_on_timeout_s: float | None = None,
    ) -> None:
        self.passthrough = Passthrough(model_index, metrics, retries or RetrySettings(), timeout_s=pass_on_timeout_s)
        self.model_index = model_index
        self.metrics = metrics
        self.guard = guard or Guard()
        self.is_draining = False
        self._router = router
        self._fleet_statistics = fleet_statistics or LocalFleetStatistics(model_index, self.is_family_ready)
        self._is_served_elsewhere = is_served_elsewhere
        self._inference = FamilyInference(router, metrics, self.guard, self.require_open)
        self._methods: dict[str, Unary] = {
            "ServerLive": self._answer_live,
            "ServerReady": self._answer_ready,
            "ModelReady": self._answer_model_ready,
            "ServerMetadata": self._answer_metadata,
            "ModelMetadata": self._answer_model_metadata,
            "ModelConfig": self._answer_model_config,
            "ModelStatistics": self._answer_statistics,
            "RepositoryIndex": self._answer_index,
            "TraceSetting": settings_call("trace settings", pb.TraceSettingRequest, pb.TraceSettingResponse),
            "LogSettings": settings_call("log settings", pb.LogSettingsRequest, pb.LogSettingsResponse),
        }
        for kind in ("System", "Cuda"):
            self._methods[f"{kind}SharedMemoryStatus"] = shared_memory_status(kind)
            self._methods[f"{kind}SharedMemoryUnregister"] = shared_memory_unregister(kind)
            self._methods[f"{kind}SharedMemoryRegister"] = closed_call("registering shared memory")
        self._methods["RepositoryModelLoad"] = closed_call("loading models")
        self._methods["RepositoryModelUnload"] = closed_call("unloading models")

    @property
    def methods(self) -> tuple[str, ...]:
        """Names of the unary calls that are answered."""
        return ("ModelInfer", *self._methods)

    async def call(self, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the serialised answer to a serialised unary call.

        Raises:
            SlimError: for the transport to turn into a status.
        """
        if method != "ModelInfer":
            return await self._answer(method, message, self.identify(method, metadata))
        awaited = _AwaitedCall()
        if self.begin_infer(message, metadata, awaited):
            return await awaited
        caller = self.identify(method, metadata)
        model = read_address(message).model
        with self.admit(caller, model):
            return await self._pass_infer(model, message, caller)

    def begin_infer(self, message: bytes, metadata: Metadata, call: Answerer) -> bool:
        """Take an inference of a family, to be answered when the router does; return whether it is one.

        Raises:
            SlimError: why it is refused.
        """
        found = self._inference.find(message, self.model_index.families)
        family = found[0] if found else self.model_index.families.get(read_address(message).model)
        if family is None:
            return False
        caller = self.identify("ModelInfer", metadata)
        ticket = self.admit(caller, family.name)
        try:
            self._inference.begin(family, found[1] if found else message, caller, ticket, call)
        except BaseException:
            ticket.close()
            raise
        return True

    async def ask(self, method: str, request: Message, kind: Any, caller: Caller) -> Message:
        """Return the answer to a call that is no inference as a message of ``kind``; raises as ``call``."""
        return kind.FromString(await self._answer(method, request.SerializeToString(), caller))

    async def infer(self, request: Message, caller: Caller) -> Message:
        """Return the ModelInferResponse to a ModelInferRequest that was admitted; raises as ``call``."""
        family = self.model_index.families.get(request.model_name)
        if family is None:
            answer = await self._pass_infer(request.model_name, request.SerializeToString(), caller)
            return pb.ModelInferResponse.FromString(answer)
        return await self._inference.infer(family, request, caller)

    # --- who may ---

    def identify(self, method: str, metadata: Metadata) -> Caller:
        """Return who makes a call.

        Raises:
            UnauthenticatedError: when that can't be told and must be.
        """
        try:
            return self.guard.identify(method, metadata)
        except UnauthenticatedError:
            self.metrics.count_unauthenticated()
            raise

    def admit(self, caller: Caller, model: str) -> Ticket:
        """Return what holds an inference's place among those under way; to be closed when it is answered.

        Raises:
            ForbiddenError: The caller may not use the model.
            QuotaError: It has had its share.
        """
        try:
            return self.guard.admit(caller, model)
        except SlimError as exc:
            self.metrics.count(self._label(model), outcome_of(exc), tenant=caller.tenant)
            raise

    def _label(self, model: str) -> str:
        """Return a model's name for metrics, empty when nobody has it: a client must not make up series."""
        return model if self.model_index.is_known(model) else ""

    async def _answer(self, method: str, message: bytes, caller: Caller) -> bytes:
        sees_all = self.guard.sees_all(caller)
        if not sees_all and method in _OF_A_MODEL:
            model = read_address(message).model
            if model or method not in _LISTS:
                self.guard.require_model(caller, model)
        answer = await self._methods[method](message, caller)
        if not sees_all and method in _LISTS:
            return _keep(answer, *_LISTS[method], lambda model: self.guard.may_use(caller, model))
        return answer

    # --- health ---

    def is_ready(self) -> bool:
        """Return whether each expected family is answered by some server, and the gateway takes requests."""
        return not self.is_draining and all(self.is_family_ready(name) for name in self.model_index.families)

    def require_open(self) -> None:
        """Raise ServerUnavailableError when no more requests are taken."""
        if self.is_draining:
            raise ServerUnavailableError("the gateway is stopping; send it to another", executed=False)

    def is_family_ready(self, family: str) -> bool:
        """Return whether every process of the gateway can answer a family: a client may reach any of them."""
        elsewhere = self._is_served_elsewhere
        return self.serves(family) and (elsewhere is None or elsewhere(family))

    def serves(self, family: str) -> bool:
        """Return whether some server answers a width of a family, as this process sees it."""
        try:
            return any(self._router.served_by(family).values())
        except ConfigError:
            return False

    def is_model_ready(self, name: str, wanted_version: str = "") -> bool:
        """Return whether a model is answered by some server.

        Raises:
            ConfigError: when the version is no number.
        """
        check_version(wanted_version)
        if name in self.model_index.families:
            return wanted_version in ("", VERSION) and self.is_family_ready(name)
        try:
            return any(server.problem is None for server in self.model_index.find(Address(name, wanted_version)))
        except SlimError:
            return False

    async def _answer_live(self, message: bytes, caller: Caller) -> bytes:
        answer: bytes = pb.ServerLiveResponse(live=True).SerializeToString()
        return answer

    async def _answer_ready(self, message: bytes, caller: Caller) -> bytes:
        answer: bytes = pb.ServerReadyResponse(ready=self.is_ready()).SerializeToString()
        return answer

    async def _answer_model_ready(self, message: bytes, caller: Caller) -> bytes:
        request = parse(pb.ModelReadyRequest, message)
        ready = self.is_model_ready(request.name, request.version)
        answer: bytes = pb.ModelReadyResponse(ready=ready).SerializeToString()
        return answer

    # --- what there is ---

    async def _answer_metadata(self, message: bytes, caller: Caller) -> bytes:
        answer = pb.ServerMetadataResponse(name=SERVER_NAME, version=_package_version(), extensions=EXTENSIONS)
        serialised: bytes = answer.SerializeToString()
        return serialised

    async def _answer_model_metadata(self, message: bytes, caller: Caller) -> bytes:
        request = parse(pb.ModelMetadataRequest, message)
        family = self._family(request.name, request.version)
        if family is None:
            return await self._forward("ModelMetadata", message, caller.metadata)
        answer = await self._ask_a_width(family, "ModelMetadata", pb.ModelMetadataRequest, pb.ModelMetadataResponse)
        answer.name = family.name
        del answer.versions[:]
        answer.versions.append(VERSION)
        serialised: bytes = answer.SerializeToString()
        return serialised

    async def _answer_model_config(self, message: bytes, caller: Caller) -> bytes:
        request = parse(pb.ModelConfigRequest, message)
        family = self._family(request.name, request.version)
        if family is None:
            return await self._forward("ModelConfig", message, caller.metadata)
        answer = await self._ask_a_width(family, "ModelConfig", pb.ModelConfigRequest, pb.ModelConfigResponse)
        widths = self.model_index.widths(family.name)
        merge_config(answer.config, family, {width: model.accuracy for width, model in widths.items()})
        serialised: bytes = answer.SerializeToString()
        return serialised

    async def _ask_a_width(self, family: FamilyModel, method: str, request_kind: Any, answer_kind: Any) -> Message:
        """Return what a server says of one width of a family, the narrowest that it has."""
        for model in self.model_index.widths(family.name).values():
            try:
                asked = request_kind(name=model.name).SerializeToString()
                return parse(answer_kind, await self._forward(method, asked, ()))
            except (SlimError, MalformedMessageError) as exc:
                log.debug("%s of %s: %s", method, model.name, exc)
        raise ServerUnavailableError(f"no server that answers has a width of family '{family.name}'", executed=False)

    async def _answer_index(self, message: bytes, caller: Caller) -> bytes:
        return await self._fleet_statistics.index(message)

    async def _answer_statistics(self, message: bytes, caller: Caller) -> bytes:
        return await self._fleet_statistics.statistics(message)

    # --- inference ---

    async def _pass_infer(self, name: str, message: bytes, caller: Caller) -> bytes:
        """Return what a server answers to an inference of a model that is no family."""
        self.metrics.begin()
        began_s = time.perf_counter()
        outcome, server = "ok", ""
        try:
            self.require_open()
            self.guard.charge_items(caller, 1)
            check_shapes(message)
            answer, server = await self.passthrough.ask("ModelInfer", message, caller.metadata)
            return answer
        except BaseException as exc:
            outcome = outcome_of(exc)
            raise
        finally:
            self.metrics.end()
            self.metrics.time(
                name if outcome == "ok" else self._label(name),
                outcome,
                tenant=caller.tenant,
                server=server,
                latency_s=time.perf_counter() - began_s,
                queue_s=None,
            )

    def _family(self, name: str, wanted_version: str) -> FamilyModel | None:
        """Return a family by name, None when it is another model.

        Raises:
            ConfigError: when the version is no number.
            ModelNotFoundError: when the family has no such version.
        """
        check_version(wanted_version)
        family = self.model_index.families.get(name)
        if family is not None:
            require_version(family, wanted_version)
        return family

    async def _forward(self, method: str, message: bytes, metadata: Metadata) -> bytes:
        """Return what a server that has the model answers."""
        return (await self.passthrough.ask(method, message, metadata))[0]

    async def infer_streamed(self, family: FamilyModel, message: bytes, caller: Caller) -> bytes:
        """Return the ModelStreamInferResponse to one request of a stream; expected errors are inside it."""
        response = pb.ModelStreamInferResponse()
        try:
            with self.admit(caller, family.name):
                request = parse(pb.ModelInferRequest, message)
                response.infer_response.CopyFrom(await self._inference.infer(family, request, caller))
                response.infer_response.parameters["triton_final_response"].bool_param = True
        except MalformedMessageError:
            raise
        except SlimError as exc:
            response.error_message = str(exc)
            response.infer_response.id = parse(pb.ModelInferRequest, message).id
        serialised: bytes = response.SerializeToString()
        return serialised


class _AwaitedCall:
    """An inference whose answer is awaited."""

    def __init__(self) -> None:
        self.on_abort: Callable[[], None] | None = None
        self._future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def answer(self, message: bytes) -> None:
        """See Answerer."""
        if not self._future.done():
            self._future.set_result(message)

    def refuse(self, error: Exception) -> None:
        """See Answerer."""
        if not self._future.done():
            self._future.set_exception(error)

    def __await__(self) -> Generator[Any, None, bytes]:
        try:
            return (yield from self._future)
        except asyncio.CancelledError:
            if self.on_abort is not None:
                self.on_abort()
            raise


def _keep(answer: bytes, kind: Any, field: str, is_kept: Callable[[str], bool]) -> bytes:
    """Return a serialised list of models without those that are not to be seen."""
    message = kind.FromString(answer)
    models = getattr(message, field)
    kept = [model for model in models if is_kept(model.name)]
    del models[:]
    models.extend(kept)
    serialised: bytes = message.SerializeToString()
    return serialised


def _package_version() -> str:
    try:
        return version("slim-scheduler")
    except PackageNotFoundError:  # run from a checkout that was never installed
        return "unknown"
