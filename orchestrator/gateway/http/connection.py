"""HTTP connections that wait for their clients no longer than they may.

aiohttp bounds how long a connection may idle and nothing else: one that sends half a header, takes no answer, or is one
of a thousand is kept. What is added here is looked at a few times a second: since when a connection waits for headers,
for its next request, or for its client to take what was written. Bodies are watched where they are read.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from functools import partial
from http import HTTPStatus

from aiohttp import web

from orchestrator.config import ClientLimitSettings
from orchestrator.gateway.http.errors import error_response
from orchestrator.http2.listener import Listener, Waiting

log = logging.getLogger(__name__)

_LOOK_S = 0.5
_DRAIN_LOOK_S = 0.05
_LINGER_S = 1.0  # for a next request, which may be on its way and gets "Connection: close"; nothing else tells a client
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
        """Take bytes that came, which may begin a request."""
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
        if self._phase is Phase.ANSWER:
            return None
        return Waiting(self.peer, self._since_s, self._was_answered, self._phase is Phase.IDLE)

    def check(self, *, late_s: float) -> None:
        """Close it when its client has kept it waiting for too long; see Listener."""
        now_s, limits = self._now(), self._limits
        self._since_s = min(now_s, self._since_s + late_s)
        self._unsent_since_s = min(now_s, self._unsent_since_s + late_s)
        unsent_bytes = 0 if self.transport is None else self.transport.get_write_buffer_size()
        if unsent_bytes == 0 or unsent_bytes != self._unsent_bytes:
            self._unsent_bytes, self._unsent_since_s = unsent_bytes, now_s
        is_late = {
            Phase.HEADER: now_s - self._since_s > limits.header_timeout_s,
            Phase.IDLE: now_s - self._since_s > limits.idle_timeout_s,
        }.get(self._phase, False)
        if is_late or now_s - self._unsent_since_s > limits.stall_timeout_s:
            self.abort()

    def close_if_silent(self, since_s: float) -> None:
        """Close when no request has begun for a while, ``since_s`` on the loop's clock at the earliest."""
        is_silent = self._phase in (Phase.HEADER, Phase.IDLE)
        if is_silent and self._now() - max(self._since_s, since_s) >= _LINGER_S:
            self.force_close()

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


class HttpListener(Listener[HttpConnection]):
    """A listener whose connections are those of a server of aiohttp."""

    def __init__(self, server: web.Server, limits: ClientLimitSettings) -> None:
        super().__init__(
            partial(HttpConnection, server, limits),
            max_connections=limits.max_connections,
            handshake_s=limits.header_timeout_s,
            check_s=min(_LOOK_S, limits.header_timeout_s / 4, limits.stall_timeout_s / 4),
        )

    async def _drain(self) -> None:
        began_s = asyncio.get_running_loop().time()
        while True:
            for connection in list(self._connections):
                connection.close_if_silent(began_s)
            await asyncio.sleep(_DRAIN_LOOK_S)  # at least once, for connections that are about to begin
            if not self._connections:
                return
