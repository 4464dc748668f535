"""gRPC calls to one server, unary and streaming.

gRPC's asyncio client spends 150 to 350 µs of CPU on a call, and hands every event from a thread of its own to the loop,
which a caller waits for; this spends a tenth of it, in the loop.

A call that a caller no longer waits for goes on and its answer is dropped (see ``client_call``). What the server
certainly has not begun (it refused the stream, or is going away) is sent once more on a new connection.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from orchestrator.http2.grpc.client_call import (
    ClientCall,
    ClientStream,
    Explain,
    RefusedStreamError,
    UnaryExchange,
)
from orchestrator.http2.grpc.connector import ConnectionPool
from orchestrator.http2.grpc.wire import Metadata, RpcError, pack_message, request_headers

log = logging.getLogger(__name__)

T = TypeVar("T")

_MOST_BLOCKS: Final = 256


class GrpcChannel:
    """Calls one server at ``host:port``; to be used from one event loop.

    Channels to the same address share the connection of their pool; without one, a channel has its own.
    """

    def __init__(self, address: str, pool: ConnectionPool | None = None) -> None:
        self.address = address
        self._connector = (pool or ConnectionPool()).connector(address)
        self._blocks: dict[tuple[str, Metadata], bytes] = {}
        self._under_way: set[ClientCall] = set()
        self._is_closed = False

    @property
    def in_flight(self) -> int:
        """Calls and streams of this channel under way, those that nobody waits for included."""
        return len(self._under_way)

    async def call(self, path: str, message: bytes, metadata: Metadata = ()) -> bytes:
        """Return the answer to one serialised message, sent to ``/service/method``.

        Metadata is kept when it is a tuple, so equal ones should be equal tuples.

        Raises:
            RpcError: with the server's status, or UNAVAILABLE when there is no server.
        """
        block = self._block(path, metadata)
        for _ in range(2):
            connection = self._connector.current() or await self._connector.connect()
            exchange = UnaryExchange(self._under_way, _as_it_is, _as_it_is)
            exchange.stream = connection.open(exchange, block, pack_message(message))
            try:
                found: bytes = await exchange.answer
            except RefusedStreamError:
                continue
            else:
                return found
        raise RpcError("UNAVAILABLE", f"failed to connect to {self.address}: it refuses calls")

    def begin(
        self,
        path: str,
        message: bytes,
        metadata: Metadata,
        *,
        read: Callable[[bytes], T],
        explain: Explain,
    ) -> asyncio.Future[T] | None:
        """Begin a call at once and return what ``read`` makes of its answer; None when there is no connection yet.

        A call that the server refuses fails, with what ``explain`` makes of it, where ``call`` would ask a second time.
        """
        connection = self._connector.current()
        if connection is None:
            return None
        exchange = UnaryExchange(self._under_way, read, explain)
        exchange.stream = connection.open(exchange, self._block(path, metadata), pack_message(message))
        if connection.open_streams == 1:  # the server has nothing to do
            connection.flush()
        return exchange.answer

    def open_stream(self, path: str, metadata: Metadata = (), *, explain: Explain, peer: str = "") -> ClientStream:
        """Return a stream of messages both ways, opened with the first that is sent.

        ``explain`` makes the exception that stands for a failure; ``peer`` names the server there, or its address does.
        """
        block, connect = self._block(path, metadata), self._connector.connect
        return ClientStream(self._under_way, connect, block, explain, peer or self.address)

    async def close(self, *, drain_s: float) -> None:
        """Let go of the connection, after waiting so long for calls under way."""
        until_s = time.monotonic() + drain_s
        while self._under_way and time.monotonic() < until_s:
            waits = [call.ended() for call in self._under_way]
            await asyncio.wait(waits, timeout=until_s - time.monotonic())
        if self._under_way:
            log.warning("leaving %d calls that %s has not answered", len(self._under_way), self.address)
        if not self._is_closed:
            self._is_closed = True
            await self._connector.release()

    def _block(self, path: str, metadata: Metadata) -> bytes:
        key = (path, tuple(metadata))
        block = self._blocks.get(key)
        if block is None:
            if len(self._blocks) >= _MOST_BLOCKS:
                self._blocks.clear()
            block = self._blocks[key] = request_headers(path, self.address, metadata)
        return block


def _as_it_is(found: T) -> T:
    return found
