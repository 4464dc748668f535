"""Streaming calls as a server answers them.

A call's task begins with its headers and reads messages as it takes them, so a client that sends faster is held up by
its window.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from orchestrator.http2.grpc.server_call import CallerT, CallRules, ServerCall
from orchestrator.http2.grpc.wire import (
    RESPONSE_HEADERS,
    RequestHead,
    RpcError,
    next_message_bytes,
    pack_message,
    split_message,
)
from orchestrator.http2.stream import Stream

Send = Callable[[bytes], Awaitable[None]]
StreamHandler = Callable[[AsyncIterator[bytes], Send, CallerT], Awaitable[None]]


class StreamingCall(ServerCall[CallerT]):
    """A call of many messages both ways."""

    __slots__ = ("_has_ended", "_refusal", "_waiter")

    def __init__(
        self, rules: CallRules, stream: Stream, head: RequestHead, caller: CallerT, handler: StreamHandler[CallerT]
    ) -> None:
        super().__init__(rules, stream, head, caller)
        self._refusal: RpcError | None = None
        self._has_ended = False
        self._waiter: asyncio.Future[None] | None = None
        stream.is_fed = False  # between messages its client may be silent for as long as it likes
        self._start(self._run(handler))

    async def _run(self, handler: StreamHandler[CallerT]) -> None:
        try:
            await handler(self._read(), self._send, self._caller)
        except Exception as exc:
            self._fail(exc)
        else:
            self._end("OK", "")

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the stream of messages."""
        if self._task is None or self._refusal is not None:
            return
        self._has_ended = self._has_ended or is_last
        self._hold(data)
        if not self._is_readable():
            self._ask_for_more()
        elif self._waiter is not None:
            _resume(self._waiter)

    def _refuse(self, error: RpcError) -> None:
        self._refusal = error
        if self._waiter is not None:
            _resume(self._waiter)

    def _is_readable(self) -> bool:
        """Whether a reader need not wait, be it for a message, a failure or the end."""
        if self._has_ended or self._refusal is not None:
            return True
        try:
            return next_message_bytes(self._held, self._rules.max_message_bytes) is not None
        except RpcError:
            return True

    def _ask_for_more(self) -> None:
        self._stream.is_fed = bool(self._held)  # the rest of a message that is under way must come
        self._stream.credit()
        self._stream.progress_s = self._stream.connection.clock()

    async def _read(self) -> AsyncIterator[bytes]:
        while True:
            if self._refusal is not None:
                raise self._refusal
            size = next_message_bytes(self._held, self._rules.max_message_bytes)
            if size is not None:
                flag, payload = self._split_off(size)
                message = self._unpack_small(flag, payload)
                yield await self._unpack_large(flag, payload) if message is None else message
            elif self._has_ended:
                if self._held:
                    raise RpcError("INTERNAL", "the stream ends in the middle of a message")
                return
            else:
                self._waiter = asyncio.get_running_loop().create_future()
                await self._waiter
                self._waiter = None

    def _split_off(self, size: int) -> tuple[int, bytes]:
        """Take off one message as it is read; kept as objects, small ones would take ten times more."""
        flag, payload = split_message(self._held, size)
        self._rules.receive_budget.give(self, size)
        if not self._is_readable():
            self._ask_for_more()
        return flag, payload

    async def _send(self, message: bytes) -> None:
        stream = self._stream
        if not self._has_headers:
            self._has_headers = True
            stream.send_headers(RESPONSE_HEADERS)
        stream.send_data(pack_message(message))
        while stream.is_congested and not stream.is_local_closed:
            writable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            stream.on_writable = partial(_resume, writable)
            await writable


def _resume(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
