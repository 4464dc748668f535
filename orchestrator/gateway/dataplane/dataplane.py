"""What the gateway answers, whatever the transport: the table of the methods of KServe's service.

Both transports use it: gRPC hands over serialised calls as they come (``call``), HTTP builds the same messages
(``query``, and ``inference.infer``). A family's requests go through the router. Those for other models, the single
widths of a family included, are passed through byte for byte to a server that has the model.

Calls that change or reach into a server are closed, and answered so that no client stumbles. Loading and unloading
belong to the controllers. Shared memory works on one host only, and its "unregister all" would hit every client's
regions. Log and trace settings are the server operator's. Closed calls get PERMISSION_DENIED, over HTTP 403 as from a
Triton with a restricted API: UNIMPLEMENTED would say that nobody can do it, and UNAVAILABLE, which Triton's own
restriction over gRPC uses, makes KServe's client retry. Reading those settings gives an empty list, and unregistering
*all* shared memory succeeds without a call to a server, because nothing is ever registered here; ``perf_analyzer`` does
that first and last.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

from orchestrator.config import GatewaySettings, RetrySettings
from orchestrator.errors import ConfigError, ModelNotFoundError
from orchestrator.gateway.auth.callers import Caller, ForbiddenError, Guard, UnauthenticatedError
from orchestrator.gateway.dataplane.fleet_statistics import FleetStatistics
from orchestrator.gateway.dataplane.health import GatewayHealth
from orchestrator.gateway.dataplane.inference import Inference
from orchestrator.gateway.dataplane.metadata import MetadataAnswers
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.dataplane.passthrough import Passthrough
from orchestrator.gateway.limits.call_budget import CallBudget
from orchestrator.gateway.limits.fair_turns import FairTurns
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.ports import Team, UnaryMethod
from orchestrator.gateway.protocol.messages import Message, build_answer, parse_request, pb, serialise
from orchestrator.gateway.protocol.wire import read_address
from orchestrator.gateway.tracing import Tracing
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.router import Router

_QUERY_BYTES = 2**16
"""Most bytes of a request that is no inference; it holds little more than a name."""
_OF_A_MODEL = frozenset({"ModelReady", "ModelMetadata", "ModelConfig", "ModelStatistics"})
_QUERIES = frozenset({"ServerMetadata", "ModelMetadata", "ModelConfig", "ModelStatistics", "RepositoryIndex"})
"""Methods that count as requests of a tenant, because they cost servers and this process about as much."""
_OF_ANY_SIZE = frozenset({"ModelInfer", "RepositoryModelLoad"})
"""Methods whose requests may bring much; that loading is closed is what its caller has to know, and not a size."""
_LISTS = {"RepositoryIndex": "models", "ModelStatistics": "model_stats"}
"""Methods whose answers list models, and in which field."""


class DataPlane:
    """Answers calls of KServe's service.

    Args:
        router: The router for the families.
        model_index: What the servers serve.
        metrics: Where calls are counted.
        team: The gateway's other processes; None when there are none.
        guard: What says who may call; None lets everybody do everything.
        retries: How often calls may be passed through again; None for the default.
        calls: The bounds of calls that are passed through; None for the default.
        access_log: Whether to write a line about each inference that ends.
        tracing: What sends spans of families' requests; None: nothing does.

    Attributes:
        health: Whether the gateway and its models can answer.
        fleet_statistics: What keeps the fleet's statistics; None when another process does.
        methods: The unary calls that are answered, by name.
    """

    def __init__(
        self,
        router: Router,
        model_index: ModelIndex,
        metrics: GatewayMetrics,
        *,
        team: Team | None = None,
        guard: Guard | None = None,
        retries: RetrySettings | None = None,
        calls: CallBudget | None = None,
        access_log: bool = False,
        tracing: Tracing | None = None,
    ) -> None:
        self.model_index = model_index
        self.metrics = metrics
        self.guard = guard or Guard()
        self._query_turns: defaultdict[str | None, FairTurns] = defaultdict(FairTurns)
        self.health = GatewayHealth(router, model_index, None if team is None else team.is_served)
        calls = calls or CallBudget(GatewaySettings())
        self.passthrough = Passthrough(model_index, metrics, retries or RetrySettings(), calls)
        self.inference = Inference(
            router, model_index, metrics, self.guard, self.passthrough, access_log=access_log, tracing=tracing
        )
        self.metadata = MetadataAnswers(model_index, self.passthrough)
        statistics = FleetStatistics(model_index, self.health.serves)
        self.fleet_statistics = statistics if team is None else None
        query_fleet = statistics.answer if team is None else team.query_fleet
        self.methods: dict[str, UnaryMethod] = {
            "ServerLive": self.health.answer_live,
            "ServerReady": self.health.answer_ready,
            "ModelReady": self.health.answer_model_ready,
            "ServerMetadata": self.metadata.answer_server,
            "ModelMetadata": partial(self.metadata.answer, "ModelMetadata"),
            "ModelConfig": partial(self.metadata.answer, "ModelConfig"),
            "ModelStatistics": lambda message, caller: query_fleet("ModelStatistics", message),
            "RepositoryIndex": lambda message, caller: query_fleet("RepositoryIndex", message),
            "ModelInfer": self.inference.call,
            **_ADMINISTRATION,
        }

    def identify(self, method: str, metadata: Metadata, address: str) -> Caller:
        """Return who makes a call, for its transport once a call; raises UnauthenticatedError, which is counted."""
        try:
            return self.guard.identify(method, metadata, address)
        except UnauthenticatedError:
            self.metrics.count_unauthenticated()
            raise

    async def call(self, method: str, message: bytes, caller: Caller) -> bytes:
        """Return the serialised answer to a serialised unary call; raises SlimError, for the transport's status."""
        if len(message) > _QUERY_BYTES and method not in _OF_ANY_SIZE:
            raise ConfigError(f"the request has {len(message)} bytes; {method} takes at most {_QUERY_BYTES}")
        sees_all = self.guard.sees_all(caller)
        if not sees_all and method in _OF_A_MODEL:
            model = read_address(message).model
            if model or method not in _LISTS:
                self.guard.require_model(caller, model)
        if method in _QUERIES:
            with self.guard.admit(caller, None):
                async with self._query_turns[caller.tenant].turn(caller.address):
                    answer = await self.methods[method](message, caller)
        else:
            answer = await self.methods[method](message, caller)
        if not sees_all and method in _LISTS:
            return _keep(method, answer, lambda model: self.guard.may_use(caller, model))
        return answer

    async def query(self, method: str, caller: Caller, **fields: Any) -> Message:
        """Return the answer to a call that is no inference, given the fields of its request; raises as ``call``."""
        message = serialise(getattr(pb, f"{method}Request")(**fields))
        return getattr(pb, f"{method}Response").FromString(await self.call(method, message, caller))


