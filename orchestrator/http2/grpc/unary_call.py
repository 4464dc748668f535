"""Unary calls as a server answers them.

A call is buffered until it has come whole, and its task begins then. A method that can answer without awaiting may take
a call over as it comes (``QuickHandler``) and needs no task.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.server_call import CallerT, CallRules, ServerCall
from orchestrator.http2.grpc.wire import (
    OK_TRAILERS,
    PREFIX_BYTES,
    RESPONSE_HEADERS,
    RequestHead,
    RpcError,
    message_bytes,
    pack_message,
)
from orchestrator.http2.stream import Stream

UnaryHandler = Callable[[bytes, CallerT], Awaitable[bytes]]
QuickHandler = Callable[[bytes, CallerT, "UnaryCall[CallerT]"], bool]
"""Returns whether it takes a call, and will answer or has answered it; raises what it is refused with."""


class UnaryCall(ServerCall[CallerT]):
    """A call of one message and one answer.

    Attributes:
        on_abort: Called when its client is gone or has lost interest, once at most; nothing is to be answered then.
    """

    __slots__ = ("_handler", "_has_begun", "_is_taken", "_quick", "_whole_bytes", "on_abort")

    def __init__(
        self,
        rules: CallRules,
        stream: Stream,
        head: RequestHead,
        caller: CallerT,
        handler: UnaryHandler[CallerT],
        quick: QuickHandler[CallerT] | None,
    ) -> None:
        super().__init__(rules, stream, head, caller)
        self._handler = handler
        self._quick = quick
        self._whole_bytes: int | None = None
        self._has_begun = False
        self._is_taken = False  # by a quick handler that has not answered yet
        self.on_abort: Callable[[], None] | None = None

    def _receive(self, data: bytes, is_last: bool) -> None:
        """Take a piece of the message."""
        if self._has_begun or self._stream.is_local_closed:
            return
        try:
            body = data if is_last and not self._held else self._collect(data)  # the usual message comes in one piece
            if is_last and not self._stream.is_local_closed:
                self._release()
                self._begin(body)
        except RpcError as exc:
            self._release()
            self._fail(exc)

    def _collect(self, data: bytes) -> bytearray:
        """Keep a piece; return all that is kept."""
        self._hold(data)
        stream, held = self._stream, self._held
        if stream.is_local_closed:  # it was lost by that
            return held
        if self._whole_bytes is None and len(held) >= PREFIX_BYTES:
            self._whole_bytes = PREFIX_BYTES + message_bytes(held, self._rules.max_message_bytes)
        if len(held) > (self._whole_bytes or PREFIX_BYTES):
            raise RpcError("INTERNAL", "more than the one message of a unary call")
        if not stream.is_remote_closed:
            stream.credit()
        return held

    def _refuse(self, error: RpcError) -> None:
        self._fail(error)

    def _begin(self, body: bytes | bytearray) -> None:
        size = len(body) - PREFIX_BYTES
        if size < 0 or size != message_bytes(body, self._rules.max_message_bytes):
            raise RpcError("INTERNAL", "the request is not the one message of a unary call")
        self._has_begun = True
        flag, payload = body[0], bytes(memoryview(body)[PREFIX_BYTES:])
        message = self._unpack_small(flag, payload)
        if message is None:
            self._start(self._run_large(flag, payload))
            return
        if self._quick is None or not self._offer(self._quick, message):
            self._start(self._run(message))

    def _offer(self, quick: QuickHandler[CallerT], message: bytes) -> bool:
        """Let a quick handler take the call; return whether it has."""
        self._is_taken = True
        self._stream.connection.running += 1
        try:
            is_taken = quick(message, self._caller, self)
        except Exception as exc:
            self.refuse(exc)
            return True
        if not is_taken:
            self._give_back()
        return is_taken

    def answer(self, message: bytes) -> None:
        """Answer the call; to be done once, or ``refuse``, by a quick handler that has taken it."""
        if self._give_back():
            self._stop_timer()
            self._stream.respond(RESPONSE_HEADERS, pack_message(message), OK_TRAILERS)
            if self.connection.running == 0:  # no other answer could leave with it
                self.connection.flush()

    def refuse(self, error: Exception) -> None:
        """Tell why there is no answer."""
        if self._give_back():
            self._fail(error)

    def _give_back(self) -> bool:
        """Let go of a call that was taken; return whether it was."""
        was_taken, self._is_taken = self._is_taken, False
        self._stream.connection.running -= was_taken
        return was_taken

    def abort(self, code: ErrorCode) -> None:
        """The client is gone, or has lost interest."""
        super().abort(code)
        if self._give_back() and self.on_abort is not None:
            self.on_abort()

    async def _run_large(self, flag: int, payload: bytes) -> None:
        try:
            message = await self._unpack_large(flag, payload)
        except RpcError as exc:
            self._fail(exc)
        else:
            await self._run(message)

    async def _run(self, message: bytes) -> None:
        try:
            answer = await self._handler(message, self._caller)
        except Exception as exc:
            self._fail(exc)
        else:
            self._stream.respond(RESPONSE_HEADERS, pack_message(answer), OK_TRAILERS)
