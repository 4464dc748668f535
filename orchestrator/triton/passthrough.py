"""Calls of KServe's gRPC service passed on to one Triton as the bytes they are.

Nothing is parsed and nothing rewritten, so whatever a client and its model agree on arrives unchanged: datatypes and
parameters that this code has never heard of included. The same two rules of Triton 2.51 as in
orchestrator.triton.client hold: a cancelled infer can crash the server (server#7368), so a caller that gives up only
stops waiting, no deadline is sent along, and a stream whose client is gone is read to its end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc

from orchestrator.errors import ModelNotFoundError, ServerUnavailableError, SlimError, TransientError
from orchestrator.http2.grpc.channel import GrpcChannel
from orchestrator.http2.grpc.wire import RpcError
from orchestrator.triton.client import CHANNEL_ARGUMENTS
from orchestrator.triton.errors import translate_status
from orchestrator.triton.protocol_key import HEADER_PREFIX, read_protocol_key, render_headers

log = logging.getLogger(__name__)

SERVICE = "inference.GRPCInferenceService"
Metadata = Sequence[tuple[str, str | bytes]]
_BUFFERED = 16  # answers of a stream held for a client that does not take them; then the server is not read either

# What belongs to the connection with our client, or could open what is closed, is not passed on.
_OWN_PREFIXES = ("grpc-", ":", HEADER_PREFIX)
_OWN_KEYS = frozenset({"user-agent", "content-type", "te", "authorization"})


class RefusedCallError(SlimError):
    """A server answered a call with a status; both are to reach the client as they are.

    Attributes:
        status: gRPC's name of it, such as ``INVALID_ARGUMENT``.
        detail: the server's message, nothing added.
        executed: False when the server certainly did not run the call.
        is_gone: whether the server as a whole could not be asked, and not this call alone.
    """

    def __init__(self, status: str, detail: str, *, executed: bool = True, is_gone: bool = False) -> None:
        super().__init__(detail)
        self.is_gone = is_gone
        self.status = status
        self.detail = detail
        self.executed = executed


class TritonPassthrough:
    """A channel to one Triton that passes calls on; to be used from one event loop.

    Args:
        address: ``host:port`` of its gRPC endpoint.
        protocol_key_file: as in TritonServer.

    Raises:
        ConfigError: The key file can't be used.
    """

    def __init__(self, address: str, *, protocol_key_file: Path | None = None) -> None:
        key = None if protocol_key_file is None else read_protocol_key(protocol_key_file)
        self.address = address
        self._headers = tuple(render_headers(key).items())
        self._channel: Any = grpc.aio.insecure_channel(address, options=CHANNEL_ARGUMENTS)
        self._calls = GrpcChannel(address)
        self._tasks: set[asyncio.Future[Any]] = set()

    @property
    def in_flight(self) -> int:
        """Calls and streams under way."""
        return self._calls.in_flight + len(self._tasks)

    async def call(self, method: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the answer to one unary call.

        Args:
            method: of the service.
            message: serialised request.
            metadata: of the client.

        Raises:
            RefusedCallError: with the server's status; ``executed`` says whether it is safe to ask another server.
        """
        try:
            return await self._calls.call(f"/{SERVICE}/{method}", message, self._metadata(metadata))
        except RpcError as exc:
            raise _refusal(exc.status, exc.detail, self.address) from exc

    def open_stream(self, method: str, metadata: Metadata = ()) -> PassthroughStream:
        """Begin a call that is a stream both ways; the caller must ``abandon`` it in the end."""
        stub = self._channel.stream_stream(f"/{SERVICE}/{method}")
        return PassthroughStream(self, stub(metadata=self._metadata(metadata)))

    def keep(self, task: asyncio.Task[None]) -> None:
        """Hold a task that must outlive its caller until it ends."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_retrieve)

    async def close(self, *, drain_s: float = 10.0) -> None:
        """Close the channels, after waiting for what is under way; streams that take longer are cancelled."""
        streams = asyncio.create_task(asyncio.wait(set(self._tasks), timeout=drain_s)) if self._tasks else None
        await self._calls.close(drain_s=drain_s)
        if streams is not None:
            _, slow = await streams
            if slow:
                log.warning("cancelling %d streams that Triton at %s has not ended", len(slow), self.address)
        await self._channel.close()

    def _metadata(self, metadata: Metadata) -> tuple[tuple[str, str | bytes], ...]:
        own = ((k, v) for k, v in metadata if k not in _OWN_KEYS and not k.startswith(_OWN_PREFIXES))
        return (*own, *self._headers)


class PassthroughStream:
    """One stream to a server.

    gRPC's asyncio cancels a call whose reading or writing task is cancelled, and a cancel must not reach the server;
    so both happen in tasks that the caller's end does not touch.
    """

    def __init__(self, server: TritonPassthrough, call: Any) -> None:
        self._server = server
        self._call = call
        self._is_abandoned = False
        self._answers: asyncio.Queue[bytes | RefusedCallError | None] = asyncio.Queue(_BUFFERED)
        self._writing: asyncio.Task[None] | None = None
        server.keep(asyncio.create_task(self._read()))

    async def send(self, message: bytes) -> None:
        """Send one request; waits while the server takes no more. One at a time.

        Raises:
            RefusedCallError: The stream has broken.
        """
        self._writing = asyncio.create_task(self._write(message))
        self._server.keep(self._writing)
        await asyncio.shield(self._writing)

    async def _write(self, message: bytes) -> None:
        try:
            await self._call.write(message)
        except grpc.aio.AioRpcError as exc:
            raise _grpc_refusal(exc, self._server.address) from exc
        except asyncio.InvalidStateError as exc:
            raise RefusedCallError("UNAVAILABLE", f"the stream to Triton at {self._server.address} has ended") from exc

    async def finish(self) -> None:
        """Say that no more requests come; answers go on until the server has given all."""
        await self._call.done_writing()

    async def answers(self) -> AsyncIterator[bytes]:
        """Yield the server's messages until it ends the stream.

        Raises:
            RefusedCallError: with the server's status.
        """
        while (answer := await self._answers.get()) is not None:
            if isinstance(answer, RefusedCallError):
                raise answer
            yield answer

    def abandon(self) -> None:
        """Let the stream end by itself, what still comes being dropped; does nothing when it has ended."""
        if not self._is_abandoned:
            self._is_abandoned = True
            self._server.keep(asyncio.create_task(self._end_writing()))
            while not self._answers.empty():  # the reader may wait for room
                self._answers.get_nowait()

    async def _end_writing(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])
        await self._call.done_writing()

    async def _read(self) -> None:
        end: RefusedCallError | None = None
        try:
            while (message := await self._call.read()) is not grpc.aio.EOF:
                if not self._is_abandoned:
                    await self._answers.put(message)
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                end = RefusedCallError(code.name, await self._call.details() or "")
        except grpc.aio.AioRpcError as exc:
            end = _grpc_refusal(exc, self._server.address)
        if not self._is_abandoned:
            await self._answers.put(end)


def _grpc_refusal(error: Any, address: str) -> RefusedCallError:
    return _refusal(error.code().name, error.details() or "", address)


def _refusal(status: str, detail: str, address: str) -> RefusedCallError:
    translated = translate_status(status, detail or "no reason given", address)
    refused = isinstance(translated, ModelNotFoundError)
    executed = not (refused or (isinstance(translated, TransientError) and not translated.executed))
    is_gone = isinstance(translated, ServerUnavailableError) and not executed
    if is_gone:
        detail = f"{detail} (Triton at {address})"  # gRPC's own words would name no server of ours
    return RefusedCallError(status, detail, executed=executed, is_gone=is_gone)


def _retrieve(task: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that an abandoned call that fails is not reported as never retrieved."""
    if not task.cancelled():
        task.exception()
