"""HTTP connections that wait for their clients no longer than they may, and make room for others.

aiohttp bounds how long a connection may idle and nothing else: one that sends half a header, takes no answer, or is one
of a thousand is kept. What is added here, for all connections of a server, is looked at a few times a second instead of
by timers of each request, which cost more than the request: since when a connection waits for headers, for its next
request, or for its client to take what was written. Bodies are watched where they are read. When there are too many,
``http2.eviction`` says which one goes. A process that stood still, stopped or on too busy a host, has not listened
either: what a look comes too late is held against nobody.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from http import HTTPStatus

from aiohttp import web

from orchestrator.config import ClientLimitSettings
from orchestrator.gateway.http.errors import error_response
from orchestrator.http2.eviction import Waiting, choose_evicted

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_KEEP_ALIVE_S = 86_400.0  # aiohttp's own limit is out of the way: a day, while idleness is looked at with all else


class Phase(Enum):
    """What a connection is doing."""

    HEADER = "waits for a request's headers, of which some may have come"
    BODY = "waits for more of a body"
    ANSWER = "is being answered"
    IDLE = "waits for the next request"


class HttpConnection(web.RequestHandler):
    """One connection of an aiohttp server, which knows what it waits for; ``on_made`` says whether there is room."""

    def __init__(
        self,
        server: web.Server,
        limits: ClientLimitSettings,
        *,
        on_made: Callable[[HttpConnection], bool],
        on_lost: Callable[[HttpConnection], None],
    ) -> None:
        header_bytes = int(limits.max_header_kib * 1024)
        loop = asyncio.get_running_loop()
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # which aiohttp itself passes and checks for
            auto_decompress=False,
            keepalive_timeout=_KEEP_ALIVE_S,
            max_line_size=header_bytes,
            max_field_size=header_bytes,
        )
        self._now: Callable[[], float] = loop.time
        self._limits = limits
        self._on_made = on_made
        self._on_lost = on_lost
        self._phase = Phase.HEADER
        self._since_s = self._now()
        self._was_answered = False
        self._unsent_bytes = 0
        self._unsent_since_s = self._since_s
        self.peer = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request, or close when there is no room."""
        self.peer = str((transport.get_extra_info("peername") or ("",))[0])
        super().connection_made(transport)
        if not self._on_made(self):
            self.abort()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Say that the connection is gone."""
        self._on_lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._phase is Phase.IDLE and data:
            self._wait(Phase.HEADER)
        super().data_received(data)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Wait for nothing while a request is answered, but where ``receiving`` says so."""
        self._wait(Phase.ANSWER)
        try:
            yield
        finally:
            self._was_answered = True
            self._wait(Phase.IDLE)

    @contextmanager
    def receiving(self) -> Iterator[None]:
        """Wait for more of a body; how long is up to the reader."""
        self._wait(Phase.BODY)
        try:
            yield
        finally:
            self._wait(Phase.ANSWER)

    def _wait(self, phase: Phase) -> None:
        self._phase = phase
        self._since_s = self._now()

    @property
    def waiting(self) -> Waiting | None:
        """Since when it waits for its client, None when it is being answered."""
        return None if self._phase is Phase.ANSWER else Waiting(self.peer, self._since_s, self._was_answered)

    def check(self, *, deaf_s: float = 0.0) -> None:
        """Close it when its client has kept it waiting for too long.

        For ``deaf_s`` since the last time this process has not listened, which is not the client's fault.
        """
        now_s, limits = self._now(), self._limits
        self._since_s = min(now_s, self._since_s + deaf_s)
        self._unsent_since_s = min(now_s, self._unsent_since_s + deaf_s)
        unsent_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unsent_bytes == 0 or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent_bytes, now_s
        is_late = {
            Phase.HEADER: now_s - self._since_s > limits.header_timeout_s,
            Phase.IDLE: now_s - self._since_s > limits.idle_timeout_s,
        }.get(self._phase, False)
        if is_late or now_s - self._unsent_since_s > limits.stall_timeout_s:
            self.abort()

    def handle_error(
        self, request: web.BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """Return the answer to what is no HTTP.

        aiohttp's own quotes the bytes that it stumbled over, in the answer and in the log, and a token may be among
        them; it also writes a traceback for each, with which anybody could fill the log.
        """
        if request.writer.output_size > 0:
            raise ConnectionError("an answer that has begun can't be taken back")
        log.debug("a request of %s was no HTTP: %s", self.peer, type(exc).__name__)
        response = error_response(HTTPStatus(status), "the request is no HTTP that is understood here")
        response.force_close()
        return response

    def abort(self) -> None:
        """Close at once; what was written and not taken is lost."""
        if self.transport is not None:
            self.transport.abort()


class HttpConnections:
    """All connections of a server, watched until they are closed."""

    def __init__(self, server: web.Server, limits: ClientLimitSettings) -> None:
        self._server = server
        self._limits = limits
        self._connections: dict[HttpConnection, None] = {}
        self._look_s = min(_LOOK_S, limits.header_timeout_s / 4, limits.stall_timeout_s / 4)
        self._look_later()

    def close(self) -> None:
        """Stop looking, and close what is left."""
        self._timer.cancel()
        for connection in list(self._connections):
            connection.abort()

    def new_connection(self) -> HttpConnection:
        """Return the protocol of a connection that comes."""
        return HttpConnection(self._server, self._limits, on_made=self._add, on_lost=self._remove)

    def _add(self, connection: HttpConnection) -> bool:
        if len(self._connections) >= self._limits.max_connections and not self._make_room():
            return False
        self._connections[connection] = None
        return True

    def _make_room(self) -> bool:
        waiting = [(one, w) for one in self._connections if (w := one.waiting) is not None]
        index = choose_evicted([w for _, w in waiting])
        if index is None:
            return False
        victim = waiting[index][0]
        del self._connections[victim]
        victim.abort()
        return True

    def _remove(self, connection: HttpConnection) -> None:
        self._connections.pop(connection, None)

    def _look_later(self) -> None:
        loop = asyncio.get_running_loop()
        due_s = loop.time() + self._look_s
        self._timer = loop.call_at(due_s, self._look, due_s)

    def _look(self, due_s: float) -> None:
        deaf_s = asyncio.get_running_loop().time() - due_s
        for connection in list(self._connections):
            connection.check(deaf_s=deaf_s)
        self._look_later()
