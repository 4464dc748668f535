"""Programs of others as clients of our transport: curl, nghttp and h2spec, each where it is installed."""

from __future__ import annotations

import asyncio
import shutil
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest

from orchestrator.http2.connection import Connection
from orchestrator.http2.flow import Limits
from orchestrator.http2.frames import ErrorCode
from orchestrator.http2.grpc.wire import TRAILERS, RequestHead, pack_message, read_request_head
from orchestrator.http2.headers import HeaderDecoder
from orchestrator.http2.protocol import Http2Listener
from orchestrator.http2.stream import Stream
from tests.http2.world import open_world

GRPC = ("-H", "content-type: application/grpc", "-H", "te: trailers")
CLOSED = "closed: Sends a {} frame"
AFTER_RESET = CLOSED + " after sending RST_STREAM frame"
HALF_CLOSED = "half closed (remote): Sends a {} frame"
DEVIATIONS = {
    # What comes on a closed stream is ignored, as by gRPC's own core.
    *(text.format(kind) for text in (CLOSED, AFTER_RESET, HALF_CLOSED) for kind in ("DATA", "HEADERS")),
    'Sends a DATA frame on the stream that is not in "open" or "half-closed (local)" state',
    # RFC 9113 has no dependencies between streams any more.
    "Sends HEADERS frame that depends on itself",
    "Sends PRIORITY frame that depend on itself",
}
"""What h2spec, which holds to RFC 7540, expects otherwise; see docs/http2.md."""


def program(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


async def run(*command: str | Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(120):
        printed, _ = await process.communicate()
    return printed.decode(errors="replace")


@pytest.fixture
def message(tmp_path: Path) -> Path:
    path = tmp_path / "message"
    path.write_bytes(pack_message(b"hello"))
    return path


async def test_curl_is_answered_with_trailers(message: Path, tmp_path: Path) -> None:
    curl, answer, heads = program("curl"), tmp_path / "answer", tmp_path / "heads"
    if "HTTP2" not in await run(curl, "--version"):
        pytest.skip("this curl speaks no HTTP/2")
    async with open_world() as world:
        where = f"http://{world.address}/s/Echo"
        body = ("--data-binary", f"@{message}", "-o", answer, "-D", heads)
        printed = await run(curl, "-sS", "--http2-prior-knowledge", *GRPC, *body, where)
    assert answer.read_bytes() == message.read_bytes(), printed
    lines = [line.strip() for line in heads.read_text().splitlines()]
    assert (lines[0], lines[-1]) == ("HTTP/2 200", "grpc-status: 0")


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("-b", "200"),
        ("-c", "0"),
        ("--header-table-size=100", "--encoder-header-table-size=0"),
        ("-w", "1", "-W", "16"),
        ("-m", "50"),
        ("--no-content-length",),
        ("--expect-continue",),
    ],
    ids=["plain", "padded", "no table", "small tables", "small windows", "many", "no length", "waits for 100"],
)
async def test_nghttp_is_answered_whatever_it_makes_use_of(options: tuple[str, ...], message: Path) -> None:
    nghttp = program("nghttp")
    async with open_world() as world:
        call = ("-v", "-H:method: POST", *GRPC, "-d", message, *options, f"http://{world.address}/s/Echo")
        printed = await run(nghttp, *call)
    count = 50 if "-m" in options else 1
    assert printed.count("grpc-status: 0") == count, printed
    assert "error_code=NO_ERROR" in printed
    assert "send RST_STREAM" not in printed


def read_as_call(fields: list[tuple[bytes, bytes]]) -> RequestHead:
    """Return what the fields of any request mean, as if they were a call's."""
    if fields and fields[0][0].startswith(b":"):
        fields = [(name, b"POST" if name == b":method" else value) for name, value in fields]
        fields = [field for field in fields if field[0] != b"content-type"] + [(b"content-type", b"application/grpc")]
    return read_request_head(fields, max_list_bytes=Limits().header_list_bytes)


class Page:
    """Answers any request with a few bytes once it has come whole, because h2spec speaks no gRPC."""

    def __init__(self, stream: Stream, head: RequestHead) -> None:
        self._stream = stream
        self._lacking_bytes = head.content_bytes

    def receive_headers(self, meaning: RequestHead, is_last: bool) -> None:
        if meaning is TRAILERS and is_last:
            self._answer()
        else:
            self._stream.reset(ErrorCode.PROTOCOL_ERROR)

    def receive_data(self, data: bytes, is_last: bool) -> None:
        if self._lacking_bytes is not None:
            self._lacking_bytes -= len(data)
        self._stream.credit()
        if is_last:
            self._answer()

    def _answer(self) -> None:
        if self._lacking_bytes:
            self._stream.reset(ErrorCode.PROTOCOL_ERROR)
            return
        self._stream.send_headers(b"\x88")
        self._stream.send_data(b"hello")
        self._stream.finish()

    def abort(self, code: ErrorCode) -> None:
        pass


def accept(stream: Stream, head: RequestHead) -> Page | None:
    if head.is_malformed:
        stream.reset(ErrorCode.PROTOCOL_ERROR)
        return None
    return Page(stream, head)


async def test_h2spec_finds_the_deviations_that_are_known_and_no_other(tmp_path: Path) -> None:
    h2spec, report, limits = program("h2spec"), tmp_path / "report.xml", Limits()

    def make(wake: Callable[[], None]) -> Connection[RequestHead]:
        decoder = HeaderDecoder(read_as_call, max_list_bytes=limits.header_list_bytes)
        return Connection(decoder, accept, limits, clock=time.monotonic, wake=wake)

    listener = Http2Listener(make, limits)
    port = await listener.start("127.0.0.1", 0)
    try:
        await run(h2spec, "--strict", "-h", "127.0.0.1", "-p", str(port), "-j", report)
    finally:
        listener.stop()
    cases = list(ElementTree.parse(report).iter("testcase"))
    failed = {case.attrib["classname"] for case in cases if case.find("error") is not None}
    assert len(cases) >= 140
    assert failed == DEVIATIONS
