"""One client's stream of inferences: families through the router, other models over a stream of their own each.

Answers come in the order of completion, as from Triton. A model that is passed through stays with the server it began
with while the client's stream lasts, because decoupled models and sequences keep state there. Each model has a stream
of its own, and what is not there is refused here: a stream on which Triton 2.51 answers for a decoupled model and for
another, or for a version that it has not, ends it (``ASSERTION FAILED: !byte_buffer->Valid()``). No more than
``window`` requests of families are under way at a time, and a server or a client that takes no more holds up the
reading; so a stream costs a bounded amount of memory. A client that leaves ends its own requests only: streams to
servers are read to their ends in the background.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from orchestrator.errors import SlimError
from orchestrator.gateway.auth.callers import Caller, Ticket
from orchestrator.gateway.dataplane.dataplane import DataPlane
from orchestrator.gateway.dataplane.model_index import not_found
from orchestrator.gateway.dataplane.passthrough import STREAM_METHOD
from orchestrator.gateway.ports import Server, ServerStream
from orchestrator.gateway.protocol.family import FamilyModel, check_version
from orchestrator.gateway.protocol.messages import pb, serialise
from orchestrator.gateway.protocol.wire import Address, check_inference, read_address
from orchestrator.gateway.statuses import outcome_of
from orchestrator.triton.discovery import ServerModels


class StreamSession:
    """Answers the requests of one stream, of families no more than ``window`` at a time.

    ``send`` takes one serialised ModelStreamInferResponse, and waits while the client takes no more.
    """

    def __init__(
        self, data_plane: DataPlane, send: Callable[[bytes], Awaitable[object]], *, window: int, caller: Caller
    ) -> None:
        self._data_plane = data_plane
        self._send = send
        self._caller = caller
        self._tickets: dict[str, Ticket] = {}
        self._places: dict[str, Callable[[], None]] = {}
        self._window = asyncio.Semaphore(window)
        self._sending = asyncio.Lock()  # a stream takes one message at a time
        self._streams: dict[str, ServerStream] = {}  # by model, as all that is kept here
        self._pinned: dict[str, ServerModels[Server]] = {}

    async def run(self, requests: AsyncIterator[bytes]) -> None:
        """Answer until the client sends no more and all is answered; raises SlimError, for a status, when it can't."""
        try:
            async with asyncio.TaskGroup() as tasks:
                async for message in requests:
                    await self._take(message, tasks)
                for stream in self._streams.values():
                    await stream.finish()
        except BaseExceptionGroup as group:
            expected = _first(group)
            if expected is None:
                raise
            raise expected from group
        finally:
            for stream in self._streams.values():
                self._data_plane.metrics.end()
                stream.abandon()
            for ticket in self._tickets.values():
                ticket.close()
            for model, give_back in self._places.items():
                self._streams[model].when_ended(give_back)

    async def _take(self, message: bytes, tasks: asyncio.TaskGroup) -> None:
        address = read_address(message)
        family = self._data_plane.model_index.families.get(address.model)
        if family is not None:
            await self._window.acquire()
            tasks.create_task(self._answer(family, message))
            return
        try:
            self._charge(address.model)
            classified = check_inference(message)
            server = await self._find(address)
            await self._data_plane.passthrough.require_scores(server, address, classified)
            if address.model not in self._pinned:
                self._places[address.model] = self._data_plane.passthrough.calls.take(address.model)
                self._pinned[address.model] = server
            stream = self._streams.get(address.model) or self._open(address.model, server, tasks)
        except SlimError as exc:
            if address.model not in self._pinned and address.model in self._tickets:
                self._tickets.pop(address.model).close()
            self._data_plane.metrics.count("", outcome_of(exc), tenant=self._caller.tenant)
            await self._fail(message, exc)
            return
        self._data_plane.metrics.count(address.model, "streamed", tenant=self._caller.tenant)
        await stream.send(message)

    async def _find(self, address: Address) -> ServerModels[Server]:
        """Return the server that a model began with, or is to; raises SlimError when the version is not there."""
        check_version(address.version)
        pinned = self._pinned.get(address.model)
        if pinned is None:
            return (await self._data_plane.model_index.wait_for(address))[0]
        if not pinned.has_ready(address.model, address.version):
            raise not_found(address)
        return pinned

    def _charge(self, model: str) -> None:
        """Count a request that is passed through; its model holds one place under way while the stream lasts."""
        guard = self._data_plane.guard
        if model in self._tickets:
            guard.require_model(self._caller, model)
            guard.charge_request(self._caller)
        else:
            self._tickets[model] = guard.admit(self._caller, model)
        guard.charge_items(self._caller, 1)

    def _open(self, model: str, server: ServerModels[Server], tasks: asyncio.TaskGroup) -> ServerStream:
        stream = self._streams[model] = server.server.open_stream(STREAM_METHOD, self._caller.metadata)
        self._data_plane.metrics.begin()
        tasks.create_task(self._pump(stream))
        return stream

    async def _pump(self, stream: ServerStream) -> None:
        async for answer in stream.answers():
            await self._forward(answer)

    async def _answer(self, family: FamilyModel, message: bytes) -> None:
        try:
            await self._forward(await self._data_plane.inference.infer_streamed(family, message, self._caller))
        finally:
            self._window.release()

    async def _fail(self, message: bytes, error: SlimError) -> None:
        response = pb.ModelStreamInferResponse(error_message=str(error))
        response.infer_response.id = read_address(message).request_id
        await self._forward(serialise(response))

    async def _forward(self, answer: bytes) -> None:
        async with self._sending:
            await self._send(answer)


def _first(group: BaseExceptionGroup[BaseException]) -> SlimError | None:
    """Return an expected error when the group holds nothing else."""
    expected, rest = group.split(SlimError)
    if rest is not None or expected is None:
        return None
    error: BaseException = expected
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, SlimError) else None
