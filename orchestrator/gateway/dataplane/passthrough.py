"""Calls for models of no family, which are passed through: to which server, then to which other one, and for how long.

A model of somebody else's may keep state, so a call goes to another server only when the first one certainly did not
run it; one that may have run is never repeated, which leaves nothing to be done when a server is silent. So an attempt
has no time of its own: the call has one, its model's, after which it fails for its caller. The call itself goes on,
because a cancel can crash Triton 2.51, and keeps its place among those of its model (``call_budget``).

A model's process may die by a request. What was under way then is not sent again, or one request could kill the model
on every server; the model is asked elsewhere for some seconds, and what meets it dead after that was surely not run.

Servers that are as busy take turns, or a client that asks one thing after another would always meet the same.

``classification`` of an output that holds no numbers divides by zero in Triton 2.51, which ends it and everything that
it was answering. So a server is asked what it declares before it gets such a request, at most every few seconds.

Decoupled models answer any number of times, so they are asked over a stream. Where one answer is wanted of them, it
must be the only one.

What is asked again draws on a budget as the router's retries do, by the same settings, so that servers that refuse all
are not asked twice as much as servers that don't.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Final

from orchestrator.config import RetrySettings
from orchestrator.errors import DeadlineError
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.limits.call_budget import CallBudget
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.ports import Server
from orchestrator.gateway.protocol.family import check_version
from orchestrator.gateway.protocol.messages import Message, pb, serialise
from orchestrator.gateway.protocol.tensors import require_scores
from orchestrator.gateway.protocol.wire import Address, read_address
from orchestrator.http2.flow import Buffer
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.router import RetryBudget
from orchestrator.snapshot import ServerName
from orchestrator.triton.discovery import ServerModels
from orchestrator.triton.errors import RefusedCallError
from orchestrator.triton.messages import parse_answer

log = logging.getLogger(__name__)

STREAM_METHOD: Final = "ModelStreamInfer"
_NOT_ONE_ANSWER: Final = (
    "generate expects model to produce exactly 1 response, use generate stream for model that generates various number "
    "of responses"
)
_DEAD_S: Final = 2.0
"""For somebody to load a model that has died again."""
_DECLARED_S: Final = 2.0
"""As long as a model that is loaded anew may take to be noticed anyway."""
_TURN: Final = (5**0.5 - 1) / 2
"""Steps of the golden ratio, modulo 1, spread evenly; so do those of every second call, or every third."""

OnSent = Callable[[ServerName], object]


def _ignore(server: ServerName) -> None:
    """Take no notice."""


class Passthrough:
    """Asks servers for models of no family, inferences within the budget ``calls``. ``retries`` may change."""

    def __init__(
        self, model_index: ModelIndex, metrics: GatewayMetrics, retries: RetrySettings, calls: CallBudget
    ) -> None:
        self._model_index = model_index
        self._metrics = metrics
        self.retries = retries
        self.calls = calls
        self._budget = RetryBudget(float(retries.minimum), 0.0)
        self._died_s: dict[tuple[ServerName, str], float] = {}
        self._declared: dict[tuple[ServerName, str, str], tuple[float, Mapping[str, str]]] = {}
        self._turn = 0.0

    async def ask(
        self,
        method: str,
        message: bytes,
        metadata: Metadata,
        *,
        rest: Sequence[Buffer] = (),
        classified: Collection[str] = (),
        on_sent: OnSent = _ignore,
    ) -> tuple[bytes, ServerName]:
        """Return what a server answers to a serialised call, and which.

        ``rest`` are further parts of the message, ``classified`` outputs that are wanted as classes; ``on_sent`` is
        told each server that is asked, the one that fails too.

        Raises:
            RefusedCallError: with the server's status.
            DeadlineError: when there was no answer in time.
            CapacityError: when too many calls of the model are under way.
            ConfigError: when an output that is wanted as classes holds no numbers.
            SlimError: when no server has the model.
        """
        address = read_address(message)
        async with self._limited(address):
            return await self._ask(address, classified, method, message, metadata, rest, on_sent)

    async def ask_decoupled(self, message: bytes, metadata: Metadata, *, on_sent: OnSent = _ignore) -> bytes:
        """Return the one answer of a decoupled model to a serialised inference; ``on_sent`` as of ``ask``.

        Raises:
            RefusedCallError: when there is an error or another number of answers instead.
            DeadlineError, SlimError: as ``ask``.
        """
        address = read_address(message)
        answers: list[Message] = []
        async with self._limited(address):
            server = await self._find(address)
            on_sent(server.name)
            async with aclosing(self._stream(server, address.model, message, metadata)) as streamed:
                async for answer in streamed:
                    answers.append(answer)
                    if len(answers) > 1:
                        break
        if len(answers) != 1:
            raise RefusedCallError("INTERNAL", _NOT_ONE_ANSWER)
        if answers[0].error_message:
            raise RefusedCallError("UNKNOWN", answers[0].error_message)  # a stream tells no status
        return serialise(answers[0].infer_response)

    async def stream(self, message: bytes, metadata: Metadata) -> AsyncGenerator[Message]:
        """Return the ModelStreamInferResponses of a server to a serialised inference; errors of models are inside them.

        Raises as ``ask``, but for the deadline.
        """
        address = read_address(message)
        return self._stream(await self._find(address), address.model, message, metadata)

    async def _stream(
        self, server: ServerModels[Server], model: str, message: bytes, metadata: Metadata
    ) -> AsyncGenerator[Message]:
        give_back = self.calls.take(model)
        stream = server.server.open_stream(STREAM_METHOD, metadata)
        try:
            await stream.send(message)
            await stream.finish()
            async for answer in stream.answers():
                yield parse_answer(pb.ModelStreamInferResponse, answer)
        finally:
            stream.abandon()
            stream.when_ended(give_back)  # the server has it until then

    async def _find(self, address: Address) -> ServerModels[Server]:
        check_version(address.version)
        return (await self._model_index.wait_for(address))[0]

    async def require_scores(self, server: ServerModels[Server], address: Address, outputs: Collection[str]) -> None:
        """Refuse outputs to be wanted as classes of a server whose model declares that they hold no numbers.

        Raises as ``ask``.
        """
        async with self._limited(address):
            await self._require_scores(server, address, outputs)

    @asynccontextmanager
    async def _limited(self, address: Address) -> AsyncIterator[None]:
        timeout_s, limit = self.calls.time_limit(address.model)
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError:
            raise DeadlineError(f"no answer for model '{address.model}' within {limit}; it may still run") from None

    async def _require_scores(self, server: ServerModels[Server], address: Address, outputs: Collection[str]) -> None:
        if not outputs:
            return
        key, now_s = (server.name, address.model, address.version), asyncio.get_running_loop().time()
        asked_s, declared = self._declared.get(key, (-math.inf, {}))
        if now_s >= asked_s + _DECLARED_S:
            query = serialise(pb.ModelMetadataRequest(name=address.model, version=address.version))
            answer = await server.server.call("ModelMetadata", query)
            found = parse_answer(pb.ModelMetadataResponse, answer).outputs
            declared = {output.name: output.datatype for output in found}
            self._declared = {k: kept for k, kept in self._declared.items() if now_s < kept[0] + _DECLARED_S}
            self._declared[key] = now_s, declared
        for name in outputs:
            if name in declared:  # else the server refuses it by itself
                require_scores(declared[name])

    async def _ask(
        self,
        address: Address,
        classified: Collection[str],
        method: str,
        message: bytes,
        metadata: Metadata,
        rest: Sequence[Buffer],
        on_sent: OnSent,
    ) -> tuple[bytes, ServerName]:
        check_version(address.version)
        now_s = asyncio.get_running_loop().time
        servers = await self._model_index.wait_for(address)
        if len(servers) > 1 and not address.sequence:
            first = int(self._turn * len(servers))
            self._turn = (self._turn + _TURN) % 1
            servers = servers[first:] + servers[:first]
            servers.sort(key=lambda server: server.server.in_flight)
        servers.sort(key=lambda server: now_s() < self._died_s.get((server.name, address.model), -math.inf) + _DEAD_S)
        for server in servers:
            at = server.name, address.model
            was_dead = at in self._died_s
            try:
                await self._require_scores(server, address, classified)
                on_sent(server.name)
                answer = await self._call(server.server, address.model, method, message, metadata, rest)
            except RefusedCallError as exc:
                if exc.is_gone:
                    server.note_problem(str(exc))
                if exc.has_died:
                    self._died_s[at] = now_s()
                has_run = exc.executed and not (exc.has_died and was_dead)
                if has_run or server is servers[-1] or not self._may_ask_again():
                    raise
                # Counted by metrics; whoever calls can bring it about each time, so it fills no log.
                log.debug("%s of %s was not run by %s: %s", method, address.model, server.name, exc)
                self._metrics.router.on_retry(server.name)
                continue
            self._died_s.pop(at, None)
            self._budget = self._budget.answered(1, self.retries)
            return answer, server.name
        raise AssertionError("find returns at least one server, and the last one's refusal is raised")

    async def _call(
        self, server: Server, model: str, method: str, message: bytes, metadata: Metadata, rest: Sequence[Buffer]
    ) -> bytes:
        """Return a server's answer; an inference has its place until it is there, whoever still waits."""
        if method != "ModelInfer":
            return await server.call(method, message, metadata, rest=rest)
        give_back = self.calls.take(model)
        call = asyncio.ensure_future(server.call(method, message, metadata, rest=rest))
        call.add_done_callback(lambda _: give_back())
        return await asyncio.shield(call)

    def _may_ask_again(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        spent = self._budget.refilled(self.retries, now_s=now_s).spent()
        if spent is None:
            return False
        self._budget = spent
        return True
