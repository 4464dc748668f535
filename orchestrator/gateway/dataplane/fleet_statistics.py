"""What the fleet lists and has counted, the same to every client.

Two workers that each kept statistics of their own would answer one client's two connections with two sums, the second
perhaps the smaller one: what a server had counted before a reload is known only to the process that has read it then.
So there is one keeper. With one process it is in there; with several it is their supervisor, and they query it.

A server's counters go back to zero with each full reload of a model and vanish with an unload. So for every (server,
model, version) what was counted before is kept, and a reading below the last one is taken for a new start. What a
server counts between the last reading and a reload is lost; the gateway therefore reads every now and then, whether
anybody asks or not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from weakref import WeakKeyDictionary

from orchestrator.errors import ConfigError, SlimError
from orchestrator.gateway.dataplane.model_index import ModelIndex
from orchestrator.gateway.ports import Server
from orchestrator.gateway.protocol.family import VERSION, check_version
from orchestrator.gateway.protocol.messages import Message, parse, parse_request, pb, serialise
from orchestrator.snapshot import ServerName
from orchestrator.triton.client import READY
from orchestrator.triton.discovery import ServerModels
from orchestrator.triton.errors import RefusedCallError

log = logging.getLogger(__name__)

_LONGEST_READ_S = 2.0
"""A server that hangs is left out of an answer after that, with what it had counted before; usual are milliseconds."""

_Key = tuple[ServerName, str, str]


class FleetStatistics:
    """Answers to ModelStatistics and RepositoryIndex for the whole fleet."""

    def __init__(self, model_index: ModelIndex, is_served: Callable[[str], bool]) -> None:
        self._model_index = model_index
        self._is_served = is_served
        self._statistics = MonotonicStatistics()
        self._locks: WeakKeyDictionary[ServerModels[Server], asyncio.Lock] = WeakKeyDictionary()

    async def watch(self, period_s: float) -> None:
        """Read the statistics of every server that answers, for ever."""
        while True:
            await self._observe()
            await asyncio.sleep(period_s)

    async def _observe(self) -> None:
        await asyncio.gather(*(self._read(server) for server in self._model_index.servers if server.problem is None))

    async def _read(self, server: ServerModels[Server]) -> None:
        try:
            # One reading at a time: two that overtook each other would look like a reload.
            async with asyncio.timeout(_LONGEST_READ_S), self._locks.setdefault(server, asyncio.Lock()):
                answer = await server.server.call("ModelStatistics", serialise(pb.ModelStatisticsRequest()))
                self._statistics.observe(server.name, parse(pb.ModelStatisticsResponse, answer).model_stats)
        except (SlimError, TimeoutError) as exc:
            log.debug("statistics of %s: %s", server.name, str(exc) or "no answer")

    async def answer(self, method: str, message: bytes) -> bytes:
        """Return the serialised answer to a serialised call; raises SlimError."""
        request = parse_request(method, message)
        return serialise(await self._sum(request) if method == "ModelStatistics" else self._list(request))

    async def _sum(self, request: Message) -> Message:
        """Return the sums over all servers."""
        check_version(request.version)
        await self._observe()
        answer = pb.ModelStatisticsResponse()
        families = self._model_index.families
        for name in families if not request.name else {request.name} & families.keys():
            if request.version in ("", VERSION):
                found = (model for server in self._model_index.servers for model in server.widths.values())
                widths = {str(model.name) for model in found if model.family == name}
                wanted = {(model, version) for model, version in self._statistics.known() if model in widths}
                answer.model_stats.append(self._statistics.total(name, VERSION, wanted))
        if request.name not in families:
            for model, version in sorted(self._statistics.known()):
                is_wanted = model == request.name or (not request.name and not self._model_index.is_width(model))
                if is_wanted and request.version in ("", version):
                    answer.model_stats.append(self._statistics.total(model, version, {(model, version)}))
        if request.name and not answer.model_stats:
            if request.name in families or any(model == request.name for model, _ in self._statistics.known()):
                raise ConfigError(f"requested model version is not available for model '{request.name}'")
            raise ConfigError(f"requested model '{request.name}' is not available")
        return answer

    def _list(self, request: Message) -> Message:
        """Return every family once, and the other models of all servers."""
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
        return answer


class MonotonicStatistics:
    """What all servers have counted since this gateway first read them; it never runs backwards."""

    def __init__(self) -> None:
        self._before: dict[_Key, Message] = {}  # counted before the last start
        self._last: dict[_Key, Message] = {}

    def observe(self, server: ServerName, statistics: Iterable[Message]) -> None:
        """Take in what a server says of its models."""
        for reading in statistics:
            key = (server, reading.name, reading.version)
            last = self._last.get(key)
            if last is not None and _is_below(reading, last):
                _add(self._before.setdefault(key, pb.ModelStatistics()), last)
            self._last[key] = reading

    def total(self, name: str, version: str, wanted: set[tuple[str, str]]) -> Message:
        """Return the sum over all servers and the wanted (model, version), under a name and version."""
        total = pb.ModelStatistics(name=name, version=version)
        for readings in (self._before, self._last):
            for (_, *model), reading in readings.items():
                if tuple(model) in wanted:
                    _add(total, reading)
        for (_, *model), reading in self._last.items():
            if tuple(model) in wanted:
                total.memory_usage.extend(reading.memory_usage)
        return total

    def known(self) -> set[tuple[str, str]]:
        """Return all (model, version) that were ever counted."""
        return {(model, version) for _, model, version in self._last}


def _add(total: Message, part: Message) -> None:
    """Add one ModelStatistics to another; the later of their last inferences counts."""
    total.last_inference = max(total.last_inference, part.last_inference)
    total.inference_count += part.inference_count
    total.execution_count += part.execution_count
    _add_durations(total.inference_stats, part.inference_stats)
    batches = {batch.batch_size: batch for batch in total.batch_stats}
    for batch in part.batch_stats:
        mine = batches.get(batch.batch_size)
        if mine is None:
            mine = batches[batch.batch_size] = total.batch_stats.add(batch_size=batch.batch_size)
        _add_durations(mine, batch)
    for name, responses in part.response_stats.items():
        _add_durations(total.response_stats[name], responses)


def _add_durations(total: Message, part: Message) -> None:
    """Add all durations of one message to those of another of its type."""
    for name in _durations(part):
        mine, theirs = getattr(total, name), getattr(part, name)
        mine.count += theirs.count
        mine.ns += theirs.ns


def _durations(statistics: Message) -> list[str]:
    """Return the names of the fields that are a StatisticDuration."""
    return [field.name for field in statistics.DESCRIPTOR.fields if field.message_type is not None]


def _is_below(reading: Message, last: Message) -> bool:
    """Return whether any counter has fallen, which a running model's never does."""
    pairs = [(reading.inference_count, last.inference_count), (reading.execution_count, last.execution_count)]
    now, before = reading.inference_stats, last.inference_stats
    pairs += [(getattr(now, name).count, getattr(before, name).count) for name in _durations(now)]
    return any(count < earlier for count, earlier in pairs)
