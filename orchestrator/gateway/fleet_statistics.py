"""What the fleet lists and has counted, the same to every client.

Two workers that each kept statistics of their own would answer one client's two connections with two sums, the second
perhaps the smaller one: what a server had counted before a reload is known only to the process that has read it then.
So there is one keeper. With one process it is in there; with several it is their supervisor, and they ask it
(``RemoteFleetStatistics``).
"""

from __future__ import annotations

import asyncio
import logging
from base64 import b64decode, b64encode
from collections.abc import Callable
from weakref import WeakKeyDictionary

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.model_index import ModelIndex
from orchestrator.gateway.ports import FleetStatistics, Server
from orchestrator.gateway.protocol.family import VERSION, check_version
from orchestrator.gateway.protocol.messages import parse, pb
from orchestrator.gateway.statistics import MonotonicStatistics
from orchestrator.gateway.workers.channel import Answers, Channel
from orchestrator.triton.client import READY
from orchestrator.triton.discovery import ServerModels
from orchestrator.triton.errors import RefusedCallError

log = logging.getLogger(__name__)

_ASK_S = 10.0
"""How long the supervisor may take, which asks the servers for their statistics."""


class LocalFleetStatistics:
    """The one that reads the servers.

    Args:
        model_index: what the servers serve.
        is_served: whether a family is answered by some server.
    """

    def __init__(self, model_index: ModelIndex, is_served: Callable[[str], bool]) -> None:
        self._model_index = model_index
        self._is_served = is_served
        self._statistics = MonotonicStatistics()
        self._locks: WeakKeyDictionary[ServerModels[Server], asyncio.Lock] = WeakKeyDictionary()

    async def observe(self) -> None:
        """Read the statistics of every server that answers; never raises."""
        await asyncio.gather(*(self._read(server) for server in self._model_index.servers if server.problem is None))

    async def watch(self, period_s: float) -> None:
        """Read them for ever."""
        while True:
            await self.observe()
            await asyncio.sleep(period_s)

    async def _read(self, server: ServerModels[Server]) -> None:
        try:
            # One reading at a time: two that overtook each other would look like a reload.
            async with self._locks.setdefault(server, asyncio.Lock()):
                answer = await server.server.call("ModelStatistics", pb.ModelStatisticsRequest().SerializeToString())
                self._statistics.observe(server.name, parse(pb.ModelStatisticsResponse, answer).model_stats)
        except SlimError as exc:
            log.debug("statistics of %s: %s", server.name, exc)

    async def statistics(self, message: bytes) -> bytes:
        """Return the sums over all servers."""
        request = parse(pb.ModelStatisticsRequest, message)
        check_version(request.version)
        await self.observe()
        answer = pb.ModelStatisticsResponse()
        families = self._model_index.families
        for name in families if not request.name else {request.name} & families.keys():
            if request.version in ("", VERSION):
                found = (model for server in self._model_index.servers for model in server.widths.values())
                widths = {str(model.name) for model in found if model.family == name}
                answer.model_stats.append(self._statistics.total(name, VERSION, _one_of(widths)))
        if request.name not in families:
            for model, of_version in sorted(self._statistics.known()):
                is_wanted = model == request.name or (not request.name and not self._model_index.is_width(model))
                if is_wanted and request.version in ("", of_version):
                    wanted = _exactly(model, of_version)
                    answer.model_stats.append(self._statistics.total(model, of_version, wanted))
        if request.name and not answer.model_stats:
            raise ConfigError(f"requested model '{request.name}' is not available")
        serialised: bytes = answer.SerializeToString()
        return serialised

    async def index(self, message: bytes) -> bytes:
        """Return every family once, and the other models of all servers."""
        request = parse(pb.RepositoryIndexRequest, message)
        if request.repository_name:
            raise RefusedCallError("UNIMPLEMENTED", "'repository_name' specification is not supported")
        answer = pb.RepositoryIndexResponse()
        families = self._model_index.families
        for name in families:
            is_ready = self._is_served(name)
            if is_ready or not request.ready:
                reason = "" if is_ready else "no width is answered by any server"
                answer.models.add(name=name, version=VERSION, state=READY if is_ready else "UNAVAILABLE", reason=reason)
        for entry in self._model_index.merged_entries(families):
            if entry.state == READY or not request.ready:
                answer.models.add(name=entry.name, version=entry.version, state=entry.state, reason=entry.reason)
        serialised: bytes = answer.SerializeToString()
        return serialised


class RemoteFleetStatistics:
    """The one of a worker: it asks the supervisor."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    async def statistics(self, message: bytes) -> bytes:
        """Return what the supervisor says."""
        parse(pb.ModelStatisticsRequest, message)  # bytes that are none are refused here, where they came from
        return await self._ask("statistics", message)

    async def index(self, message: bytes) -> bytes:
        """Return what the supervisor says."""
        parse(pb.RepositoryIndexRequest, message)
        return await self._ask("index", message)

    async def _ask(self, what: str, message: bytes) -> bytes:
        return b64decode(await self._channel.ask(what, b64encode(message).decode(), timeout_s=_ASK_S))


def answers_to_workers(fleet_statistics: FleetStatistics) -> Answers:
    """Return what a supervisor answers a ``RemoteFleetStatistics`` by, for its channel."""

    async def statistics(body: str) -> str:
        return b64encode(await fleet_statistics.statistics(b64decode(body))).decode()

    async def index(body: str) -> str:
        return b64encode(await fleet_statistics.index(b64decode(body))).decode()

    return {"statistics": statistics, "index": index}


def _exactly(model: str, of_version: str) -> Callable[[str, str], bool]:
    return lambda name, number: (name, number) == (model, of_version)


def _one_of(models: set[str]) -> Callable[[str, str], bool]:
    return lambda name, number: name in models