def _keep(method: str, answer: bytes, is_kept: Callable[[str], bool]) -> bytes:
    """Return a serialised list of models without those that are not to be seen."""
    message = getattr(pb, f"{method}Response").FromString(answer)
    models = getattr(message, _LISTS[method])
    kept = [model for model in models if is_kept(model.name)]
    del models[:]
    models.extend(kept)
    return serialise(message)


def _closed_call(method: str, what: str, *, but_without: str | None = None) -> UnaryMethod:
    """Return the answer to a call that is not let through; to one without the field ``but_without`` an empty answer."""

    async def answer(message: bytes, caller: Caller) -> bytes:
        if but_without is None or getattr(parse_request(method, message), but_without):
            raise ForbiddenError(f"{what} through the gateway is closed; see docs/gateway.md")
        return build_answer(method)

    return answer


def _shared_memory(kind: str) -> dict[str, UnaryMethod]:
    """Return the answers to the calls for one kind of shared memory."""
    status, register, unregister = (f"{kind}SharedMemory{what}" for what in ("Status", "Register", "Unregister"))

    async def answer_status(message: bytes, caller: Caller) -> bytes:
        if name := parse_request(status, message).name:
            raise ModelNotFoundError(f"Unable to find {kind.lower()} shared memory region: '{name}'")
        return build_answer(status)

    return {
        status: answer_status,
        register: _closed_call(register, "registering shared memory"),
        unregister: _closed_call(unregister, "unregistering shared memory by name", but_without="name"),
    }


_ADMINISTRATION: dict[str, UnaryMethod] = {
    "TraceSetting": _closed_call("TraceSetting", "changing trace settings", but_without="settings"),
    "LogSettings": _closed_call("LogSettings", "changing log settings", but_without="settings"),
    **_shared_memory("System"),
    **_shared_memory("Cuda"),
    "RepositoryModelLoad": _closed_call("RepositoryModelLoad", "loading models"),
    "RepositoryModelUnload": _closed_call("RepositoryModelUnload", "unloading models"),
}
"""The calls that are closed, by name."""
