"""Calls for models of no family, which are passed through: to which server, then to which other one, and for how long.

A model of somebody else's may keep state, so a call goes to another server only when the first one certainly did not
run it; one that may have run is never repeated, which leaves nothing to be done when a server is silent. So an attempt
has no time of its own: the call has one, ``gateway.pass_on_timeout_s``, after which it fails for its caller. The call
itself goes on, because a cancel can crash Triton 2.51.

A model's process may die by a request. What was under way then is not sent again, or one request could kill the model
on every server; the model is asked elsewhere for some seconds, and what meets it dead after that was surely not run.

Servers that are as busy take turns, or a client that asks one thing after another would always meet the same.

What is asked again draws on a budget as the router's retries do, by the same settings, so that servers that refuse all
are not asked twice as much as servers that don't.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from typing import Final

from orchestrator.config import RetrySettings
from orchestrator.errors import DeadlineError
from orchestrator.gateway.metrics.gateway_metrics import GatewayMetrics
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.protocol.family import check_version
from orchestrator.gateway.protocol.wire import Buffer, read_address
from orchestrator.http2.grpc.wire import Metadata
from orchestrator.router import RetryBudget
from orchestrator.snapshot import ServerName
from orchestrator.triton.errors import RefusedCallError

log = logging.getLogger(__name__)

_DEAD_S: Final = 2.0
"""For somebody to load a model that has died again."""
_TURN: Final = (5**0.5 - 1) / 2
"""Steps of the golden ratio, modulo 1, spread evenly; so do those of every second call, or every third."""


class Passthrough:
    """Asks servers for models of no family; ``timeout_s`` for an answer, None for any time. ``retries`` may change."""

    def __init__(
        self, model_index: ModelIndex, metrics: GatewayMetrics, retries: RetrySettings, *, timeout_s: float | None
    ) -> None:
        self._model_index = model_index
        self._metrics = metrics
        self.retries = retries
        self._timeout_s = timeout_s
        self._budget = RetryBudget(float(retries.minimum), 0.0)
        self._died_s: dict[tuple[ServerName, str], float] = {}
        self._turn = 0.0

    async def ask(
        self, method: str, message: bytes, metadata: Metadata, *, rest: Sequence[Buffer] = ()
    ) -> tuple[bytes, ServerName]:
        """Return what a server answers to a serialised call, and which; ``rest`` are further parts of the message.

        Raises:
            RefusedCallError: with the server's status.
            DeadlineError: when there was no answer in time.
            SlimError: when no server has the model.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._ask(method, message, metadata, rest)
        except TimeoutError:
            limit = f"gateway.pass_on_timeout_s = {self._timeout_s:g}"
            model = read_address(message).model
            raise DeadlineError(f"no answer for model '{model}' within {limit}; it may still run") from None

    async def _ask(
        self, method: str, message: bytes, metadata: Metadata, rest: Sequence[Buffer]
    ) -> tuple[bytes, ServerName]:
        address = read_address(message)
        check_version(address.version)
        now_s = asyncio.get_running_loop().time
        servers = self._model_index.find(address)
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
                answer = await server.server.call(method, message, metadata, rest=rest)
            except RefusedCallError as exc:
                if exc.is_gone:
                    server.note_problem(str(exc))
                if exc.has_died:
                    self._died_s[at] = now_s()
                has_run = exc.executed and not (exc.has_died and was_dead)
                if has_run or server is servers[-1] or not self._may_ask_again():
                    raise
                log.info("%s of %s was not run by %s: %s", method, address.model, server.name, exc)
                self._metrics.router.on_retry(server.name)
                continue
            self._died_s.pop(at, None)
            self._budget = self._budget.answered(1, self.retries)
            return answer, server.name
        raise AssertionError("find returns at least one server, and the last one's refusal is raised")

    def _may_ask_again(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        spent = self._budget.refilled(self.retries, now_s=now_s).spent()
        if spent is None:
            return False
        self._budget = spent
        return True
