"""What unary and streaming calls of a server share: one task, its end, the client's time limit, and what they hold.

A call whose client resets it, or whose time is up, has its task cancelled, and counts for its connection until that has
ended.

What has come of requests that are not whole is counted over all connections of a server, and what large compressed
ones grow to, until they are answered; see ``budget``.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar, cast

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.flow import Flow, Limits
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.open_calls import OpenCalls
from orchestrator.http2.grpc.wire import (
    PIECE_BYTES,
    TRAILERS,
    RequestHead,
    RpcError,
    collect,
    trailers,
    unpack,
    unpack_message,
)
from orchestrator.http2.stream import Stream

_PIECES_A_HOP = 4
"""Pieces that a thread unpacks before they are counted, because the way there and back takes as long as one."""

CallerT = TypeVar("CallerT")
"""Who makes a call, as its service identifies them."""


async def unpack_beside(pieces: Iterator[bytes]) -> bytes:
    """Return what a compressed body holds next, nothing at its end, unpacked beside the event loop."""
    return await asyncio.to_thread(lambda: b"".join(islice(pieces, _PIECES_A_HOP)))


@dataclass(frozen=True, slots=True)
class CallRules:
    """What every call of a service goes by.

    Attributes:
        explain: the RpcError that stands for what a handler raised.
        max_message_bytes: the largest request message.
        limits: what one connection may take.
        receive_budget: what is held of requests that are not whole, on all connections.
        open_calls: those that are not whole, on all connections.
    """

    explain: Callable[[Exception], RpcError]
    max_message_bytes: int
    limits: Limits
    receive_budget: HeldBudget
    open_calls: OpenCalls


class ServerCall(ABC, Generic[CallerT]):
    """One call: its task, its time limit, and what is held of its request."""

    __slots__ = (
        "_caller", "_has_headers", "_head", "_held", "_is_lost", "_left_bytes", "_rules", "_stream", "_task",
        "_timer", "_unpacked_bytes",
    )  # fmt: skip

    def __init__(self, rules: CallRules, stream: Stream, head: RequestHead, caller: CallerT) -> None:
        self._rules = rules
        self._stream = stream
        self._head = head
        self._caller = caller
        self._has_headers = False
        self._left_bytes = head.content_bytes
        self._held = bytearray()  # not a list: pieces may be of one byte each
        self._unpacked_bytes = 0
        self._is_lost = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        if head.timeout_s is not None:
            self._timer = asyncio.get_running_loop().call_later(head.timeout_s, self._expire)

    def receive_headers(self, meaning: Any, is_last: bool) -> None:
        """Take a request's trailers, which gRPC does not have: only the end counts."""
        if is_last and meaning is TRAILERS:
            self.receive_data(b"", True)
        else:
            self._break(ErrorCode.PROTOCOL_ERROR)

    def receive_data(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body; one that belies its ``content-length`` is a stream error (RFC 9113, 8.1.1)."""
        if self._left_bytes is not None:
            self._left_bytes -= len(data)
            if self._left_bytes < 0 or (is_last and self._left_bytes > 0):
                self._break(ErrorCode.PROTOCOL_ERROR)
                return
        self._receive(data, is_last)

    @abstractmethod
    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the body that has been counted."""

    def _break(self, code: ErrorCode) -> None:
        self._stream.reset(code)
        self._stream.receiver = None
        self.abort(code)

    def abort(self, code: ErrorCode) -> None:
        """The client is gone, or has lost interest."""
        self._release()
        self._stop_waiting()
        if self._task is not None:
            self._task.cancel()

    @property
    def connection(self) -> Flow[Stream]:
        """The connection that it came on."""
        return self._stream.connection

    owner = connection

    def lose(self) -> None:
        """Give back what is held of it, and refuse it to its client, because too much is held of all."""
        self._is_lost = True
        self._release()
        error = RpcError("RESOURCE_EXHAUSTED", "too many large requests are coming in at a time; send it again")
        self._refuse(error)

    def evict(self) -> None:
        """Refuse it to its client, because too many calls do not come whole."""
        self._refuse(RpcError("RESOURCE_EXHAUSTED", "too many calls have begun and do not come whole; send it again"))

    @property
    def was_answered(self) -> bool:
        """Whether anything of its answer was sent."""
        return self._has_headers

    @abstractmethod
    def _refuse(self, error: RpcError) -> None:
        """Take no more of the request, and say why."""

    def _stop_waiting(self) -> None:
        """Wait for its client no more, as soon as the call has ended."""
        self._rules.open_calls.discard(self)
        # Or calls that were refused would be kept for as long as their clients would have waited.
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _hold(self, data: bytes) -> None:
        """Keep a piece of a request that is not whole; afterwards it may be lost."""
        self._held += data
        self._rules.receive_budget.take(self, len(data))

    def _release(self) -> None:
        """Forget what has come of a request that is not whole, and count nothing of the call any more."""
        self._rules.receive_budget.give(self, len(self._held))
        self._held = bytearray()
        self._give_unpacked()

    def _unpack_small(self, flag: int, payload: bytes) -> bytes | None:
        """Return a message, None when unpacking it takes longer than the event loop can spare; raises RpcError.

        What was unpacked counts as by ``_unpack_large``; afterwards the call may be lost.
        """
        if flag == 0:
            return payload
        if len(payload) >= PIECE_BYTES:
            return None
        most_bytes = self._rules.max_message_bytes
        least_bytes = min(PIECE_BYTES, most_bytes)
        try:
            message = unpack_message(flag, payload, self._head.encoding, least_bytes)
        except RpcError as exc:
            if exc.status != "RESOURCE_EXHAUSTED" or least_bytes == most_bytes:
                raise
            return None  # it grows
        self._count_unpacked(len(message))
        return message

    async def _unpack_large(self, flag: int, payload: bytes) -> bytes | None:
        """Return a message, unpacked beside the event loop and counted as it grows; raises RpcError.

        It counts until the call has ended or ``_give_unpacked`` is called. None: the call was lost meanwhile.
        """
        pieces = unpack(flag, payload, self._head.encoding, self._rules.max_message_bytes)
        message: bytes | bytearray = b""
        while piece := await unpack_beside(pieces):
            message = collect(message, piece)
            self._count_unpacked(len(piece))
            if self._is_lost:
                return None
        return cast(bytes, message)

    def _count_unpacked(self, size: int) -> None:
        self._unpacked_bytes += size
        self._rules.receive_budget.take(self, size)

    def _give_unpacked(self) -> None:
        """Count what was unpacked no more."""
        self._rules.receive_budget.give(self, self._unpacked_bytes)
        self._unpacked_bytes = 0

    def _start(self, work: Any) -> None:
        self._stream.connection.running += 1
        self._task = asyncio.get_running_loop().create_task(work)
        self._task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._stream.connection.running -= 1
        self._task = None
        self._release()
        self._stop_waiting()
        if task.cancelled():  # by what it waited for; after ``abort`` there is nobody left to answer
            self._end("CANCELLED", "what the answer depended on was cancelled")

    def _expire(self) -> None:
        self._end("DEADLINE_EXCEEDED", "Deadline Exceeded")
        self.abort(ErrorCode.CANCEL)

    def _fail(self, error: Exception) -> None:
        refusal = error if isinstance(error, RpcError) else self._rules.explain(error)
        self._end(refusal.status, refusal.detail, refusal.retry_after_s)

    def _end(self, status: str, detail: str, retry_after_s: float | None = None) -> None:
        stream = self._stream
        self._stop_waiting()
        if self._has_headers:
            stream.finish(trailers(status, detail, is_only=False, retry_after_s=retry_after_s))
        else:
            stream.send_headers(trailers(status, detail, is_only=True, retry_after_s=retry_after_s), is_last=True)
