"""An in-memory client by the ``h2`` library, joined to our end of the connection; time is what the test says."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from h2.settings import SettingCodes

from orchestrator.http2.budget import HeldBudget
from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.frames import ErrorCode, frame
from orchestrator.http2.grpc.wire import RequestHead, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.stream import Receiver, Stream

HEADERS = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/m"),
    (":authority", "here"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
]


Accept = Callable[[Stream, RequestHead], Receiver | None]


class Recorder:
    """A receiver that keeps what comes, and credits it at once when it is to."""

    def __init__(self, stream: Stream, head: RequestHead, *, credits: bool) -> None:
        self.stream = stream
        self.head = head
        self.data = b""
        self.is_whole = False
        self.aborted: ErrorCode | None = None
        self._credits = credits

    def receive_headers(self, meaning: RequestHead, is_last: bool) -> None:
        self.is_whole = self.is_whole or is_last

    def receive_data(self, data: bytes, is_last: bool) -> None:
        self.data += data
        self.is_whole = self.is_whole or is_last
        if self._credits:
            self.stream.credit()

    def abort(self, code: ErrorCode) -> None:
        self.aborted = code


class OurEnd:
    """A server's connection alone."""

    def __init__(
        self,
        *,
        credits: bool = True,
        accept: Accept | None = None,
        send_budget: HeldBudget | None = None,
        **limits: Any,
    ) -> None:
        self.limits = Limits(**limits)
        self.now_s = 0.0
        self.calls: list[Recorder] = []
        self.wakes = 0
        self._credits = credits
        most_bytes = self.limits.header_list_bytes
        self.connection: Connection[RequestHead] = Connection(
            HeaderDecoder(partial(read_request_head, max_list_bytes=most_bytes), max_list_bytes=most_bytes),
            accept or self._accept,
            self.limits,
            clock=lambda: self.now_s,
            wake=self._wake,
            send_budget=send_budget,
        )
        self.connection.start()

    def _wake(self) -> None:
        self.wakes += 1

    def _accept(self, stream: Stream, head: RequestHead) -> Recorder:
        self.calls.append(Recorder(stream, head, credits=self._credits))
        return self.calls[-1]


class Joined(OurEnd):
    """Both ends; ``exchange`` carries bytes until neither has anything to say."""

    def __init__(self, *, settings: dict[Any, int] | None = None, **more: Any) -> None:
        super().__init__(**more)
        self.client = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        wanted = {SettingCodes.ENABLE_PUSH: 0, **(settings or {})}
        self.client.local_settings = h2.settings.Settings(client=True, initial_values=wanted)
        self.client.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.exchange()

    def exchange(self) -> None:
        while True:
            there = self.client.data_to_send()
            if there:
                self.send(there)
            back = self.connection.take_out()
            if back:
                self.events += self.client.receive_data(back)
            if not there and not back:
                return

    def send(self, raw: bytes) -> None:
        """Send bytes, also those that the library would not; they are taken in as many turns as it needs."""
        has_more = self.connection.receive(raw)
        while has_more:
            has_more = self.connection.receive(b"")

    def request(self, body: bytes | None = None, **more: Any) -> int:
        number = self.client.get_next_available_stream_id()
        self.client.send_headers(number, HEADERS, end_stream=body is None, **more)
        if body is not None:
            self.client.send_data(number, body, end_stream=True)
        self.exchange()
        return int(number)

    def found(self, kind: type[h2.events.Event]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    def received(self, number: int) -> bytes:
        return b"".join(e.data for e in self.found(h2.events.DataReceived) if e.stream_id == number)


def raw_request(number: int, block: bytes, *, flags: int = 0x5) -> bytes:
    """Return the HEADERS frame of a request without body."""
    return frame(1, flags, number, block)
